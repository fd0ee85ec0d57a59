//! An agent that stores, changes, supersedes and deletes, keeps a ledger of what was acknowledged, and sends again what was not answered.
//!
//! What an end of the sidecar interrupts may have happened or not. The agent then does what docs/protocol.md says: a store is sent again
//! under its key, a change with the version it expects, a deletion as it was. After that the ledger is exact.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::{
    codec::Format,
    message::{Acknowledgment, AcknowledgmentBatch, Context, ContextList},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    client::{Answer, Client, Draft},
    tally::drained,
};

/// Contexts of a batch.
const BATCH: usize = 3;
/// Contexts that an agent keeps at least before it deletes.
const KEPT: usize = 12;
/// Before an operation that was not answered is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two operations of an agent that goes on during a fault, so that a journal can be drained meanwhile.
const THOUGHT: Duration = Duration::from_millis(20);

/// What should be so of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    text: String,
    version: i64,
    group: String,
    superseded: bool,
    /// The sidecar moves it to the next level when the session has too many, as another version.
    is_moved: bool,
}

/// An operation; sending it again leads to the same end.
#[derive(Clone, Debug)]
enum Operation {
    Store { key: String, level: &'static str, texts: Vec<String>, group: String, supersedes: Option<Uuid> },
    Update { id: Uuid, text: String, expected: i64 },
    Delete { id: Uuid },
    DeleteGroup { group: String },
}

/// The agent.
pub struct Agent {
    name: String,
    step: u64,
    random: u64,
    entries: BTreeMap<Uuid, Entry>,
    gone: Vec<Uuid>,
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
    /// Lets so many agents begin.
    #[must_use]
    pub fn begin(name: &str, count: u64, client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for seed in 1..=count {
            let (mut agent, client) = (Agent::new(&format!("{name}-{seed}"), seed), client.clone());
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
    /// An agent whose contexts have a session of its own, called like it; the seed decides what it does.
    #[must_use]
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            step: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            entries: BTreeMap::new(),
            gone: Vec::new(),
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
        let done = self.perform(client, &operation).await.with_context(|| format!("sent again: {operation:?}"))?;
        if done {
            self.unanswered = None;
            self.count.repeated += 1;
        }
        Ok(done)
    }

    fn next_random(&mut self, below: usize) -> usize {
        // Xorshift: the same work for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below.max(1) as u64).unwrap_or(0)
    }

    fn choose(&mut self) -> Operation {
        self.step += 1;
        // What the sidecar moves has a version that the ledger does not know, so it is stored, deleted and superseded, and not changed.
        let living: Vec<(Uuid, Entry)> =
            self.entries.iter().filter(|(_, e)| !e.superseded).map(|(id, e)| (*id, e.clone())).collect();
        let level = ["long_term", "short_term", "immediate"][self.next_random(3)];
        let (key, group) = (format!("{}-{}", self.name, self.step), format!("{}-{}", self.name, self.step / 5));
        let text = |number: usize| format!("{}, step {}, number {number}", self.name, self.step);
        let texts = vec![text(0)];
        let batch = (0..BATCH).map(text).collect();
        let choice = self.next_random(20);
        if living.len() < KEPT || choice < 6 {
            return Operation::Store { key, level, texts, group, supersedes: None };
        }
        let (id, entry) = living[self.next_random(living.len())].clone();
        match choice {
            6..10 => Operation::Store { key, level, texts: batch, group, supersedes: None },
            10..14 if !entry.is_moved => {
                Operation::Update { id, text: format!("{}, changed", texts[0]), expected: entry.version }
            }
            10..16 => Operation::Store { key, level, texts, group, supersedes: Some(id) },
            16..19 => Operation::Delete { id },
            _ => Operation::DeleteGroup { group: entry.group },
        }
    }

    /// Sends an operation, and notes what was acknowledged. Says whether it was answered as done.
    async fn perform(&mut self, client: &Client, operation: &Operation) -> Result<bool> {
        match operation {
            Operation::Store { key, level, texts, group, supersedes } => {
                let message = |text: &String| {
                    let supersedes: Vec<Uuid> = supersedes.iter().copied().collect();
                    json!({"text": text, "level": level, "session": self.name, "metadata": {"group": group},
                           "supersedes": supersedes})
                };
                let messages: Vec<Value> = texts.iter().map(message).collect();
                let (path, body) = match messages.as_slice() {
                    [one] => ("/v1/contexts", one.clone()),
                    _ => ("/v1/contexts/batch", json!({"contexts": messages})),
                };
                let draft =
                    Draft { idempotency_key: Some(key), ..Draft::new("POST", path, Format::Json.encode(&body)) };
                let Some(answer) = done(client.send(draft).await, &[201, 202])? else { return Ok(false) };
                let acknowledged = match texts.as_slice() {
                    [_] => vec![answer.message::<Acknowledgment>()?],
                    _ => answer.message::<AcknowledgmentBatch>()?.acknowledgments,
                };
                ensure!(acknowledged.len() == texts.len(), "{} acknowledged of {}", acknowledged.len(), texts.len());
                for (acknowledgment, text) in acknowledged.into_iter().zip(texts) {
                    let entry = Entry {
                        text: text.clone(),
                        version: 1,
                        group: group.clone(),
                        superseded: false,
                        is_moved: *level == "immediate",
                    };
                    self.entries.insert(acknowledgment.id, entry);
                }
                if let Some(entry) = supersedes.and_then(|id| self.entries.get_mut(&id)) {
                    entry.superseded = true;
                }
            }
            Operation::Update { id, text, expected } => {
                let body = Format::Json.encode(&json!({"text": text, "if_version": expected}));
                let path = format!("/v1/contexts/{id}");
                let Some(answer) = done(client.send(Draft::new("PATCH", &path, body)).await, &[200, 202, 409])? else {
                    return Ok(false);
                };
                // A conflict with oneself: the change was done, only the answer to it was lost.
                ensure!(answer.status != 409 || self.unanswered.is_some(), "somebody else changed {id}");
                let entry = self.entries.get_mut(id).context("an entry")?;
                (entry.text, entry.version) = (text.clone(), expected + 1);
            }
            Operation::Delete { id } => {
                let path = format!("/v1/contexts/{id}");
                let answer = done(client.send(Draft::new("DELETE", &path, Vec::new())).await, &[200, 202, 404])?;
                let Some(answer) = answer else { return Ok(false) };
                ensure!(answer.status != 404 || self.unanswered.is_some(), "{id} was gone before it was deleted");
                self.forget(*id);
            }
            Operation::DeleteGroup { group } => {
                let message = json!({"filter": {"group": {"eq": group}}, "session": self.name});
                let answer = client.post("/v1/contexts/delete", &message).await;
                if done(answer, &[200, 202])?.is_none() {
                    return Ok(false);
                }
                let of_group = |(_, entry): &(&Uuid, &Entry)| entry.group == *group && !entry.superseded;
                let ids: Vec<Uuid> = self.entries.iter().filter(of_group).map(|(id, _)| *id).collect();
                for id in ids {
                    self.forget(id);
                }
            }
        }
        Ok(true)
    }

    fn forget(&mut self, id: Uuid) {
        self.entries.remove(&id);
        self.gone.push(id);
    }

    /// Compares all that the sidecar lists of the agent's session with the ledger.
    ///
    /// # Errors
    /// When the sidecar does not answer.
    pub async fn compare(&self, client: &Client) -> Result<Differences> {
        ensure!(self.unanswered.is_none(), "{:?} is open", self.unanswered);
        let mut listed: BTreeMap<Uuid, Context> = BTreeMap::new();
        let session = &self.name;
        let mut path = format!("/v1/contexts?limit=100&session={session}");
        let mut differences = Differences::default();
        loop {
            let list: ContextList = client.get(&path).await?.message()?;
            for context in list.contexts {
                if let Some(twice) = listed.insert(context.id, context) {
                    differences.doubled.push(format!("{} is listed twice", twice.id));
                }
            }
            let Some(next) = list.next else { break };
            path = format!("/v1/contexts?limit=100&session={session}&cursor={next}");
        }
        for (id, entry) in &self.entries {
            match listed.remove(id) {
                Some(_) if entry.superseded => differences.doubled.push(format!("{id} is superseded and listed")),
                None if entry.superseded => {}
                Some(found) if found.text == entry.text && (found.version == entry.version || entry.is_moved) => {}
                Some(found) => differences
                    .lost
                    .push(format!("{id} is {:?} in version {}, not {entry:?}", found.text, found.version)),
                None => differences.lost.push(format!("{id} {entry:?}")),
            }
        }
        let again = |(id, context): (Uuid, Context)| {
            let why = if self.gone.contains(&id) { "was deleted" } else { "was never acknowledged" };
            format!("{id} {:?} {why}", context.text)
        };
        differences.doubled.extend(listed.into_iter().map(again));
        Ok(differences)
    }

    /// How many contexts should be listed.
    #[must_use]
    pub fn living(&self) -> usize {
        self.entries.values().filter(|entry| !entry.superseded).count()
    }
}

/// The answer if it has one of the statuses; none when there is no answer, or the sidecar cannot for now.
fn done(answer: Result<Answer>, expected: &[u16]) -> Result<Option<Answer>> {
    match answer {
        Ok(answer) if expected.contains(&answer.status) => Ok(Some(answer)),
        Ok(answer) if answer.status >= 500 => Ok(None),
        Ok(answer) => bail!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(_) => Ok(None),
    }
}
