//! Cargo in release mode with the target folder that all checkouts share.
//!
//! The vector engine takes minutes to compile, so every release build goes through here: always the whole workspace
//! (selecting a package changes the features of shared crates and compiles the engine again), always the host's triple
//! given by name (so that the flags for static linking do not reach build scripts), always the same flags.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths::{self, Home};
use crate::{command, disk};

/// The environment that `cargo run` gives to this program and that a cargo started from here must not inherit: build
/// scripts may watch it, and then they would run again each time the caller changes.
const INHERITED: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

/// The caller's settings that would win over the repository's and ours: another wrapper of the compiler than
/// `tools/rustc-wrapper`, without which the vector engine does not compile, and flags that leave static linking out.
const OVERRIDING: [&str; 5] =
    ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET_DIR"];

/// The release build of the workspace.
pub struct Release {
    target: PathBuf,
    triple: String,
}

impl Release {
    /// Looks up the host's triple, and makes the target folder this checkout's.
    pub fn new(home: &Home) -> Result<Self> {
        let said = command::output(Command::new("rustc").arg("-vV").current_dir(paths::repository()))?;
        let triple = host_triple(&said).context("`rustc -vV` names no host")?.to_owned();
        let release = Self { target: home.target(), triple };
        let _lock = home.lock("target")?;
        release.forget_other_checkout()?;
        release.check_space()?;
        Ok(release)
    }

    /// Removes what another checkout compiled of the workspace itself (not of its dependencies). Cargo tells fresh from
    /// stale by times of modification, so what was built later from another checkout's files would pass for ours.
    fn forget_other_checkout(&self) -> Result<()> {
        let record = self.target.join("checkout");
        if is_recorded(&record, paths::repository()) {
            return Ok(());
        }
        if self.target.join(&self.triple).join("release").exists() {
            eprintln!("another checkout was compiled last: the workspace's own crates are compiled again");
            command::output(self.cargo("clean").arg("--quiet"))?;
        }
        fs::create_dir_all(&self.target)
            .and_then(|()| fs::write(&record, paths::repository().as_os_str().as_encoded_bytes()))
            .with_context(|| format!("failed to write {}", record.display()))
    }

    /// A compiler that finds the disk full says so in many ways, few of which name the disk.
    fn check_space(&self) -> Result<()> {
        let is_warm = self.target.join(&self.triple).join("release").exists();
        let needed = if is_warm { disk::FOR_BUILD } else { disk::FOR_FIRST_BUILD };
        disk::require(&self.target, needed, "compiling")
    }

    /// `cargo SUBCOMMAND --release --workspace --target TRIPLE` with the shared target folder and static linking.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = Command::new("cargo");
        for (name, _) in std::env::vars_os() {
            if INHERITED.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                cargo.env_remove(name);
            }
        }
        for name in OVERRIDING {
            cargo.env_remove(name);
        }
        let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", self.triple.to_uppercase().replace('-', "_"));
        cargo
            .current_dir(paths::repository())
            .env("CARGO_TARGET_DIR", &self.target)
            .env(flags, "-C target-feature=+crt-static")
            .args([subcommand, "--release", "--workspace", "--target", &self.triple]);
        cargo
    }

    /// Builds all programs of the workspace; cargo's own progress is shown.
    pub fn binaries(&self) -> Result<()> {
        self.build(&[])
    }

    /// The same, with an optimised client: what measures must not be slower than what it measures.
    pub fn measuring_binaries(&self) -> Result<()> {
        self.build(&[
            "--config",
            "profile.release.package.context-manager-tests.opt-level=3",
            "--config",
            "profile.release.package.context-manager-bench.opt-level=3",
        ])
    }

    fn build(&self, arguments: &[&str]) -> Result<()> {
        let mut cargo = self.cargo("build");
        cargo.arg("--bins").args(arguments).stdin(Stdio::null());
        let status = cargo.status().context("failed to start cargo")?;
        if !status.success() {
            bail!("the release build failed ({status})");
        }
        Ok(())
    }

    /// Where [`Release::binaries`] leaves a program.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join(&self.triple).join("release").join(name)
    }

    /// The processor in the words of OCI images.
    pub fn architecture(&self) -> Result<&'static str> {
        match self.triple.split('-').next() {
            Some("x86_64") => Ok("amd64"),
            Some("aarch64") => Ok("arm64"),
            _ => bail!("images can be built on x86_64 and aarch64 only, not on {}", self.triple),
        }
    }
}

fn is_recorded(record: &Path, checkout: &Path) -> bool {
    fs::read(record).is_ok_and(|found| found == checkout.as_os_str().as_encoded_bytes())
}

fn host_triple(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_the_same_checkout_is_the_recorded_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let record = folder.path().join("checkout");
        assert!(!is_recorded(&record, Path::new("/first")), "nothing is recorded yet");
        fs::write(&record, "/first")?;
        assert!(is_recorded(&record, Path::new("/first")));
        assert!(!is_recorded(&record, Path::new("/first/again")));
        Ok(())
    }

    /// `cargo clean` removes the files of a target by its name, and with them those of a dependency of the same name: all that
    /// uses it would be compiled again.
    #[test]
    fn no_target_has_a_dependencys_name() -> Result<()> {
        let metadata = Command::new(env!("CARGO"))
            .current_dir(paths::repository())
            .args(["metadata", "--format-version", "1", "--locked"])
            .output()?;
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
        let names = |is_own: bool| -> BTreeSet<&str> {
            let packages = metadata["packages"].as_array().into_iter().flatten();
            let packages = packages.filter(|package| package["source"].is_null() == is_own);
            packages
                .flat_map(|package| package["targets"].as_array().into_iter().flatten())
                .filter_map(|target| {
                    let is_compiled = is_own
                        || target["kind"]
                            .as_array()
                            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib" || kind == "proc-macro"));
                    is_compiled.then(|| target["name"].as_str()).flatten()
                })
                .collect()
        };
        let (own, foreign) = (names(true), names(false));
        assert!(own.contains("xtask") && foreign.contains("tracing"), "{own:?}");
        assert_eq!(own.intersection(&foreign).collect::<Vec<_>>(), Vec::<&&str>::new());
        Ok(())
    }

    #[test]
    fn settings_of_the_caller_do_not_reach_the_build() {
        let release = Release { target: "/t".into(), triple: "x86_64-unknown-linux-gnu".to_owned() };
        let cargo = release.cargo("build");
        for name in ["RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
            assert!(cargo.get_envs().any(|(found, value)| found == name && value.is_none()), "{name}");
        }
        let flags = cargo.get_envs().find(|(name, _)| *name == "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS");
        assert_eq!(flags.and_then(|(_, value)| value), Some("-C target-feature=+crt-static".as_ref()));
    }

    #[test]
    fn host_is_read_from_the_compilers_own_words() {
        let said = "rustc 1.95.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n";
        assert_eq!(host_triple(said), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(host_triple("rustc 1.95.0\n"), None);
    }
}
