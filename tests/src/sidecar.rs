//! The sidecar's program, started as a user starts it without Kubernetes.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use context_manager_protocol::keyring::Key;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{client::Client, files};

const START: Duration = Duration::from_secs(30);

/// A running sidecar; it is killed when dropped.
pub struct Sidecar {
    child: Child,
    /// Port of the protocol.
    pub port: u16,
    /// Port of probes and metrics.
    pub admin: u16,
    config: PathBuf,
    log: PathBuf,
    /// What its configuration begins with.
    base: String,
}

/// Where a program of the workspace was built: near this executable.
///
/// # Errors
/// When it is not there; `cargo xtask test` builds it first.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A suite lies in a folder of its own beside the programs, a program among them.
    let program = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|program| program.is_file());
    program.with_context(|| format!("{name} is not built; run the suites by `cargo xtask test`"))
}

/// A client for plain HTTP on this machine.
///
/// # Errors
/// When it cannot be made.
pub fn http() -> Result<reqwest::Client> {
    crate::cluster::install_tls();
    Ok(reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(2)).build()?)
}

/// Two ports that nobody listens on at the moment.
fn free_ports() -> Result<[u16; 2]> {
    let listeners = [TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?];
    let [first, second] = &listeners;
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}

impl Sidecar {
    /// The key of the protocol, whose id is `default`.
    pub const SECRET: &str = "a secret of this suite, 32 bytes or more";

    /// Starts a sidecar with its configuration and data in `folder`, and waits until it is ready. `more` is added to the configuration, and
    /// may begin with keys of the table `protocol`; if it names no store, the embedded one is used.
    ///
    /// # Errors
    /// When it does not become ready; the error carries the end of its log.
    pub async fn start(folder: &Path, more: &str) -> Result<Self> {
        Self::ready(Self::spawn(folder, more)?).await
    }

    /// The same for a tenant, in whose name the sidecar stores and answers; several may use one folder, one after the other.
    ///
    /// # Errors
    /// When it does not become ready; the error carries the end of its log.
    pub async fn start_as(tenant: &str, folder: &Path, more: &str) -> Result<Self> {
        Self::ready(Self::spawn_with(folder, more, &["--tenant", tenant])?).await
    }

    /// The same for an agent of a tenant.
    ///
    /// # Errors
    /// When it does not become ready; the error carries the end of its log.
    pub async fn start_agent(tenant: &str, agent: &str, folder: &Path, more: &str) -> Result<Self> {
        Self::ready(Self::spawn_with(folder, more, &["--tenant", tenant, "--agent", agent])?).await
    }

    async fn ready(mut sidecar: Self) -> Result<Self> {
        let started = Instant::now();
        let http = http()?;
        loop {
            if let Some(status) = sidecar.child.try_wait()? {
                bail!("the sidecar ended ({status}): {}", sidecar.log()?);
            }
            let ready = http.get(format!("http://127.0.0.1:{}/health/readiness", sidecar.admin)).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(sidecar);
            }
            if started.elapsed() > START {
                bail!("the sidecar is not ready after {START:?}: {}", sidecar.log()?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a sidecar without waiting for anything.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(folder: &Path, more: &str) -> Result<Self> {
        Self::spawn_with(folder, more, &[])
    }

    /// Starts a sidecar that listens on no port, but on the socket of its configuration and on `admin`, without waiting for anything.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_without_ports(folder: &Path, more: &str, admin: &Path) -> Result<Self> {
        let admin = admin.to_str().context("a path")?;
        Self::spawn_with(folder, more, &["--socket-only", "--admin-socket", admin])
    }

    fn spawn_with(folder: &Path, more: &str, arguments: &[&str]) -> Result<Self> {
        let [port, admin] = free_ports()?;
        let config = folder.join(format!("config-{port}.toml"));
        let data = folder.join("data");
        let store = if more.contains("[store.") {
            String::new()
        } else {
            format!("[store.embedded]\npath = \"{}\"\n", data.display())
        };
        let listeners = format!("[admin]\naddress = \"127.0.0.1\"\nport = {admin}\n[protocol]\nport = {port}\n");
        let base = format!("{store}{listeners}");
        fs::write(&config, format!("{base}{more}"))?;
        let log = folder.join(format!("log-{port}"));
        let child = Command::new(program("context-manager-sidecar")?)
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .env_clear()
            .env("PROTOCOL_SECRET", Self::SECRET)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?)
            .spawn()
            .context("failed to start the sidecar")?;
        Ok(Self { child, port, admin, config, log, base })
    }

    /// Replaces its configuration while it runs: the beginning stays, `more` follows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reconfigure(&self, more: &str) -> Result<()> {
        files::replace(&self.config, format!("{}{more}", self.base))
    }

    /// A client that signs with the sidecar's key.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        Client::new(format!("http://127.0.0.1:{}", self.port), Self::key()?)
    }

    /// The key that it takes from its environment.
    ///
    /// # Errors
    /// Never: it is a valid one.
    pub fn key() -> Result<Key> {
        Ok(Key::new("default", Self::SECRET.into())?)
    }

    /// Its configuration file, which it reads again when it changes.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A page of the admin listener.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn admin_page(&self, path: &str) -> Result<String> {
        Ok(http()?.get(format!("http://127.0.0.1:{}{path}", self.admin)).send().await?.text().await?)
    }

    /// A metric's value, by its name with labels as they are written; without labels the sum over all of them.
    ///
    /// # Errors
    /// When there is no such metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let page = self.admin_page("/metrics").await?;
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next().unwrap_or_default().parse())
        });
        let values = values.collect::<Result<Vec<f64>, _>>()?;
        if values.is_empty() {
            bail!("no metric {name} in {page}");
        }
        Ok(values.iter().sum())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// How it ended; nothing while it runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end of the process; its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait(&mut self, patience: Duration) -> Result<Option<i32>> {
        let started = Instant::now();
        while started.elapsed() < patience {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the sidecar did not end within {patience:?}: {}", self.log()?)
    }

    /// What it wrote to its log so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
