//! The figures of the product on this machine: sizes, memory, latencies.
//!
//! Everything is measured on the real parts: the sidecar's program over HTTP with signed requests, and admissions through the real
//! API server. Figures of a shared machine vary from run to run; what can be compared are ratios within one run.

mod admission;
mod corpus;
mod figure;
mod load;
mod signing;
mod sizes;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use context_manager_tests::sidecar::Sidecar;
use figure::Figures;

/// How many contexts are in memory when latencies are taken.
const CONTEXTS: [usize; 2] = [1_000, 10_000];
/// How many clients call at once.
const CLIENTS: [usize; 2] = [1, 16];

#[tokio::main]
async fn main() -> Result<()> {
    let json = output_file()?;
    let mut figures = Figures::default();
    sizes::measure(&mut figures)?;
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "[levels.short_term]\n[log]\nlevel = \"warn\"\n").await?;
    sizes::memory(&mut figures, &sidecar, sizes::IDLE)?;
    let mut corpus = corpus::Corpus::new()?;
    let mut stored = 0;
    for contexts in CONTEXTS {
        load::fill(&sidecar, &mut corpus, contexts - stored).await?;
        stored = contexts;
        for clients in CLIENTS {
            stored += load::store(&mut figures, &sidecar, &mut corpus, contexts, clients).await?;
            load::search(&mut figures, &sidecar, &mut corpus, contexts, clients).await?;
        }
        sizes::memory(&mut figures, &sidecar, &format!("{contexts} contexts"))?;
    }
    signing::measure(&mut figures, &mut corpus)?;
    drop(sidecar);
    admission::measure(&mut figures).await?;
    figures.print();
    if let Some(path) = json {
        std::fs::write(&path, figures.to_json()?).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn output_file() -> Result<Option<PathBuf>> {
    let mut arguments = env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(None),
        (Some(flag), Some(path)) if flag == "--json" => Ok(Some(path.into())),
        (Some(other), _) => bail!("{} is not known; the one argument is --json FILE", other.display()),
    }
}
