//! The program: a server on a port until SIGTERM, so that a suite can kill, stop and restart it like a real one.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use context_manager_test_qdrant::Server;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// A server with Qdrant's gRPC protocol.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:6334")]
    listen: SocketAddr,
    /// Where the collections lie.
    #[arg(long)]
    directory: PathBuf,
    /// What callers must send as `api-key`; anybody may call without it.
    #[arg(long)]
    api_key: Option<String>,
    /// Whether tokens that are signed with the API key count too.
    #[arg(long, requires = "api_key")]
    jwt_rbac: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Args { listen, directory, api_key, jwt_rbac } = Args::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let server = Server::open(directory)?;
    let server = match api_key {
        Some(key) => server.with_api_key(key),
        None => server,
    };
    let server = if jwt_rbac { server.with_jwt_rbac() } else { server };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    server.serve(listener, async move { terminated.recv().await.unwrap_or_default() }).await
}
