//! Sizes of programs and images, and memory of the running sidecar.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use context_manager_tests::sidecar::{Sidecar, program};

use crate::{figure::Figures, process::Memory};

/// What an idle sidecar may take.
const IDLE_MEBIBYTES: f64 = 20.0;
const MEBIBYTE: f64 = 1_048_576.0;
const PROGRAMS: [&str; 2] = ["context-manager-sidecar", "context-manager-operator"];
/// Environment variable with the folder of the image archives; `cargo xtask bench` sets it.
const IMAGES: &str = "CONTEXT_MANAGER_BENCH_IMAGES";

pub fn programs(figures: &mut Figures) -> Result<()> {
    for name in PROGRAMS {
        figures.add(format!("{name}, program"), size(&program(name)?)?, "MiB");
    }
    Ok(())
}

pub fn images(figures: &mut Figures) -> Result<()> {
    let folder: PathBuf =
        std::env::var_os(IMAGES).with_context(|| format!("{IMAGES} is not set; run `cargo xtask bench`"))?.into();
    for name in PROGRAMS {
        figures.add(format!("{name}, image"), size(&folder.join(format!("{name}.tar")))?, "MiB");
    }
    Ok(())
}

fn size(path: &std::path::Path) -> Result<f64> {
    let metadata = fs::metadata(path).with_context(|| format!("failed to measure {}", path.display()))?;
    #[expect(clippy::cast_precision_loss, reason = "a file size is far below 2^52")]
    Ok(metadata.len() as f64 / MEBIBYTE)
}

/// Memory before the first context.
pub fn idle(figures: &mut Figures, sidecar: &Sidecar) -> Result<()> {
    let Memory { resident, anonymous } = Memory::of(sidecar.id())?;
    figures.at_most("sidecar, idle, resident memory", resident, "MiB", IDLE_MEBIBYTES);
    figures.add("sidecar, idle, anonymous memory", anonymous, "MiB");
    Ok(())
}

/// Memory with contexts, and by how much it grows for 1,000 of them.
pub fn with_contexts(figures: &mut Figures, sidecar: &Sidecar, contexts: usize) -> Result<()> {
    let Memory { resident, anonymous } = Memory::of(sidecar.id())?;
    #[expect(clippy::cast_precision_loss, reason = "a number of contexts")]
    let thousands = contexts as f64 / 1_000.0;
    let empty = of_the_idle_one(figures);
    for (what, value, at_first) in [("resident", resident, empty.resident), ("anonymous", anonymous, empty.anonymous)] {
        figures.add(format!("sidecar, {contexts} contexts, {what} memory"), value, "MiB");
        let growth = (value - at_first) / thousands;
        figures.add(format!("sidecar, {contexts} contexts, {what} memory for 1,000 of them"), growth, "MiB");
    }
    Ok(())
}

/// What the idle one took.
fn of_the_idle_one(figures: &Figures) -> Memory {
    let value = |what: &str| figures.value(&format!("sidecar, idle, {what} memory")).unwrap_or_default();
    Memory { resident: value("resident"), anonymous: value("anonymous") }
}
