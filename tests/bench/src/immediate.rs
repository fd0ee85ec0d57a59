//! A hit in L1: a search of the last contexts of a session, which the sidecar has in memory.

use std::sync::Arc;

use anyhow::{Result, ensure};
use context_manager_tests::sidecar::Sidecar;
use serde_json::{Value, json};

use crate::{
    corpus::Corpus,
    figure::Figures,
    retrieval::post,
    turns::{self, Call},
};

/// Contexts of the session: as many as L1 keeps by default.
const CONTEXTS: usize = 10;
const ROUNDS: usize = 2_000;
/// What half of the hits may take, in milliseconds.
const MOST: f64 = 0.2;

pub async fn measure(figures: &mut Figures, sidecar: &Sidecar, corpus: &mut Corpus) -> Result<()> {
    let client = sidecar.client()?;
    for _ in 0..CONTEXTS {
        let context = json!({"text": corpus.text(), "level": "immediate", "session": "now"});
        let answer = client.post("/v1/contexts", &context).await?;
        ensure!(answer.status == 201, "status {}", answer.status);
    }
    let request = |query: String| json!({"query": query, "levels": ["immediate"], "session": "now"});
    let messages: Arc<Vec<Value>> = Arc::new((0..turns::numbers(1, ROUNDS)).map(|_| request(corpus.query())).collect());
    let probe: Arc<Vec<Value>> = Arc::new(vec![json!({}); turns::numbers(1, ROUNDS)]);
    let calls: [Call; 2] = [
        post(client.clone(), "/v1/contexts/search", 200, messages),
        // The same way without a memory: what HTTP and signing take alone.
        post(client, "/v1/nothing", 404, probe),
    ];
    let measured = turns::measure(&calls, 1, ROUNDS).await?;
    figures.at_most("hit in L1, end to end, p50", measured[0].at(0.5), "ms", MOST);
    figures.add("hit in L1, end to end, p99", measured[0].at(0.99), "ms");
    figures.add("signed request to a missing route, end to end, p50", measured[1].at(0.5), "ms");
    Ok(())
}
