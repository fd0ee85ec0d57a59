//! Signed requests at a steady rate, each tried once: what an agent would notice of a rotation, a reload or a restart.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::client::Client;

/// Most requests in flight.
const IN_FLIGHT: usize = 64;
/// What is asked for: it needs every layer of the sidecar and little work.
const PATH: &str = "/v1/contexts/stats";

/// How many requests, and for how long.
#[derive(clap::Args)]
pub struct Args {
    /// Milliseconds between two requests
    #[arg(long, default_value_t = 1)]
    every_ms: u64,
    /// Seconds until the end; until SIGTERM without it
    #[arg(long)]
    seconds: Option<u64>,
}

/// What became of the requests.
#[derive(Default)]
struct Count {
    sent: u64,
    failed: u64,
    /// Requests that succeeded, by the id of the key that signed them.
    keys: BTreeMap<String, u64>,
    /// What the last one that failed said.
    error: Option<String>,
}

/// Sends requests until the end, and prints a line of JSON a second and a last one with `"done": true`.
pub async fn run(client: Client, args: &Args) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let client = Arc::new(client);
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut ticks = interval(Duration::from_millis(args.every_ms.max(1)));
    // A machine that cannot keep up sends what it can, and catches up for a moment's stop.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut seconds = interval(Duration::from_secs(1));
    let (mut count, mut requests) = (Count::default(), JoinSet::new());
    let started = Instant::now();
    loop {
        tokio::select! {
            biased;
            _ = terminated.recv() => break,
            _ = seconds.tick() => {
                println!("{}", count.line(started, false));
                if args.seconds.is_some_and(|end| started.elapsed().as_secs() >= end) {
                    break;
                }
            }
            Some(outcome) = requests.join_next() => count.add(outcome?),
            _ = ticks.tick() => {
                let (client, place) = (Arc::clone(&client), Arc::clone(&places).acquire_owned().await?);
                requests.spawn(async move {
                    let outcome = client.attempt(PATH).await;
                    drop(place);
                    outcome
                });
            }
        }
    }
    while let Some(outcome) = requests.join_next().await {
        count.add(outcome?);
    }
    println!("{}", count.line(started, true));
    Ok(())
}

impl Count {
    fn add(&mut self, outcome: Result<String>) {
        self.sent += 1;
        match outcome {
            Ok(key) => *self.keys.entry(key).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                self.error = Some(format!("{error:#}"));
            }
        }
    }

    fn line(&self, started: Instant, done: bool) -> String {
        let Self { sent, failed, keys, error } = self;
        json!({
            "sent": sent, "failed": failed, "keys": keys, "error": error,
            "seconds": started.elapsed().as_secs_f64(), "done": done,
        })
        .to_string()
    }
}
