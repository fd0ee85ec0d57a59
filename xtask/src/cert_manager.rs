//! cert-manager's controllers and definitions, for the suites that ask them for certificates.
//!
//! Nothing else here needs so much of other people's code, so a machine that cannot build it runs every other test, and says that these
//! are left out.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tool::{self, Module};

/// The variable by which the suites find them: a folder.
pub const VARIABLE: &str = "CONTEXT_MANAGER_TEST_CERT_MANAGER";
/// The tests that need them.
pub const TESTS: &[&str] = &[
    "cert_manager_makes_the_certificate_and_what_cannot_be_used_is_never_copied",
    "cert_manager_issues_the_webhooks_certificate_and_no_renewal_refuses_a_pod",
];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn what_may_be_left_out_is_there() {
        let suites = std::fs::read_dir(paths::repository().join("tests/tests")).expect("the suites");
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let text: String = suites.map(|suite| read(suite.expect("a suite").path())).collect();
        for test in TESTS {
            assert!(text.contains(&format!("async fn {test}(")), "no suite has {test}");
        }
    }
}
