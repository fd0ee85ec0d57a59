//! The image of a sidecar that becomes ready and crashes some seconds later, for the suite of upgrades. It is not a product.

use std::path::PathBuf;

use anyhow::Result;

use super::{USER, oci::Image};
use crate::build::Release;
use crate::cluster::ClusterArgs;
use crate::paths::Home;

const SIDECAR: &str = "context-manager-sidecar";
/// The program around it, of the suites' own crate.
const PROGRAM: &str = "late-crash";

/// Writes the archive; the programs are built already.
pub fn build(args: &ClusterArgs, release: &Release) -> Result<PathBuf> {
    let program = format!("/{PROGRAM}");
    let image = Image::new(&format!("{}-crashing", args.image(SIDECAR)), release.architecture()?, USER)
        .file(&format!("/{SIDECAR}"), &release.binary(SIDECAR))?
        .file(&program, &release.binary(PROGRAM))?
        .entrypoint(&program);
    let archive = Home::find()?.images().join(format!("{SIDECAR}-crashing.tar"));
    let identity = image.write(&archive)?;
    eprintln!("{} is {}", identity.reference, identity.digest);
    Ok(archive)
}
