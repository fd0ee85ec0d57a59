//! An example agent. It knows the sidecar's URL and the key file, and nothing else: no database, no credentials.
//!
//! `run` remembers the paragraphs of a document and answers questions from them; `ask` only answers. Storing twice is harmless: a
//! paragraph's id is made of the document's name and the paragraph's place, and the same content under the same id is no conflict.

mod answer;
mod client;
mod document;
mod load;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use context_manager_protocol::{
    level::Level,
    message::{AcknowledgmentBatch, ContextStore, ContextStoreBatch, Stats},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;

/// Most contexts of one batch; each is a paragraph.
const BATCH: usize = 50;

#[derive(Parser)]
#[command(version, about = "An example agent: remembers a document through the sidecar and answers questions from it")]
struct Args {
    /// The sidecar's base URL; `unix://` and a path for a Unix socket
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
        #[command(flatten)]
        questions: Questions,
        /// Go on until SIGTERM, as a Deployment's container does
        #[arg(long)]
        stay: bool,
    },
    /// Answer questions from what is remembered
    Ask {
        #[command(flatten)]
        questions: Questions,
    },
    /// Print how much is remembered
    Stats,
    /// Send signed requests without retrying, and print each second how many were sent and failed
    Load(load::Args),
}

#[derive(clap::Args)]
struct Questions {
    /// A question; can be given several times
    #[arg(long = "question", value_name = "QUESTION")]
    given: Vec<String>,
    /// A file with a question a line
    #[arg(long = "questions", value_name = "FILE", env = "AGENT_QUESTIONS")]
    file: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::new(&args.url, args.keys)?;
    match args.command {
        Command::Run { document, questions, stay } => {
            // Native sidecars are ready before any other container of the pod starts, so there is nothing to wait for.
            println!("found {} contexts in memory", remembered(&client).await?);
            remember(&client, &document).await?;
            answer::all(&client, &questions.all()?).await?;
            if stay { until_terminated().await } else { Ok(()) }
        }
        Command::Ask { questions } => answer::all(&client, &questions.all()?).await,
        Command::Stats => {
            let stats: Stats = client.get("/v1/contexts/stats").await?;
            println!("{}", serde_json::to_string(&stats)?);
            Ok(())
        }
        Command::Load(args) => load::run(client, &args).await,
    }
}

impl Questions {
    fn all(&self) -> Result<Vec<String>> {
        let mut all = self.given.clone();
        if let Some(file) = &self.file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("failed to read the questions in {}", file.display()))?;
            all.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        Ok(all)
    }
}

async fn remembered(client: &Client) -> Result<usize> {
    let stats: Stats = client.get("/v1/contexts/stats").await?;
    Ok(stats.contexts.values().sum())
}

async fn remember(client: &Client, path: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("failed to read the document {}", path.display()))?;
    let text = document::with_plain_lines(text);
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
                ("paragraph".to_owned(), (place + 1).into()),
            ]),
            ttl: None,
            occurred_at: None,
            supersedes: Vec::new(),
            scope: None,
        })
        .collect();
    let (mut stored, mut batches) = (0, 0);
    for batch in contexts.chunks(BATCH) {
        let answer: AcknowledgmentBatch =
            client.post("/v1/contexts/batch", &ContextStoreBatch { contexts: batch.to_vec() }).await?;
        stored += answer.acknowledgments.len();
        batches += 1;
    }
    println!("remembered {stored} paragraphs of {name} in {batches} signed batches");
    Ok(())
}

async fn until_terminated() -> Result<()> {
    println!("ready; waiting for SIGTERM");
    signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?.recv().await;
    println!("terminated");
    Ok(())
}
