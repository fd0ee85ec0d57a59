//! `spec.vectorStore.qdrant` on a real API server, with a server that speaks Qdrant's protocol: what is found of it and said, what
//! sidecars get to reach it, and what becomes of the contexts.

#[path = "vector_store/ready.rs"]
mod ready;
#[path = "vector_store/reclaim.rs"]
mod reclaim;
#[path = "vector_store/server.rs"]
mod server;
#[path = "vector_store/sweep.rs"]
mod sweep;
#[path = "vector_store/tokens.rs"]
mod tokens;
