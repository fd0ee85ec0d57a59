//! How well retrieval finds: the questions of LoCoMo, asked through the signed protocol.
//!
//! Each conversation is one tenant, and all lie in one collection. Every turn is stored as one context, in order; each question is
//! asked as it is written, and those with evidence are measured. The data set is not part of the product (CC BY-NC 4.0): it is named by `--data`.

mod dataset;
mod measure;
mod subject;

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use measure::{Measures, Target};
use serde_json::json;
use subject::Subject;

/// Measure retrieval on conversations in LoCoMo's format
#[derive(Debug, Parser)]
pub struct Args {
    /// A folder with the conversations, or one file
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// An OpenAI-compatible embeddings endpoint; without it the built-in embedder is used
    #[arg(long, value_name = "URL")]
    embedding_url: Option<String>,
    /// The embedding model's name
    #[arg(long, value_name = "NAME", default_value = "all-MiniLM-L6-v2")]
    embedding_model: String,
    /// The length of the model's vectors
    #[arg(long, value_name = "N", default_value_t = 384)]
    dimensions: usize,
    /// Where contexts are kept
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// The gRPC endpoint of a Qdrant server, such as `http://127.0.0.1:6334`; a collection of this run's own is made in it
    #[arg(long, value_name = "URL", env = "CONTEXT_MANAGER_TEST_QDRANT_URL", required_if_eq("store", "qdrant"))]
    qdrant_url: Option<String>,
    /// Ask while the embeddings endpoint refuses connections
    #[arg(long, requires = "embedding_url")]
    degraded: bool,
    /// Write one JSON line for each question to this file
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Fail when a mean stays below its target
    #[arg(long)]
    gates: bool,
}

impl Args {
    fn targets(&self) -> &'static [Target] {
        if self.embedding_url.is_some() && !self.degraded { measure::WITH_MODEL } else { measure::WITHOUT_MODEL }
    }
}

/// Where contexts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// In the sidecar's own process.
    Embedded,
    /// In a Qdrant server.
    Qdrant,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let conversations = dataset::read(&args.data)?;
    let mut results = args.results.as_ref().map(File::create).transpose().context("--results")?.map(BufWriter::new);
    let folder = tempfile::tempdir()?;
    let collection = format!("eval-{}", uuid::Uuid::new_v4().simple());
    let place = subject::Place { folder: folder.path(), collection: &collection };
    let mut subjects = Vec::new();
    for (number, conversation) in conversations.into_iter().enumerate() {
        let turns: usize = conversation.sessions.iter().map(|session| session.turns.len()).sum();
        eprintln!("storing {}: {turns} turns", conversation.sample_id);
        for note in &conversation.notes {
            eprintln!("  {note}");
        }
        subjects.push(Subject::store(&args, &place, number, conversation).await?);
    }
    let mut measures = Measures::default();
    for subject in &subjects {
        eprintln!("asking {}: {} questions", subject.conversation.sample_id, subject.conversation.questions.len());
        let asking = subject.ask(&args, &place).await?;
        for question in &subject.conversation.questions {
            let answer = asking.question(question, &mut measures).await?;
            if let Some(file) = &mut results {
                let line = json!({
                    "sample_id": subject.conversation.sample_id,
                    "question": question.index,
                    "ranked": answer.ranked,
                    "scores": answer.scores,
                    "tokens": answer.tokens,
                });
                writeln!(file, "{line}")?;
            }
        }
    }
    if let Some(file) = &mut results {
        file.flush()?;
    }
    measures.print(args.targets());
    let missed = if args.gates { measures.missed(args.targets()) } else { Vec::new() };
    if !missed.is_empty() {
        eprintln!("below their target: {}", missed.join(", "));
    }
    Ok(if measures.foreign == 0 && missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
