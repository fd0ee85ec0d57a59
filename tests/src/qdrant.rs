//! A Qdrant server as a process of its own, so that it can be killed, stopped and started again.
//!
//! [`nodes`] are several of them that make a cluster.
//!
//! The program is the one that `CONTEXT_MANAGER_TEST_QDRANT_PROGRAM` names, a real server, or else the one of `tests/qdrant`.

pub mod nodes;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::net::TcpStream;

use crate::sidecar::program;

/// Environment variable with the program of a real server.
const PROGRAM: &str = "CONTEXT_MANAGER_TEST_QDRANT_PROGRAM";
const START: Duration = Duration::from_secs(30);

/// A server; it is killed when dropped.
pub struct Qdrant {
    folder: PathBuf,
    address: SocketAddr,
    /// What the node of a cluster is started with, beside.
    cluster: Option<Peer>,
    child: Option<Child>,
}

/// How a node of a cluster finds the others.
#[derive(Clone, Debug)]
struct Peer {
    /// Where the others reach it.
    port: u16,
    /// The first node's; its own, if it is the first.
    first: u16,
}

impl Qdrant {
    /// Starts a server with its data in `folder`, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_on(folder, Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same at another address of this machine, such as one that pods reach.
    ///
    /// # Errors
    /// When it does not listen there.
    pub async fn start_on(folder: &Path, address: IpAddr) -> Result<Self> {
        let port = TcpListener::bind((address, 0))?.local_addr()?.port();
        let address = SocketAddr::from((address, port));
        let mut server = Self { folder: folder.to_owned(), address, cluster: None, child: None };
        server.restart().await?;
        Ok(server)
    }

    /// What [`start`](Self::start) starts.
    #[must_use]
    pub fn name() -> String {
        let own = "the one of tests/qdrant: Qdrant's protocol before Qdrant's engine";
        env::var(PROGRAM).map_or_else(|_| own.to_owned(), |program| format!("a real Qdrant, {program}"))
    }

    /// Where it listens; the same after a restart.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again on its data and port.
    ///
    /// # Errors
    /// When it does not listen soon.
    pub async fn restart(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)?;
        fs::create_dir_all(&self.folder)?;
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = if let Some(real) = env::var_os(PROGRAM) {
            self.real(&PathBuf::from(real))?
        } else {
            let mut command = Command::new(program("context-manager-test-qdrant")?);
            command.arg("--listen").arg(self.address.to_string());
            command.arg("--directory").arg(self.folder.join("data"));
            command
        };
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = self.child.insert(child.context("failed to start the Qdrant server")?);
        let started = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || started.elapsed() > START {
                bail!(
                    "the Qdrant server does not listen ({ended:?}): {}",
                    fs::read_to_string(self.folder.join("log"))?
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn real(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(program);
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        command
            .current_dir(&self.folder)
            .env("QDRANT__SERVICE__HOST", self.address.ip().to_string())
            .env("QDRANT__SERVICE__GRPC_PORT", self.address.port().to_string())
            .env("QDRANT__SERVICE__HTTP_PORT", http.to_string())
            .env("QDRANT__STORAGE__STORAGE_PATH", self.folder.join("data"))
            .env("QDRANT__TELEMETRY_DISABLED", "true");
        if let Some(Peer { port, first }) = &self.cluster {
            let url = |port: &u16| format!("http://{}:{port}", self.address.ip());
            command
                .env("QDRANT__CLUSTER__ENABLED", "true")
                .env("QDRANT__CLUSTER__P2P__PORT", port.to_string())
                .arg("--uri")
                .arg(url(port));
            if port != first {
                command.arg("--bootstrap").arg(url(first));
            }
        }
        Ok(command)
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Stops it where it is (`SIGSTOP`): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the Qdrant server does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if self.child.is_some() {
            self.signal(signal)?;
        }
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Qdrant {
    fn drop(&mut self) {
        if let Err(error) = self.end(Signal::SIGKILL) {
            eprintln!("the Qdrant server cannot be ended: {error:#}");
        }
    }
}
