//! An agent that stores, changes, prolongs, supersedes, deletes and imports, keeps a ledger of what was acknowledged, and sends again what was
//! not answered, and at times what was.
//!
//! What an end of the sidecar interrupts may have happened or not. The agent then does what docs/protocol.md says: a store is sent again
//! under its key or its id, a change with the version it expects, or without one as it was, a deletion as it was. After that the ledger is exact,
//! but for the versions of what was changed without naming one: each sending makes at most one.
//!
//! Another sidecar of the same agent may write beside it, to the same contexts and sessions. What it does not answer is not sent again, so that
//! the agent goes on while it is away, and may be there or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{client::Client, tally::drained};

mod choice;
mod comparison;
mod entry;
mod operation;

use entry::Entry;
use operation::Operation;

/// Before an operation that was not answered is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two operations of an agent that goes on during a fault, so that a journal can be drained meanwhile.
const THOUGHT: Duration = Duration::from_millis(20);

/// The agent.
pub struct Agent {
    name: String,
    step: u64,
    random: u64,
    /// Another sidecar of the same agent.
    elsewhere: Option<Client>,
    entries: BTreeMap<Uuid, Entry>,
    gone: Vec<Uuid>,
    /// What the other sidecar did not answer.
    maybe: BTreeSet<Uuid>,
    /// What was changed last while the store was away, or its answer was lost.
    waiting: Option<Uuid>,
    /// What was stored again last, which goes next.
    again: Option<Uuid>,
    /// The id that is stored again when its context has expired.
    reused: Uuid,
    unanswered: Option<Operation>,
    /// What happened so far.
    pub count: Count,
}

/// What happened to operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Answered as done.
    pub acknowledged: usize,
    /// Not answered, or refused for now.
    pub failed: usize,
    /// Sent again and done then.
    pub repeated: usize,
}

/// What is not as the ledger says.
#[derive(Debug, Default)]
pub struct Differences {
    /// Contexts that should be there, and are not, or not as they were acknowledged.
    pub lost: Vec<String>,
    /// Contexts that should not be there: a second time, or again.
    pub doubled: Vec<String>,
}

/// What a comparison of several agents came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What happened to their operations.
    pub count: Count,
    /// Contexts that were there as the ledgers say.
    pub living: usize,
    /// What is not as the ledgers say.
    pub differences: Differences,
}

impl Verdict {
    /// Says it, and fails when anything is lost or doubled.
    ///
    /// # Errors
    /// Then.
    pub fn check(&self, fault: &str) -> Result<()> {
        let Self { count, living, differences: Differences { lost, doubled } } = self;
        let (some_lost, some_doubled) = (lost.len(), doubled.len());
        println!("{fault}: {count}; {living} contexts compared, {some_lost} lost, {some_doubled} doubled");
        ensure!(lost.is_empty() && doubled.is_empty(), "{fault}: {:?}", self.differences);
        Ok(())
    }
}

/// Lets every agent send again what was not answered, waits until the journal is drained, and compares all.
///
/// # Errors
/// When that takes longer than `patience`, or an answer is none that the ledger explains.
pub async fn settle(agents: &mut [Agent], client: &Client, patience: Duration) -> Result<Verdict> {
    for agent in agents.iter_mut() {
        let started = Instant::now();
        while !agent.repeat(client).await? {
            ensure!(started.elapsed() < patience, "{:?} is not done after {patience:?}", agent.unanswered);
            tokio::time::sleep(PAUSE).await;
        }
    }
    drained(client, patience).await?;
    for other in agents.iter().filter_map(|agent| agent.elsewhere.as_ref()) {
        drained(other, patience).await?;
    }
    let mut verdict = Verdict::default();
    for agent in agents.iter() {
        let Differences { lost, doubled } = agent.compare(client).await?;
        verdict.differences.lost.extend(lost);
        verdict.differences.doubled.extend(doubled);
        verdict.count.add(agent.count);
        verdict.living += agent.living();
    }
    Ok(verdict)
}

/// Agents at work, until they are told to stop.
pub struct Work {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Agent>>,
}

impl Work {
    /// Lets so many agents begin, each perhaps with another sidecar that it uses beside.
    #[must_use]
    pub fn begin(name: &str, count: u64, client: &Client, elsewhere: Option<&Client>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for seed in 1..=count {
            let (mut agent, client) = (Agent::new(&format!("{name}-{seed}"), seed), client.clone());
            agent.elsewhere = elsewhere.cloned();
            let stop = Arc::clone(&stop);
            tasks.spawn(async move { agent.work_until(&client, &stop).await.map(|()| agent) });
        }
        Self { stop, tasks }
    }

    /// Stops them, and [settles](settle).
    ///
    /// # Errors
    /// As there.
    pub async fn end(mut self, client: &Client, patience: Duration) -> Result<Verdict> {
        self.stop.store(true, Ordering::Release);
        let mut agents = Vec::new();
        while let Some(agent) = self.tasks.join_next().await {
            agents.push(agent??);
        }
        settle(&mut agents, client, patience).await
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, failed, repeated } = self;
        write!(f, "{acknowledged} operations acknowledged, {failed} failed, of these {repeated} sent again and done")
    }
}

impl Count {
    /// Adds another one's.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.repeated += other.repeated;
    }
}

impl Agent {
    /// An agent whose contexts have sessions of its own, the first of them called like it; the seed decides what it does.
    #[must_use]
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            step: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            elsewhere: None,
            entries: BTreeMap::new(),
            gone: Vec::new(),
            maybe: BTreeSet::new(),
            waiting: None,
            again: None,
            reused: Uuid::now_v7(),
            unanswered: None,
            count: Count::default(),
        }
    }

    /// Works until an operation is not answered.
    ///
    /// # Errors
    /// When an answer is none that the ledger explains.
    pub async fn work(&mut self, client: &Client) -> Result<()> {
        loop {
            let operation = self.choose();
            if !self.perform(client, &operation).await? {
                self.count.failed += 1;
                self.unanswered = Some(operation);
                return Ok(());
            }
            self.count.acknowledged += 1;
        }
    }

    /// Works until it is told to stop, and sends each operation again until it is answered.
    async fn work_until(&mut self, client: &Client, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Acquire) {
            if !self.repeat(client).await? {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let operation = self.choose();
            if self.perform(client, &operation).await? {
                self.count.acknowledged += 1;
            } else {
                self.count.failed += 1;
                self.unanswered = Some(operation);
            }
            tokio::time::sleep(THOUGHT).await;
        }
        Ok(())
    }

    /// Sends again what was not answered; says whether there is nothing left of it.
    ///
    /// # Errors
    /// When an answer is none that the ledger explains.
    pub async fn repeat(&mut self, client: &Client) -> Result<bool> {
        let Some(operation) = self.unanswered.clone() else { return Ok(true) };
        if operation.is_sent_once() {
            self.unanswered = None;
            return Ok(true);
        }
        let done = self.perform(client, &operation).await.with_context(|| format!("sent again: {operation:?}"))?;
        if done {
            self.unanswered = None;
            self.count.repeated += 1;
        }
        Ok(done)
    }

    fn forget(&mut self, id: Uuid) {
        self.entries.remove(&id);
        self.gone.push(id);
    }

    /// How many contexts should be listed.
    #[must_use]
    pub fn living(&self) -> usize {
        let now = now();
        self.entries.values().filter(|entry| !entry.superseded && !entry.has_expired(now)).count()
    }
}

/// The time in milliseconds, by the clock that the sidecars of this machine read.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
