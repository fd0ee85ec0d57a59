//! One conversation in a sidecar: stored as a tenant's memory, then asked.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::message::{AcknowledgmentBatch, ContextResponse, ReEmbeddingState, Stats};
use context_manager_tests::{client::Client, sidecar::Sidecar};
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    Args, Store,
    dataset::{Conversation, Question, Session, Turn},
    measure::{BUDGETS, Measures},
};

/// How many contexts of a ranking are looked at; the largest place that counts is 20.
const RANKED: usize = 100;
/// More than any conversation has.
const UNBOUNDED: i64 = 1_000_000;
/// Turns of one request: far below what the protocol takes, so that a slow embeddings endpoint has time for each.
const BATCH: usize = 16;
/// How long contexts may take to get vectors that an endpoint was too slow to give at once.
const VECTORS: Duration = Duration::from_mins(15);
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

/// A question's ranking; empty for a question that cannot be asked.
#[derive(Default)]
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
            for batch in session.turns.chunks(BATCH) {
                let contexts: Vec<Value> = batch.iter().map(|turn| message(session, turn)).collect();
                let answer = client.post("/v1/contexts/batch", &json!({"contexts": contexts})).await?;
                ensure!(
                    answer.status == 201,
                    "{} was refused with status {}: {}",
                    session.name,
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
                let stored: AcknowledgmentBatch = answer.message()?;
                let ids = stored.acknowledgments.iter().map(|acknowledgment| acknowledgment.id);
                turns.extend(ids.zip(batch.iter().map(|turn| turn.dia_id.clone())));
            }
        }
        wait_for_vectors(&client).await?;
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
    /// Asks for the ranking first, then within each budget; by then the query's embedding is in the sidecar's cache. Only what has
    /// evidence is measured.
    pub async fn question(&self, question: &Question, measures: &mut Measures) -> Result<Answer> {
        if question.text.is_empty() {
            return Ok(Answer::default());
        }
        let all = self.search(&question.text, UNBOUNDED).await?;
        if !all.degraded.is_empty() {
            *measures.degraded.entry(all.degraded.join(" and ")).or_default() += 1;
        }
        let ranked = self.turns(&all, measures);
        if !question.evidence.is_empty() {
            measures.rank(&ranked, &question.evidence, question.category);
            for (place, budget) in BUDGETS.into_iter().enumerate() {
                let since = Instant::now();
                let answer = self.search(&question.text, budget).await?;
                let took = since.elapsed();
                ensure!(answer.tokens_used <= answer.token_budget, "the answer is over its budget");
                let returned = self.turns(&answer, measures);
                measures.budgeted(place, &returned, &question.evidence, took);
            }
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

/// A turn as the protocol's `ContextStore`.
fn message(session: &Session, turn: &Turn) -> Value {
    let mut message = Map::from_iter([
        ("text".to_owned(), json!(turn.words)),
        ("level".to_owned(), json!("long_term")),
        ("session".to_owned(), json!(session.name)),
    ]);
    message.extend(turn.speaker.as_ref().map(|speaker| ("actor".to_owned(), json!(speaker))));
    message.extend(session.at.map(|at| ("occurred_at".to_owned(), json!(at))));
    Value::Object(message)
}

/// An endpoint that was slow or failed leaves contexts without vectors, which the sidecar adds in the background; figures that were
/// taken before would be those of something else.
async fn wait_for_vectors(client: &Client) -> Result<()> {
    let since = Instant::now();
    loop {
        let stats: Stats = client.get("/v1/contexts/stats").await?.message()?;
        let Some(missing) = stats.re_embedding else { return Ok(()) };
        if missing.state == ReEmbeddingState::Complete {
            ensure!(missing.refused == 0, "the embeddings endpoint refuses the texts of {} turns", missing.refused);
            return Ok(());
        }
        ensure!(since.elapsed() < VECTORS, "the embeddings endpoint gave vectors for {missing:?} within {VECTORS:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn config(args: &Args, place: &Place<'_>, url: Option<&str>) -> String {
    let embedding = url.map_or_else(String::new, |url| {
        // The cache keeps query embeddings apart from the latency of the endpoint.
        format!(
            "provider = \"open_ai\"\nurl = {url:?}\nmodel = {:?}\ntimeout = \"15s\"\n[embedding.retry]\nmax_attempts = 2\ninitial_delay = \"10ms\"\n",
            args.embedding_model
        )
    });
    let store = match (args.store, &args.qdrant_url) {
        (Store::Qdrant, Some(url)) => format!("[store.qdrant]\nurl = {url:?}\ncollection = {:?}\n", place.collection),
        (Store::Embedded | Store::Qdrant, _) => String::new(),
    };
    format!("{store}[embedding]\ndimensions = {}\n{embedding}[log]\nlevel = \"warn\"\n", args.dimensions)
}
