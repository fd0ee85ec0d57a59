//! One conversation in a sidecar: stored as a tenant's memory, then asked.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::message::{AcknowledgmentBatch, ContextResponse};
use context_manager_tests::{client::Client, sidecar::Sidecar};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Args, Store,
    dataset::{Conversation, Question},
    measure::{BUDGETS, Measures},
};

/// How many contexts of a ranking are looked at; the largest place that counts is 20.
const RANKED: usize = 100;
/// More than any conversation has.
const UNBOUNDED: i64 = 1_000_000;
/// A sidecar ends well within this.
const END: Duration = Duration::from_secs(30);
/// Nothing listens here: connections are refused.
const REFUSED: &str = "http://127.0.0.1:9/v1/embeddings";

/// Where all conversations of a run lie.
pub struct Place<'a> {
    pub folder: &'a Path,
    pub collection: &'a str,
}

/// A stored conversation.
pub struct Subject {
    pub conversation: Conversation,
    tenant: String,
    /// Which turn a context is.
    turns: HashMap<Uuid, String>,
}

/// A sidecar that answers questions about it.
pub struct Asking<'a> {
    subject: &'a Subject,
    /// It is killed when dropped.
    _sidecar: Sidecar,
    client: Client,
}

/// A question's ranking.
pub struct Answer {
    pub ranked: Vec<String>,
    pub scores: Vec<f64>,
    pub tokens: usize,
}

impl Subject {
    /// Stores a conversation through the protocol, session by session.
    pub async fn store(args: &Args, place: &Place<'_>, number: usize, conversation: Conversation) -> Result<Self> {
        let tenant = format!("conversation-{number}");
        let mut sidecar =
            Sidecar::start_as(&tenant, place.folder, &config(args, place, args.embedding_url.as_deref())).await?;
        let client = sidecar.client()?;
        let mut turns = HashMap::new();
        for session in &conversation.sessions {
            let context = |turn: &crate::dataset::Turn| {
                json!({
                    "text": turn.words(),
                    "level": "long_term",
                    "session": session.name,
                    "actor": turn.speaker,
                    "occurred_at": session.at,
                })
            };
            let contexts: Vec<Value> = session.turns.iter().map(context).collect();
            if contexts.is_empty() {
                continue;
            }
            let answer = client.post("/v1/contexts/batch", &json!({"contexts": contexts})).await?;
            ensure!(answer.status == 201, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
            let stored: AcknowledgmentBatch = answer.message()?;
            let ids = stored.acknowledgments.iter().map(|acknowledgment| acknowledgment.id);
            turns.extend(ids.zip(session.turns.iter().map(|turn| turn.dia_id.clone())));
        }
        sidecar.signal(Signal::SIGTERM)?;
        let code = sidecar.wait(END).await?;
        ensure!(code == Some(0), "the sidecar ended with {code:?}: {}", sidecar.log()?);
        Ok(Self { conversation, tenant, turns })
    }

    /// Starts a sidecar that has the conversations of all tenants in its collection and answers as this one's.
    pub async fn ask(&self, args: &Args, place: &Place<'_>) -> Result<Asking<'_>> {
        let url = if args.degraded { Some(REFUSED) } else { args.embedding_url.as_deref() };
        let sidecar = Sidecar::start_as(&self.tenant, place.folder, &config(args, place, url)).await?;
        Ok(Asking { subject: self, client: sidecar.client()?, _sidecar: sidecar })
    }
}

impl Asking<'_> {
    /// Asks for the ranking first, then within each budget; by then the query's embedding is in the sidecar's cache.
    pub async fn question(&self, question: &Question, measures: &mut Measures) -> Result<Answer> {
        let all = self.search(&question.text, UNBOUNDED).await?;
        measures.degraded += usize::from(!all.degraded.is_empty());
        let ranked = self.turns(&all, measures);
        measures.rank(&ranked, &question.evidence);
        for (place, budget) in BUDGETS.into_iter().enumerate() {
            let since = Instant::now();
            let answer = self.search(&question.text, budget).await?;
            let took = since.elapsed();
            ensure!(answer.tokens_used <= answer.token_budget, "the answer is over its budget");
            let returned = self.turns(&answer, measures);
            measures.budgeted(place, &returned, &question.evidence, took);
        }
        Ok(Answer {
            ranked: ranked.into_iter().map(str::to_owned).collect(),
            scores: all.contexts.iter().map(|context| context.score).collect(),
            tokens: all.tokens_used,
        })
    }

    async fn search(&self, query: &str, budget: i64) -> Result<ContextResponse> {
        let request = json!({"query": query, "token_budget": budget, "limit": RANKED});
        let answer = self.client.post("/v1/contexts/search", &request).await?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        answer.message().context("the answer to a search")
    }

    /// The turns of an answer; those of other conversations are counted.
    fn turns(&self, answer: &ContextResponse, measures: &mut Measures) -> Vec<&str> {
        let turn = |id: &Uuid| self.subject.turns.get(id).map(String::as_str);
        let turns: Vec<Option<&str>> = answer.contexts.iter().map(|context| turn(&context.context.id)).collect();
        measures.foreign += turns.iter().filter(|turn| turn.is_none()).count();
        turns.into_iter().map(|turn| turn.unwrap_or("of another conversation")).collect()
    }
}

fn config(args: &Args, place: &Place<'_>, url: Option<&str>) -> String {
    let embedding = url.map_or_else(String::new, |url| {
        // The cache keeps query embeddings apart from the latency of the endpoint.
        format!(
            "provider = \"open_ai\"\nurl = {url:?}\nmodel = {:?}\n[embedding.retry]\nmax_attempts = 2\ninitial_delay = \"10ms\"\n",
            args.embedding_model
        )
    });
    let store = match (args.store, &args.qdrant_url) {
        (Store::Qdrant, Some(url)) => format!("[store.qdrant]\nurl = {url:?}\ncollection = {:?}\n", place.collection),
        (Store::Embedded | Store::Qdrant, _) => String::new(),
    };
    format!("{store}[embedding]\ndimensions = {}\n{embedding}[log]\nlevel = \"warn\"\n", args.dimensions)
}
