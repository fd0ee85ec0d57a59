//! The figures of the product on this machine: sizes, memory, latencies, and what they are beside its parts by themselves.
//!
//! Everything is measured on the real parts: the sidecar's program over HTTP with signed requests, a Qdrant server, the engine, and
//! admissions through the real API server. Figures of a shared machine vary from run to run; what can be compared are ratios
//! within one run, so what is compared is called in turns.

mod admission;
mod codec;
mod corpus;
mod engine;
mod figure;
mod immediate;
mod injectors;
mod part;
mod process;
mod query;
mod retrieval;
mod scale;
mod server;
mod sizes;
mod stage;
mod start;
mod turns;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use context_manager_tests::sidecar::Sidecar;
use figure::Figures;
use retrieval::{Extent, LARGEST};
use stage::{CONFIG, Stage};

/// How many contexts the agent has, and how many turns are measured with one client and with several.
const SIZES: [(usize, usize, usize); 3] = [(1_000, 300, 15), (10_000, 200, 8), (LARGEST, 100, 3)];
/// The several.
const CLIENTS: usize = 16;
/// By how much a quick run measures less; it also leaves the largest size out.
const QUICK: usize = 4;
/// How much smaller the cluster of a quick run is.
const SMALL: usize = 10;
/// How long the injectors are asked.
const LONG: injectors::Extent = injectors::Extent { rounds: 7, turn: Duration::from_secs(3) };
const BRIEF: injectors::Extent = injectors::Extent { rounds: 2, turn: Duration::from_secs(1) };
const RESOURCES: usize = 1_000;
const PODS: usize = 10_000;

/// Measure the product on this machine
#[derive(Debug, Parser)]
struct Args {
    /// Also write the figures to this file, as a list of `{name, value, unit, target, met}`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer calls, and not the largest memory
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be given several times
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Section>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Sizes of the programs
    Programs,
    /// Sizes of the images
    Images,
    /// Signing and codec
    Codec,
    /// Memory of an idle sidecar, and how it grows
    Memory,
    /// From start to ready
    Start,
    /// A hit in L1
    Immediate,
    /// Retrieving, beside the engine and a server by themselves
    Retrieve,
    /// Storing, likewise
    Store,
    /// Creation of pods
    Admission,
    /// The webhook beside two other projects' injectors
    Injectors,
    /// Many resources and pods
    Scale,
}

impl Args {
    fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    fn wants_data(&self) -> bool {
        [Section::Memory, Section::Start, Section::Retrieve, Section::Store].iter().any(|section| self.wants(*section))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut figures = Figures::default();
    let outcome = measure(&args, &mut figures).await;
    // What was measured before something failed is worth seeing.
    figures.print();
    if let Some(path) = &args.json {
        std::fs::write(path, figures.to_json()?).with_context(|| format!("failed to write {}", path.display()))?;
    }
    outcome
}

async fn measure(args: &Args, figures: &mut Figures) -> Result<()> {
    let mut corpus = corpus::Corpus::new()?;
    if args.wants(Section::Programs) {
        sizes::programs(figures)?;
    }
    if args.wants(Section::Images) {
        sizes::images(figures)?;
    }
    if args.wants(Section::Codec) {
        codec::measure(figures, &mut corpus)?;
    }
    if args.wants(Section::Memory) || args.wants(Section::Immediate) {
        let folder = tempfile::tempdir()?;
        let sidecar = Sidecar::start(folder.path(), CONFIG).await?;
        if args.wants(Section::Memory) {
            sizes::idle(figures, &sidecar)?;
        }
        if args.wants(Section::Immediate) {
            eprintln!("hits in L1");
            immediate::measure(figures, &sidecar, &mut corpus).await?;
        }
    }
    if args.wants_data() {
        with_data(args, figures, &mut corpus).await?;
    }
    if args.wants(Section::Admission) {
        eprintln!("admissions");
        admission::measure(figures).await?;
    }
    if args.wants(Section::Injectors) {
        injectors::measure(figures, if args.quick { BRIEF } else { LONG }).await?;
    }
    if args.wants(Section::Scale) {
        let share = if args.quick { SMALL } else { 1 };
        scale::measure(figures, scale::Extent { resources: RESOURCES / share, pods: PODS / share }).await?;
    }
    Ok(())
}

async fn with_data(args: &Args, figures: &mut Figures, corpus: &mut corpus::Corpus) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut stage = Stage::start(folder.path()).await?;
    eprintln!("the server is {}", context_manager_tests::qdrant::Qdrant::name());
    let share = if args.quick { QUICK } else { 1 };
    for (contexts, alone, together) in SIZES {
        if args.quick && contexts == LARGEST {
            continue;
        }
        eprintln!("{contexts} contexts: storing");
        stage.grow(corpus, contexts).await?;
        if args.wants(Section::Start) {
            eprintln!("{contexts} contexts: starting");
            start::measure(figures, &stage.home(), contexts).await?;
        }
        eprintln!("{contexts} contexts: copying");
        let mut subjects = stage.subjects().await?;
        for (clients, rounds) in [(1, alone), (CLIENTS, together)] {
            let extent = Extent { contexts, clients, rounds: rounds.div_ceil(share) };
            if args.wants(Section::Retrieve) {
                eprintln!("{contexts} contexts, {clients} clients: retrieving");
                retrieval::retrieve(figures, &subjects, corpus, extent).await?;
            }
        }
        if args.wants(Section::Memory) {
            sizes::with_contexts(figures, &subjects.embedded, contexts)?;
        }
        for (clients, rounds) in [(1, alone), (CLIENTS, together)] {
            let extent = Extent { contexts, clients, rounds: rounds.div_ceil(share) };
            if args.wants(Section::Store) {
                eprintln!("{contexts} contexts, {clients} clients: storing");
                retrieval::store(figures, &subjects, corpus, extent).await?;
            }
        }
        stage::end(&mut subjects.embedded).await?;
    }
    Ok(())
}
