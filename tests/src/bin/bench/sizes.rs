//! Sizes of programs and images, and memory of the running sidecar.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use context_manager_tests::sidecar::{Sidecar, program};

use crate::figure::Figures;

/// Before the first context.
pub const IDLE: &str = "idle";
/// What an idle sidecar may take.
const IDLE_MEBIBYTES: f64 = 20.0;
const MEBIBYTE: f64 = 1_048_576.0;
/// Environment variable with the folder of the image archives; `cargo xtask bench` sets it.
const IMAGES: &str = "CONTEXT_MANAGER_BENCH_IMAGES";

pub fn measure(figures: &mut Figures) -> Result<()> {
    let folder: PathBuf =
        std::env::var_os(IMAGES).with_context(|| format!("{IMAGES} is not set; run `cargo xtask bench`"))?.into();
    for name in ["context-manager-sidecar", "context-manager-operator"] {
        figures.add(format!("{name}, program"), size(&program(name)?)?, "MiB");
        figures.add(format!("{name}, image"), size(&folder.join(format!("{name}.tar")))?, "MiB");
    }
    Ok(())
}

fn size(path: &std::path::Path) -> Result<f64> {
    let metadata = fs::metadata(path).with_context(|| format!("failed to measure {}", path.display()))?;
    #[expect(clippy::cast_precision_loss, reason = "a file size is far below 2^52")]
    Ok(metadata.len() as f64 / MEBIBYTE)
}

/// Resident memory of the sidecar: all of it, and what is not mapped from a file and so cannot be dropped by the kernel.
pub fn memory(figures: &mut Figures, sidecar: &Sidecar, when: &str) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.id()))?;
    for (field, what) in [("VmRSS:", "resident memory"), ("RssAnon:", "anonymous memory")] {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the kernel tells memory")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        let name = format!("sidecar, {when}, {what}");
        if when == IDLE {
            figures.at_most(name, kibibytes / 1_024.0, "MiB", IDLE_MEBIBYTES);
        } else {
            figures.add(name, kibibytes / 1_024.0, "MiB");
        }
    }
    Ok(())
}
