//! The Kubernetes programs: etcd, all of Kubernetes, `CoreDNS`, helm and the pause image, built from the Go sources
//! in `xtask/cluster` by a plain `go build`, once per version.
//!
//! They lie in a folder named after the Kubernetes version and a hash of the sources and flags, so a change of either
//! builds anew beside the old ones. The folder appears by one rename at the end: an interrupted build leaves nothing half done.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::command;
use crate::images::oci::{self, Image};
use crate::paths::{self, Home};
use crate::progress::Progress;

/// The version of Kubernetes that `go.mod` names.
pub const KUBERNETES: &str = "1.37.2";
/// The version of etcd that `go.mod` names.
pub const ETCD: &str = "3.7.3";
/// The version of `CoreDNS` that `go.mod` names.
pub const COREDNS: &str = "1.15.0";
/// The version of helm that `go.mod` names.
pub const HELM: &str = "4.3.1";
/// The reference of the image that holds each pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

const COMPILE: [&str; 3] = ["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"];
const MULTI_CALL: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
const PACKAGES: [(&str, &str); 5] = [
    ("hyper", "./hyper"),
    ("coredns", "./dns"),
    ("helm", "helm.sh/helm/v4/cmd/helm"),
    ("pause", "./pause"),
    ("keys", "./keys"),
];

/// A folder of ready programs.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Where the programs are, or will be once they are built; never builds.
    pub fn locate(home: &Home) -> Result<Self> {
        Ok(Self(folder(home)?))
    }

    /// Whether they have been built.
    pub fn are_built(&self) -> bool {
        self.0.is_dir()
    }

    /// The folder; builds the programs first when this version of them is not there yet.
    pub fn provide(home: &Home) -> Result<Self> {
        let programs = Self::locate(home)?;
        if programs.are_built() {
            return Ok(programs);
        }
        let _lock = home.lock("kubernetes")?;
        // Whoever held the lock has probably built what is missing.
        if !programs.are_built() {
            let unfinished = home.kubernetes("unfinished");
            build(&unfinished)?;
            fs::rename(&unfinished, &programs.0)?;
        }
        Ok(programs)
    }

    /// The path of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The OCI archive of the pause image.
    pub fn pause_archive(&self) -> PathBuf {
        self.0.join("pause.tar")
    }

    /// The folder itself, for a `PATH`.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

fn folder(home: &Home) -> Result<PathBuf> {
    Ok(home.kubernetes(&format!("{KUBERNETES}-{}", sources_hash(&paths::cluster_sources())?)))
}

/// A hash over everything that decides what the programs are: module files, sources and flags.
fn sources_hash(sources: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut files = vec![PathBuf::from("go.mod"), PathBuf::from("go.sum")];
    for (_, package) in PACKAGES {
        if let Some(local) = package.strip_prefix("./") {
            files.push(Path::new(local).join("main.go"));
        }
    }
    files.sort();
    for file in files {
        let text = fs::read(sources.join(&file))
            .with_context(|| format!("failed to read {}", sources.join(&file).display()))?;
        hash.update(file.as_os_str().as_encoded_bytes());
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    for flag in COMPILE.iter().copied().map(str::to_owned).chain(PACKAGES.map(|(name, _)| link_flags(name))) {
        hash.update(flag);
    }
    Ok(oci::hex(&hash.finalize())[..12].to_owned())
}

fn link_flags(program: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let mut set = |name: &str, value: &str| {
        flags.push_str(" -X ");
        flags.push_str(name);
        flags.push('=');
        flags.push_str(value);
    };
    match program {
        "hyper" => {
            let mut numbers = KUBERNETES.split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                set(&format!("{package}.gitVersion"), &format!("v{KUBERNETES}"));
                set(&format!("{package}.gitMajor"), major);
                set(&format!("{package}.gitMinor"), minor);
                set(&format!("{package}.gitTreeState"), "clean");
            }
        }
        "helm" => set("helm.sh/helm/v4/internal/version.version", &format!("v{HELM}")),
        _ => {}
    }
    flags
}

fn build(out: &Path) -> Result<()> {
    check_go()?;
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    let progress =
        Progress::start(&format!("Building Kubernetes {KUBERNETES} (once; about 7 minutes on two free cores)"));
    let total = list_packages(&progress)?;
    let mut compiled = 0;
    for (name, package) in PACKAGES {
        let mut go = go(&["build", "-v"]);
        go.args(COMPILE).arg("-ldflags").arg(link_flags(name)).arg("-o").arg(out.join(name)).arg(package);
        follow(&mut go, |line| {
            if !line.starts_with("go: ") {
                compiled += 1;
            }
            // Go does not say beforehand how much of this is in its cache already, hence "at most".
            progress.set(format!("{name}: {compiled} of at most {total} packages compiled"));
        })?;
    }
    for name in MULTI_CALL {
        std::os::unix::fs::symlink("hyper", out.join(name))?;
    }
    let image = Image::new(PAUSE_IMAGE, architecture()?, "65535:65535")
        .file("/pause", &out.join("pause"))?
        .entrypoint("/pause");
    image.write(&out.join("pause.tar"))?;
    progress.done();
    Ok(())
}

