//! The way of a finished span to the collector: a bounded queue, batches, a few attempts, and then it is dropped.
//!
//! # Invariants
//! Whoever ends a span never waits: a full queue drops it. At most one export is under way, so what a collector that is slow or away
//! costs is the queue's memory and nothing else. Each span is either taken by a collector or counted as dropped. An outage is one
//! line of the log at its beginning and one at its end.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use context_manager_protocol::config;
use prost::Message as _;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    collector::{Collector, Error},
    otlp::{self, Resource},
    sampling::Sampling,
    tracer::Recording,
};
use crate::{
    identity::Identity,
    metrics::{Outcome, SpanDrop, Traces},
    ports::Retry,
    refusal::chain,
};

/// Most spans of one export.
const BATCH: usize = 512;
/// Longest time that a span waits for others to be exported with.
const INTERVAL: Duration = Duration::from_secs(1);
/// Attempts after the first one of an export.
const RETRIES: usize = 2;
/// Longest pause that a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An export that runs.
#[derive(Debug)]
pub(super) struct Pipeline {
    made_by: config::Tracing,
    queue: mpsc::Sender<Recording>,
    stop: CancellationToken,
    worker: Mutex<Option<JoinHandle<()>>>,
    metrics: Traces,
}

impl Pipeline {
    pub(super) fn start(endpoint: &str, config: &config::Tracing, identity: &Identity, metrics: Traces) -> Self {
        let (queue, received) = mpsc::channel(config.queue);
        let stop = CancellationToken::new();
        let worker = Worker {
            queue: received,
            collector: Collector::new(endpoint, config),
            resource: resource(identity),
            metrics: metrics.clone(),
            stop: stop.clone(),
            is_failing: false,
        };
        let worker = Mutex::new(Some(tokio::spawn(worker.run())));
        Self { made_by: config.clone(), queue, stop, worker, metrics }
    }

    pub(super) fn is_made_by(&self, config: &config::Tracing) -> bool {
        self.made_by == *config
    }

    pub(super) const fn sampling(&self) -> Sampling {
        Sampling { requests: self.made_by.sampling, background: self.made_by.background_sampling }
    }

    /// Takes a finished span. Never waits.
    pub(super) fn offer(&self, recording: Recording) {
        match self.queue.try_send(recording) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.dropped.add(SpanDrop::QueueFull, 1),
            Err(TrySendError::Closed(_)) => self.metrics.dropped.add(SpanDrop::Stopped, 1),
        }
    }

    /// Takes no more, and sends what is there.
    pub(super) fn finish(&self) {
        self.stop.cancel();
    }

    /// The same; returns when it is sent or given up.
    pub(super) async fn ended(&self) {
        self.finish();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // A worker that panicked has ended as well.
            let _ = worker.await;
        }
    }
}

fn resource(identity: &Identity) -> Resource {
    let Identity { tenant, agent, pod } = identity;
    Resource::new([
        ("service.name", "context-manager-sidecar".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", pod.clone()),
        ("context_manager.tenant", tenant.to_string()),
        ("context_manager.agent", agent.to_string()),
    ])
}

struct Worker {
    queue: mpsc::Receiver<Recording>,
    collector: Collector,
    resource: Resource,
    metrics: Traces,
    stop: CancellationToken,
    is_failing: bool,
}

impl Worker {
    async fn run(mut self) {
        let mut batch = Vec::new();
        while self.fill(&mut batch).await {
            self.export(&mut batch).await;
        }
        self.queue.close();
        loop {
            while batch.len() < BATCH
                && let Ok(recording) = self.queue.try_recv()
            {
                batch.push(recording);
            }
            if batch.is_empty() {
                return;
            }
            self.export(&mut batch).await;
        }
    }

    /// Waits for a batch; false when no more are to be waited for.
    async fn fill(&mut self, batch: &mut Vec<Recording>) -> bool {
        let mut until = None;
        loop {
            let room = BATCH - batch.len();
            let is_due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                () = is_due => return true,
                received = self.queue.recv_many(batch, room) => {
                    if received == 0 {
                        return false;
                    }
                    if batch.len() >= BATCH {
                        return true;
                    }
                    until.get_or_insert_with(|| Instant::now() + INTERVAL);
                }
            }
        }
    }

    /// Sends a batch, or drops it.
    async fn export(&mut self, batch: &mut Vec<Recording>) {
        let body = Bytes::from(otlp::export(&self.resource, batch).encode_to_vec());
        let spans = batch.len() as u64;
        batch.clear();
        let sent = self.attempt(&body).await;
        if let Ok(rejected) = &sent {
            self.metrics.exports.add(Outcome::Ok, 1);
            let rejected = spans.min(*rejected);
            self.metrics.exported.inc_by(spans - rejected);
            self.metrics.dropped.add(SpanDrop::Rejected, rejected);
        } else {
            self.metrics.exports.add(Outcome::Error, 1);
            self.metrics.dropped.add(SpanDrop::ExportFailed, spans);
        }
        self.report(&sent);
    }

    async fn attempt(&mut self, body: &Bytes) -> Result<u64, Error> {
        let backoff = ExponentialBuilder::new().with_min_delay(Duration::from_millis(500)).with_jitter();
        let mut delays = backoff.with_max_times(RETRIES).build();
        loop {
            let error = match self.collector.send(body.clone()).await {
                Ok(rejected) => return Ok(rejected),
                Err(error) => error,
            };
            let asked = match error.retry() {
                Retry::Never => return Err(error),
                Retry::Backoff => Duration::ZERO,
                Retry::After(asked) => asked.min(LONGEST_PAUSE),
            };
            let (Some(delay), false) = (delays.next(), self.stop.is_cancelled()) else { return Err(error) };
            let delay = delay.max(asked);
            // Whoever stops wants the last attempt now.
            self.stop.run_until_cancelled(sleep(delay)).await;
        }
    }

    fn report(&mut self, sent: &Result<u64, Error>) {
        match sent {
            Err(error) if !self.is_failing => {
                warn!(
                    error = chain(error),
                    "The trace collector takes no spans; they are dropped until it does, and requests go on"
                );
            }
            Ok(_) if self.is_failing => info!("The trace collector takes spans again"),
            Ok(_) | Err(_) => {}
        }
        self.is_failing = sent.is_err();
    }
}
