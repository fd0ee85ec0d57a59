//! cert-manager's controllers and definitions, for the suite that asks them for certificates.
//!
//! Nothing else here needs so much of other people's code, so a machine that cannot build it runs every other test, and says that this
//! one is left out.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tool::{self, Module};

/// The variable by which the suite finds them: a folder.
pub const VARIABLE: &str = "CONTEXT_MANAGER_TEST_CERT_MANAGER";
/// The test that needs them.
pub const TEST: &str = "cert_manager_makes_the_certificate_and_what_cannot_be_used_is_never_copied";
/// Pinned, because the program around it is ours.
const MODULE: Module =
    Module { path: "github.com/cert-manager/cert-manager", version: "v1.18.2", folder: Some("deploy/crds") };
const PROGRAM: &str = "tests/cert-manager/main.go";

/// The folder with the program `cert-manager` and the folder `crds`, built if they are not there yet.
///
/// # Errors
/// When Go or the sources cannot be had.
pub fn folder() -> Result<PathBuf> {
    tool::built_around_module(&MODULE, Path::new(PROGRAM))
}
