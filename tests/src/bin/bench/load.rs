//! Latencies of the protocol on localhost, signing and verifying included, as an agent sees them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use context_manager_tests::{client::Client, sidecar::Sidecar};
use serde_json::{Value, json};

use crate::{corpus::Corpus, figure::Figures};

const STORES: usize = 500;
const SEARCHES: usize = 400;
const BATCH: usize = 200;

/// Stores contexts in batches, unmeasured.
pub async fn fill(sidecar: &Sidecar, corpus: &mut Corpus, contexts: usize) -> Result<()> {
    let client = sidecar.client()?;
    let mut left = contexts;
    while left > 0 {
        let batch: Vec<Value> = (0..left.min(BATCH)).map(|_| corpus.context()).collect();
        left -= batch.len();
        let answer = client.post("/v1/contexts/batch", &json!({"contexts": batch})).await?;
        ensure!(answer.status == 201, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(())
}

/// Measures storing one context at a time; returns how many were added.
pub async fn store(
    figures: &mut Figures,
    sidecar: &Sidecar,
    corpus: &mut Corpus,
    contexts: usize,
    clients: usize,
) -> Result<usize> {
    let messages = (0..STORES).map(|_| corpus.context()).collect();
    let (latencies, took) = call(&sidecar.client()?, "/v1/contexts", 201, messages, clients).await?;
    figures.latencies(&name("store", contexts, clients), latencies, took);
    Ok(STORES)
}

/// Measures searching.
pub async fn search(
    figures: &mut Figures,
    sidecar: &Sidecar,
    corpus: &mut Corpus,
    contexts: usize,
    clients: usize,
) -> Result<()> {
    let messages = (0..SEARCHES).map(|_| corpus.request()).collect();
    let (latencies, took) = call(&sidecar.client()?, "/v1/contexts/search", 200, messages, clients).await?;
    figures.latencies(&name("search", contexts, clients), latencies, took);
    Ok(())
}

/// The name of a figure.
pub fn name(what: &str, contexts: usize, clients: usize) -> String {
    let clients = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    format!("{what}, {contexts} contexts, {clients}")
}

/// Sends all messages from several clients at once; every one must succeed.
async fn call(
    client: &Client,
    path: &'static str,
    expected: u16,
    messages: Vec<Value>,
    clients: usize,
) -> Result<(Vec<Duration>, Duration)> {
    let (messages, next) = (Arc::new(messages), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (client, messages, next) = (client.clone(), Arc::clone(&messages), Arc::clone(&next));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while let Some(message) = messages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let since = Instant::now();
                    let answer = client.post(path, message).await?;
                    latencies.push(since.elapsed());
                    ensure!(answer.status == expected, "status {}", answer.status);
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::with_capacity(messages.len());
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok((latencies, started.elapsed()))
}
