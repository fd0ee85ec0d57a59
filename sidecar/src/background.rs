//! The loops beside the requests: garbage collection, and what the engine wants to do regularly.
//!
//! Each runs until it is cancelled and stops at once then: what it interrupts is done again after the next start.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::{
    engine::{self, Engine},
    layers::Clock,
    live::Live,
    metrics::{Metrics, Outcome},
    nonces::NonceStore,
    refusal::chain,
    telemetry::{self, Work},
};

/// The interval varies by this share either way, so that sidecars that started together do not work together.
const JITTER: f64 = 0.1;
/// Time between two turns of the engine's regular work.
const TICK: Duration = Duration::from_secs(5);
/// Time between two looks for contexts that lack vectors, if nothing says that there are some.
const LOOK: Duration = Duration::from_mins(1);

/// Longest rest between two batches of garbage collection.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// What a run of garbage collection did.
enum Collected {
    /// Nothing, and so many contexts are expired.
    Counted(usize),
    /// So many contexts were deleted.
    Deleted(usize),
}

/// Deletes expired contexts, and forgets nonces that nobody asks for any more.
pub struct GarbageCollection {
    /// Whose contexts.
    pub engine: Engine,
    /// How often, and how many at once.
    pub live: Arc<Live>,
    /// Where runs are counted.
    pub metrics: Arc<Metrics>,
    /// Whose nonces.
    pub nonces: Arc<NonceStore>,
    /// The time.
    pub clock: Clock,
}

impl GarbageCollection {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let run = async {
            loop {
                sleep(jittered(self.live.config().gc.interval.get(), rand::random())).await;
                self.collect().await;
            }
        };
        stop.run_until_cancelled(run).await;
    }

    async fn collect(&self) {
        let since = Instant::now();
        let span = telemetry::background(Work::CollectGarbage);
        let outcome = match telemetry::watched(&span, self.collect_or_count(), engine::Error::kind).await {
            Ok(Collected::Counted(expired)) => {
                info!(expired, "Garbage collection is a dry run; without it these contexts would be deleted");
                Outcome::Ok
            }
            Ok(Collected::Deleted(deleted)) => {
                debug!(deleted, duration_ms = since.elapsed().as_secs_f64() * 1_000.0, "Collected garbage");
                Outcome::Ok
            }
            Err(error) => {
                error!(error = chain(&error), "Garbage collection failed; it is tried again at the next interval");
                Outcome::Error
            }
        };
        self.metrics.gc.runs.add(outcome, 1);
        self.metrics.gc.duration.observe(since.elapsed().as_secs_f64());
        self.nonces.forget((self.clock)(), self.live.config().protocol.timestamp_window.get().as_secs());
        self.metrics.auth.nonces.set(i64::try_from(self.nonces.len()).unwrap_or(i64::MAX));
    }

    async fn collect_or_count(&self) -> Result<Collected, engine::Error> {
        let backlog = self.engine.count_garbage().await?;
        self.show_backlog(backlog);
        if self.live.config().gc.dry_run {
            return Ok(Collected::Counted(backlog));
        }
        Ok(Collected::Deleted(self.collect_batches(backlog).await?))
    }

    /// Bounded batches until one is not full, so that a backlog of any size is worked off. After each there is a rest, about as
    /// long as the batch took, so that at most half of the store's time goes into it, whatever the store can do.
    async fn collect_batches(&self, backlog: usize) -> Result<usize, engine::Error> {
        let mut deleted = 0;
        loop {
            let (batch_size, since) = (self.live.config().gc.batch_size, Instant::now());
            let batch = self.engine.collect_garbage(batch_size).await?;
            self.metrics.gc.deleted.inc_by(batch as u64);
            deleted += batch;
            if batch < batch_size {
                self.show_backlog(0);
                return Ok(deleted);
            }
            self.show_backlog(backlog.saturating_sub(deleted));
            sleep(jittered(since.elapsed().min(LONGEST_REST), rand::random())).await;
        }
    }

    fn show_backlog(&self, contexts: usize) {
        self.metrics.gc.backlog.set(i64::try_from(contexts).unwrap_or(i64::MAX));
    }
}

/// Lets the engine do its regular work, such as writing collected access counts, until `stop`.
pub async fn tick(engine: Engine, stop: CancellationToken) {
    let run = async {
        loop {
            sleep(TICK).await;
            let span = telemetry::background(Work::Upkeep);
            if let Err(error) = telemetry::watched(&span, engine.tick(), engine::Error::kind).await {
                error!(error = chain(&error), "The engine's regular work failed; it is tried again");
            }
        }
    };
    stop.run_until_cancelled(run).await;
}

/// Gives contexts vectors that they lack, at the configured rate, until `stop`. Looks every now and then by itself, because another
/// sidecar may have stored contexts with another model's vectors.
pub async fn re_embed(engine: Engine, stop: CancellationToken) {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(30))
        .with_jitter()
        .without_max_times();
    let run = async {
        loop {
            let mut delays = backoff.build();
            loop {
                let span = telemetry::background(Work::ReEmbed);
                match telemetry::watched(&span, engine.embed_missing(), engine::Error::kind).await {
                    Ok(Some(pause)) => {
                        delays = backoff.build();
                        sleep(jittered(pause, rand::random())).await;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        debug!(error = chain(&error), "Contexts still lack vectors; it is tried again");
                        sleep(delays.next().unwrap_or(LOOK)).await;
                    }
                }
            }
            // Whether something was said or the time is up, the store knows what is missing.
            let _ = timeout(jittered(LOOK, rand::random()), engine.vectors_are_missing()).await;
        }
    };
    stop.run_until_cancelled(run).await;
}

/// Brings journaled writes to the store as soon as it takes them, until `stop`.
pub async fn drain(engine: Engine, stop: CancellationToken) {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times();
    let run = async {
        loop {
            engine.journaled().await;
            let mut delays = backoff.build();
            while let Err(error) = drain_all(&engine).await {
                debug!(error = chain(&error), "Journaled writes still wait for the store");
                sleep(delays.next().unwrap_or(TICK)).await;
            }
        }
    };
    stop.run_until_cancelled(run).await;
}

async fn drain_all(engine: &Engine) -> Result<(), engine::Error> {
    while telemetry::watched(&telemetry::background(Work::DrainJournal), engine.drain(), engine::Error::kind).await? {}
    Ok(())
}

/// `interval`, varied by a random number from 0 to 1.
fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_interval_varies_by_at_most_a_tenth(seconds in 1..86_400_u64, random in 0.0..1.0_f64) {
            let interval = Duration::from_secs(seconds);
            let varied = jittered(interval, random);
            prop_assert!(varied >= interval.mul_f64(0.899) && varied <= interval.mul_f64(1.101), "{varied:?}");
        }
    }
}
