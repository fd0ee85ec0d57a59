//! An example agent. It knows the sidecar's URL and the key file, and nothing else: no database, no credentials.
//!
//! `run` remembers the paragraphs of a document and answers questions from them; `ask` only answers. Storing twice is harmless: a
//! paragraph's id is made of the document's name and the paragraph's place, and the same content under the same id is no conflict.

mod client;
mod document;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use context_manager_protocol::{
    level::Level,
    message::{AcknowledgmentBatch, ContextRequest, ContextResponse, ContextStore, ContextStoreBatch, Filter, Stats},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;

/// Most contexts of one batch; each is a paragraph.
const BATCH: usize = 50;
/// How long to wait for the sidecar: it may start beside the agent when it is not a native one.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Parser)]
#[command(version, about = "An example agent: remembers a document through the sidecar and answers questions from it")]
struct Args {
    /// The sidecar's base URL
    #[arg(long, env = "CONTEXT_MANAGER_URL", default_value = "http://127.0.0.1:7419")]
    url: String,
    /// The key ring file
    #[arg(long, env = "CONTEXT_MANAGER_KEYS")]
    keys: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Remember a document, then answer the questions
    Run {
        /// The document: plain text or Markdown
        #[arg(long, env = "AGENT_DOCUMENT")]
        document: PathBuf,
        /// A question; can be given several times
        #[arg(long = "question")]
        questions: Vec<String>,
        /// Go on until SIGTERM, as a Deployment's container does
        #[arg(long)]
        stay: bool,
    },
    /// Answer questions from what is remembered
    Ask {
        /// The questions
        #[arg(required = true)]
        questions: Vec<String>,
    },
    /// Print how much is remembered
    Stats,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::new(&args.url, args.keys)?;
    client.wait_until_ready(PATIENCE).await?;
    match args.command {
        Command::Run { document, questions, stay } => {
            remember(&client, &document).await?;
            answer(&client, &questions).await?;
            if stay { until_terminated().await } else { Ok(()) }
        }
        Command::Ask { questions } => answer(&client, &questions).await,
        Command::Stats => {
            let stats: Stats = client.get("/v1/contexts/stats").await?;
            println!("{}", serde_json::to_string(&stats)?);
            Ok(())
        }
    }
}

async fn remember(client: &Client, path: &std::path::Path) -> Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("failed to read the document {}", path.display()))?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let contexts: Vec<_> = document::paragraphs(&text)
        .enumerate()
        .map(|(place, paragraph)| ContextStore {
            id: Some(document::paragraph_id(&name, place, paragraph)),
            text: paragraph.to_owned(),
            level: Level::LongTerm,
            session: Some(format!("document {name}")),
            actor: None,
            metadata: serde_json::Map::from_iter([
                ("document".to_owned(), name.clone().into()),
                ("paragraph".to_owned(), place.into()),
            ]),
            ttl: None,
            occurred_at: None,
        })
        .collect();
    let mut stored = 0;
    for batch in contexts.chunks(BATCH) {
        let answer: AcknowledgmentBatch =
            client.post("/v1/contexts/batch", &ContextStoreBatch { contexts: batch.to_vec() }).await?;
        stored += answer.acknowledgments.len();
    }
    println!("remembered {stored} paragraphs of {name}");
    Ok(())
}

async fn answer(client: &Client, questions: &[String]) -> Result<()> {
    for question in questions {
        let request = ContextRequest {
            query: question.clone(),
            token_budget: Some(300),
            limit: Some(3),
            levels: None,
            session: None,
            filter: Filter::default(),
            min_score: None,
            explain: false,
        };
        let found: ContextResponse = client.post("/v1/contexts/search", &request).await?;
        println!("question: {question}");
        match found.contexts.first() {
            Some(best) => println!("answer: {}", best.context.text.replace('\n', " ")),
            None => println!("answer: (nothing is remembered about it)"),
        }
        println!("tokens: {} of {}", found.tokens_used, found.token_budget);
        if !found.degraded.is_empty() {
            println!("degraded: {}", found.degraded.join(", "));
        }
    }
    Ok(())
}

async fn until_terminated() -> Result<()> {
    println!("ready; waiting for SIGTERM");
    signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?.recv().await;
    println!("terminated");
    Ok(())
}
