//! The programs that come from the operating system: containerd, runc, the CNI plugins, nft and ip.
//!
//! On Debian and its relatives what is missing is installed by apt-get; elsewhere the user is told what to install. Their
//! services are never started: the dev cluster runs its own containerd with its own folders.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::paths::Home;
use crate::progress::Progress;

const CNI_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const CNI_PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// The comment tells our policy from one that the machine has for reasons of its own.
const NO_SERVICES: &str =
    "#!/bin/sh\n# cargo xtask is installing packages, whose services must not start; it removes this file.\nexit 101\n";

/// What a node needs, and the Debian package that has it.
const NEEDED: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("setsid", "util-linux"),
];

/// The system's programs, found.
#[derive(Clone, Debug)]
pub struct SystemPrograms {
    /// The container runtime.
    pub containerd: PathBuf,
    /// Its command-line client.
    pub ctr: PathBuf,
    /// The packet filter's front end.
    pub nft: PathBuf,
    /// The network configuration program.
    pub ip: PathBuf,
    /// The folder with the CNI plugins.
    pub cni: PathBuf,
}

impl SystemPrograms {
    /// Finds all of them; installs the missing ones where apt-get can.
    pub fn provide() -> Result<Self> {
        allow_services();
        let missing = missing();
        if !missing.is_empty() {
            install(&missing)?;
            let still = self::missing();
            if !still.is_empty() {
                bail!(
                    "apt-get installed {}, yet the programs of {} are not found",
                    missing.join(", "),
                    still.join(", ")
                );
            }
        }
        Self::find()
    }

    /// Finds them where they are; installs nothing.
    pub fn find() -> Result<Self> {
        let program = |name: &str| command::find_program(name).with_context(|| format!("{name} is not installed"));
        Ok(Self {
            containerd: program("containerd")?,
            ctr: program("ctr")?,
            nft: program("nft")?,
            ip: program("ip")?,
            cni: cni_folder().context("the CNI plugins are not installed")?,
        })
    }

    /// What version of containerd this is.
    pub fn containerd_version(&self) -> Result<String> {
        let said = command::output(Command::new(&self.containerd).arg("--version"))?;
        Ok(said.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }
}

/// Provides promtool: the one in `PATH`, or the one of Debian's prometheus package, unpacked without installing it.
pub fn provide_promtool(home: &Home) -> Result<PathBuf> {
    if let Some(found) = command::find_program("promtool") {
        return Ok(found);
    }
    let folder = home.tools().join("prometheus");
    let promtool = folder.join("usr/bin/promtool");
    if promtool.is_file() {
        return Ok(promtool);
    }
    if command::find_program("apt-get").is_none() || command::find_program("dpkg-deb").is_none() {
        bail!("promtool is not installed; install Prometheus, or put its promtool in PATH");
    }
    let progress = Progress::start("Downloading promtool (Debian's prometheus package)");
    let _lock = home.lock("tools")?;
    // Whoever held the lock has probably brought it.
    if promtool.is_file() {
        return Ok(promtool);
    }
    let (download, unfinished) = (home.tools().join("download"), home.tools().join("prometheus.unfinished"));
    remove_leftover(&download)?;
    remove_leftover(&unfinished)?;
    fs::create_dir_all(&download)?;
    // Anybody may download a package; only updating the lists needs root, so that comes only if the download fails.
    if apt_download(&download).is_err() {
        command::output(Command::new("apt-get").args(["update", "--quiet"]))?;
        apt_download(&download)?;
    }
    let package = fs::read_dir(&download)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    command::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unfinished))?;
    fs::rename(&unfinished, &folder)?;
    fs::remove_dir_all(&download)?;
    progress.done();
    Ok(promtool)
}

fn apt_download(folder: &Path) -> Result<String> {
    // apt drops its privileges for downloads when it can; a folder below /root would then be closed to it.
    let options = ["-o", "APT::Sandbox::User=root", "download", "prometheus"];
    command::output(Command::new("apt-get").current_dir(folder).args(options))
}

fn cni_folder() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| CNI_PLUGINS.iter().all(|plugin| folder.join(plugin).is_file());
    CNI_FOLDERS.into_iter().map(PathBuf::from).find(complete)
}

/// The Debian packages of all that is not there.
fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| command::find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if cni_folder().is_none() {
        packages.push("containernetworking-plugins");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if command::find_program("apt-get").is_none() {
        bail!(
            "a node needs programs of the operating system that are missing here; on Debian they are in the packages \
             {list}. Install them by this system's own package manager, the CNI plugins in {}",
            CNI_FOLDERS.join(" or ")
        );
    }
    let progress = Progress::start(&format!("Installing {list} by apt-get (their services are not started)"));
    let _policy = NoServices::hold(Path::new(POLICY))?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    progress.set("updating the package lists".into());
    command::output(apt().args(["update", "--quiet"]))?;
    progress.set("downloading and unpacking".into());
    command::output(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages))?;
    progress.done();
    Ok(())
}

fn remove_leftover(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the policy that an interrupted installation of ours left behind: with it no package's service would ever start.
pub fn allow_services() {
    remove_policy(Path::new(POLICY));
}

fn remove_policy(policy: &Path) {
    if fs::read(policy).is_ok_and(|text| text == NO_SERVICES.as_bytes()) {
        let _ = fs::remove_file(policy);
    }
}

/// While held, Debian's packages start no services. A policy that the machine has already is left alone.
struct NoServices<'p>(&'p Path);

impl<'p> NoServices<'p> {
    fn hold(policy: &'p Path) -> Result<Self> {
        if !policy.exists() {
            let written = fs::write(policy, NO_SERVICES)
                .and_then(|()| fs::set_permissions(policy, fs::Permissions::from_mode(0o755)));
            written.with_context(|| format!("failed to write {}", policy.display()))?;
        }
        Ok(Self(policy))
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        remove_policy(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_of_ours_is_removed_even_after_an_interruption_and_anothers_never() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let policy = folder.path().join("policy-rc.d");
        std::mem::forget(NoServices::hold(&policy).expect("written"));
        assert!(policy.is_file(), "the installation was interrupted");
        drop(NoServices::hold(&policy).expect("held again"));
        assert!(!policy.exists());
        fs::write(&policy, "#!/bin/sh\nexit 101\n").expect("written");
        drop(NoServices::hold(&policy).expect("held"));
        remove_policy(&policy);
        assert!(policy.is_file(), "the machine's own");
    }
}
