//! Contexts, points and stores for tests.

use std::path::Path;

use context_manager_embedded::{OpenOptions, Shard};
use context_manager_memory::store::{Owner, Point};
use context_manager_memory::{
    AgentId, Context, ContextId, Level, QueryVectors, SessionId, TenantId, Timestamp, builtin,
    index_text::index_texts,
    lexical::{self, Bm25},
};

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub const DIMENSIONS: usize = 64;

pub fn options(path: &Path) -> OpenOptions {
    OpenOptions::new(path, DIMENSIONS, "builtin-hash-1")
}

/// A store of its own; the directory goes when it is dropped.
pub fn store() -> (tempfile::TempDir, Shard) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shard = Shard::open(options(directory.path())).expect("a new store");
    (directory, shard)
}

pub fn owner(tenant: &str, agent: &str) -> Owner {
    Owner::new(TenantId::new(tenant).expect("a tenant"), AgentId::new(agent).expect("an agent"))
}

pub fn me() -> Owner {
    owner("team-a", "support")
}

pub fn id(number: u128) -> ContextId {
    ContextId::new(uuid::Uuid::from_u128(number))
}

pub fn context_of(owner: &Owner, number: u128, text: &str) -> Context {
    Context::new(id(number), owner.tenant.clone(), owner.holder.clone(), Level::LongTerm, text, NOW)
}

pub fn context(number: u128, text: &str) -> Context {
    context_of(&me(), number, text)
}

pub fn in_session(number: u128, session: &str, sequence: i64) -> Context {
    let session = SessionId::new(session).ok();
    Context { session, sequence, ..context(number, &format!("turn {sequence} of {number}")) }
}

/// A context with all four vectors.
pub fn point(context: Context) -> Point {
    let texts = index_texts(&context, None);
    let vectors = texts.vectors(&Bm25::default(), Some(texts.builtin(DIMENSIONS)));
    Point { context, vectors }
}

/// A context that was stored while the embedding was down.
pub fn lexical_point(context: Context) -> Point {
    let vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
    Point { context, vectors }
}

pub fn put(shard: &Shard, contexts: impl IntoIterator<Item = Context>) {
    let points: Vec<Point> = contexts.into_iter().map(point).collect();
    shard.upsert(&points).expect("stored contexts");
}

pub fn query(text: &str) -> QueryVectors {
    QueryVectors { dense: Some(builtin::embed(text, DIMENSIONS)), sparse: Some(lexical::query(text)) }
}

pub fn numbers<'a>(contexts: impl IntoIterator<Item = &'a Context>) -> Vec<u128> {
    contexts.into_iter().map(|context| context.id.as_uuid().as_u128()).collect()
}