/// Downloads the modules (Go does it while listing) and counts the packages.
fn list_packages(progress: &Progress) -> Result<usize> {
    let mut modules = 0;
    progress.set("reading the list of packages".into());
    let mut list = go(&["list", "-deps"]);
    list.args(PACKAGES.map(|(_, package)| package)).stdout(Stdio::piped());
    let mut packages = 0;
    std::thread::scope(|scope| {
        let mut child = list.stderr(Stdio::piped()).spawn().context("failed to start go")?;
        let stdout = child.stdout.take().context("go has no standard output")?;
        let counted = scope.spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).count());
        let said = read_lines(child.stderr.take(), |line| {
            if line.starts_with("go: downloading") {
                modules += 1;
                progress.set(format!("{modules} modules downloaded"));
            }
        });
        packages = counted.join().unwrap_or_default();
        ended_well(child.wait()?, "go list", &said)
    })?;
    Ok(packages)
}

/// Runs a program and hands over each line of its standard error as it comes.
fn follow(command: &mut Command, line: impl FnMut(&str)) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("failed to start go")?;
    let said = read_lines(child.stderr.take(), line);
    ended_well(child.wait()?, "go build", &said)
}

fn read_lines(from: Option<impl std::io::Read>, mut each: impl FnMut(&str)) -> String {
    let mut said = String::new();
    for line in from.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok)) {
        each(&line);
        said.push_str(&line);
        said.push('\n');
    }
    said
}

fn ended_well(status: std::process::ExitStatus, what: &str, said: &str) -> Result<()> {
    if !status.success() {
        bail!("{what} failed ({status}):\n{}", command::tail(said, 20));
    }
    Ok(())
}

fn go(arguments: &[&str]) -> Command {
    let mut go = Command::new("go");
    // `GOPROXY` and the rest of Go's settings are the caller's; a go.work of a folder above would replace the module.
    go.current_dir(paths::cluster_sources())
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly")
        .env("CGO_ENABLED", "0");
    go.args(arguments);
    go
}

fn check_go() -> Result<()> {
    const REMEDY: &str = "install Go from https://go.dev/dl and put it in PATH; only the dev cluster needs it \
        (`--cluster current` uses a cluster you already have)";
    if command::find_program("go").is_none() {
        bail!("Go is not installed, and the dev cluster's programs are built with it: {REMEDY}");
    }
    let wanted = fs::read_to_string(paths::cluster_sources().join("go.mod"))?;
    let wanted = wanted.lines().find_map(|line| line.strip_prefix("go ")).context("go.mod names no Go version")?;
    // Run in the module's folder, a newer Go switches by itself to the toolchain that the module wants.
    let found = command::output(&mut go(&["env", "GOVERSION"]))
        .with_context(|| format!("the installed Go does not serve this module, which wants Go {wanted}: {REMEDY}"))?;
    let found = found.trim().trim_start_matches("go");
    if numbers(found) < numbers(wanted) {
        bail!("Go {found} is too old, {wanted} or newer is needed: {REMEDY}");
    }
    Ok(())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("the dev cluster runs on x86_64 and aarch64 only, not on {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_versions_are_those_of_the_module_file() {
        let module =
            fs::read_to_string(paths::cluster_sources().join("go.mod")).expect("go.mod is part of the sources");
        for (path, version) in [
            ("k8s.io/kubernetes", KUBERNETES),
            ("go.etcd.io/etcd/server/v3", ETCD),
            ("github.com/coredns/coredns", COREDNS),
            ("helm.sh/helm/v4", HELM),
        ] {
            assert!(module.contains(&format!("{path} v{version}")), "{path} is not at {version} in go.mod");
        }
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(numbers("1.9.2") < numbers("1.26.0"));
        assert!(numbers("1.26.8") >= numbers("1.26.0"));
    }

    #[test]
    fn changed_source_changes_the_folder() {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in ["go.mod", "go.sum", "hyper/main.go", "dns/main.go", "pause/main.go", "keys/main.go"] {
            let to = copy.path().join(file);
            fs::create_dir_all(to.parent().expect("it has a parent")).expect("folder");
            fs::copy(paths::cluster_sources().join(file), to).expect("copy");
        }
        let before = sources_hash(copy.path()).expect("hash");
        assert_eq!(before, sources_hash(&paths::cluster_sources()).expect("hash"));
        fs::write(copy.path().join("pause/main.go"), "package main").expect("write");
        assert_ne!(before, sources_hash(copy.path()).expect("hash"));
    }
}
