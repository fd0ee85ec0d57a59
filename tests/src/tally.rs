//! Writers under faults, and the count of what became of their writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use context_manager_protocol::message::{Acknowledgment, ContextList, Stats};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::Client;

/// Between two writes of a writer, so that a journal can be drained while they go on.
const PAUSE: Duration = Duration::from_millis(10);

/// Writers that store contexts, each with a text of its own, until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Tally>>,
}

/// What became of writes.
#[derive(Debug, Default)]
pub struct Tally {
    /// Texts of acknowledged writes, with their ids.
    pub acknowledged: BTreeMap<String, Uuid>,
    /// How many of them were acknowledged from the journal.
    pub journaled: usize,
    /// Refused or unanswered writes.
    pub failed: usize,
}

/// What a sidecar shows of acknowledged writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged writes.
    pub acknowledged: usize,
    /// Of them those that went to the journal first.
    pub journaled: usize,
    /// Acknowledged writes that are not there.
    pub lost: Vec<String>,
    /// Texts that are there more than once.
    pub doubled: Vec<String>,
    /// Writes that were refused or not answered.
    pub failed: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, journaled, lost, doubled, failed } = self;
        let (lost, doubled) = (lost.len(), doubled.len());
        write!(
            f,
            "{acknowledged} acknowledged ({journaled} journaled), {lost} lost, {doubled} doubled, {failed} failed"
        )
    }
}

impl Writers {
    /// Starts `count` writers; `name` is part of their texts.
    #[must_use]
    pub fn start(name: &str, count: usize, client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..count {
            tasks.spawn(write(format!("{name}, writer {writer}"), client.clone(), Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    /// Stops them and adds up what they saw.
    ///
    /// # Errors
    /// When an answer could not be understood.
    pub async fn stop(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Release);
        let mut all = Tally::default();
        while let Some(tally) = self.tasks.join_next().await {
            all.add(tally??);
        }
        Ok(all)
    }
}

async fn write(name: String, client: Client, stop: Arc<AtomicBool>) -> Result<Tally> {
    let mut tally = Tally::default();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let text = format!("{name}, number {number}");
        let session = format!("session {}", number % 3);
        let message = json!({"text": text, "level": "long_term", "session": session});
        match client.post("/v1/contexts", &message).await {
            Ok(answer) if matches!(answer.status, 201 | 202) => {
                tally.journaled += usize::from(answer.status == 202);
                tally.acknowledged.insert(text, answer.message::<Acknowledgment>()?.id);
            }
            Ok(_) | Err(_) => tally.failed += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(tally)
}

impl Tally {
    /// Adds another one's counts.
    pub fn add(&mut self, other: Self) {
        let Self { acknowledged, journaled, failed } = other;
        self.acknowledged.extend(acknowledged);
        self.journaled += journaled;
        self.failed += failed;
    }

    /// Looks for every write in what the sidecar lists, page by page.
    ///
    /// # Errors
    /// When the sidecar does not answer.
    pub async fn verify(&self, client: &Client) -> Result<Verdict> {
        let mut seen: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
        let mut path = "/v1/contexts?limit=100".to_owned();
        loop {
            let list: ContextList = client.get(&path).await?.message()?;
            for context in list.contexts {
                seen.entry(context.text).or_default().insert(context.id);
            }
            let Some(next) = list.next else { break };
            path = format!("/v1/contexts?limit=100&cursor={next}");
        }
        let there = |(text, id): &(&String, &Uuid)| seen.get(*text).is_some_and(|ids| ids.contains(id));
        let lost = self.acknowledged.iter().filter(|write| !there(write)).map(|(text, _)| text.clone()).collect();
        let doubled = seen.iter().filter(|(_, ids)| ids.len() > 1).map(|(text, _)| text.clone()).collect();
        let (acknowledged, journaled, failed) = (self.acknowledged.len(), self.journaled, self.failed);
        Ok(Verdict { acknowledged, journaled, lost, doubled, failed })
    }
}

/// Waits until the sidecar's journal has nothing left to bring to the store. While that is away the sidecar cannot count, and says 503.
///
/// # Errors
/// When that takes longer than `patience`.
pub async fn drained(client: &Client, patience: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = client.get("/v1/contexts/stats").await?;
        if answer.status != 503 && answer.message::<Stats>()?.journaled_writes == 0 {
            return Ok(());
        }
        let last = String::from_utf8_lossy(&answer.body);
        ensure!(started.elapsed() < patience, "the journal is not drained after {patience:?}: {last}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
