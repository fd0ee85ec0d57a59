//! A part of the cluster: one long-running program, started at most once, and awaited until it is ready.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::process::{self, Process};
use super::state::State;
use crate::command;

/// How long a program that was ended may hold its ports.
const RELEASE: Duration = Duration::from_secs(10);

/// A program as it shall run.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name in messages, and the name of its log.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; the first one names something in the state folder and so tells this part from all others.
    pub args: Vec<String>,
    /// The addresses it listens on.
    pub listens: Vec<SocketAddr>,
    /// Its version, for people.
    pub version: String,
}

/// Whether a part's files were just written anew, so that a running one must start again to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// As they were.
    Same,
    /// Written anew.
    New,
}

/// What [`Part::ensure`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It ran as it should.
    Running,
    /// It was started.
    Started,
}

impl From<bool> for Configuration {
    fn from(is_new: bool) -> Self {
        if is_new { Self::New } else { Self::Same }
    }
}

impl Part {
    /// The process of this part, if it runs.
    pub fn process(&self) -> Option<Process> {
        let name = self.program.file_name().unwrap_or_default();
        Process::all().into_iter().find(|process| process.name() == name && process.argv.get(1) == self.args.first())
    }

    /// Starts the part unless it runs exactly as it shall; one that runs otherwise is ended first.
    pub fn ensure(&self, state: &State, configuration: Configuration) -> Result<Ensured> {
        let mut patience = Duration::ZERO;
        if let Some(found) = self.process() {
            if configuration == Configuration::Same && self.is_as_desired(&found) {
                return Ok(Ensured::Running);
            }
            process::stop(&[found], Signal::SIGTERM, Duration::from_secs(10));
            patience = RELEASE;
        }
        for address in &self.listens {
            await_free(*address, patience).with_context(|| format!("{} cannot start", self.name))?;
        }
        self.spawn(state)?;
        Ok(Ensured::Started)
    }

    /// Waits until `ready` says so. Gives up when the program ends or the time is over, with the end of its log.
    pub fn wait(&self, state: &State, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            // Asked first: a readiness that somebody else's program answers is none.
            let alive = self.process().is_some();
            if alive && ready() {
                return Ok(());
            }
            if !alive || Instant::now() >= end {
                let why = if alive { format!("is not ready after {} s", limit.as_secs()) } else { "ended".to_owned() };
                bail!("{} {why}; the end of {}:\n{}", self.name, state.log(&self.name).display(), self.log_tail(state));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn is_as_desired(&self, found: &Process) -> bool {
        let program = self.program.to_string_lossy();
        found.argv.first().is_some_and(|first| *first == program) && found.argv[1..] == self.args
    }

    fn spawn(&self, state: &State) -> Result<()> {
        let path = state.log(&self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        // A session of its own, so that Ctrl-C or the end of the terminal does not reach it.
        let child = Command::new("setsid")
            .arg(&self.program)
            .args(&self.args)
            .current_dir(state.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", self.name))?;
        // The part outlives this program, so nobody waits for it here. Until setsid has become the program, the part would
        // look as if it had ended.
        let (pid, end) = (child.id().cast_signed(), Instant::now() + Duration::from_secs(5));
        while self.process().is_none() && !process::has_ended(pid) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn log_tail(&self, state: &State) -> String {
        let text = fs::read(state.log(&self.name)).unwrap_or_default();
        command::tail(&String::from_utf8_lossy(&text), 15)
    }
}

/// Whether a server answers `GET path` with 200, in plain HTTP.
pub fn http_ok(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let second = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&address, second)?;
        stream.set_read_timeout(Some(second))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(String::from_utf8_lossy(&start).into_owned())
    };
    ask().is_ok_and(|answer| answer.ends_with(" 200"))
}

/// Waits until a port is free. The main thread of a program that ends may be gone, and with it the program for whoever looks, while
/// other threads still hold its sockets.
fn await_free(address: SocketAddr, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        match check_free(address) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            outcome => return outcome,
        }
    }
}

fn check_free(address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let holder = holder(address.port()).map_or_else(
                || "another program".to_owned(),
                |process| {
                    format!(
                        "process {} ({})",
                        process.pid,
                        process.argv.join(" ").chars().take(120).collect::<String>()
                    )
                },
            );
            bail!(
                "port {} of {} is in use by {holder}: end it, or run the cluster elsewhere",
                address.port(),
                address.ip()
            )
        }
        Err(error) => Err(error).with_context(|| format!("port {} of {} cannot be used", address.port(), address.ip())),
    }
}

/// The process that listens on a TCP port: the kernel's tables tell the socket's inode, and `/proc` who has it open.
fn holder(port: u16) -> Option<Process> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    Process::all().into_iter().find(|process| {
        fs::read_dir(format!("/proc/{}/fd", process.pid)).is_ok_and(|open| {
            open.filter_map(Result::ok)
                .filter_map(|entry| fs::read_link(entry.path()).ok())
                .any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
        })
    })
}

fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit(':').next()?;
            let is_it = *fields.get(3)? == LISTEN && u16::from_str_radix(local, 16).ok()? == port;
            is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_listening_sockets_of_that_port_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:192B 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0 100 0 0 10 0\n\
            2: 0100007F:192C 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 6443), ["socket:[4711]"]);
    }

    #[test]
    fn busy_port_is_named_with_the_process_that_has_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let error = check_free(address).expect_err("it is taken").to_string();
        assert!(error.contains(&address.port().to_string()), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn port_of_a_program_that_ends_is_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        assert!(await_free(address, Duration::ZERO).is_err(), "nothing ended, so nothing is waited for");
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(listener);
        });
        assert!(await_free(address, RELEASE).is_ok());
        ending.join().expect("it ended");
    }

    #[test]
    fn free_port_is_free() {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port");
        assert!(check_free(address).is_ok());
    }

    #[test]
    fn answer_other_than_200_is_not_ready() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let server = std::thread::spawn(move || {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 512];
                let _ = stream.read(&mut request).expect("its request");
                // In one piece: the client goes away as soon as it has read the status.
                stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n").as_bytes()).expect("answer");
            }
        });
        assert!(!http_ok(address, "/healthz"));
        assert!(http_ok(address, "/healthz"));
        server.join().expect("the server ends");
    }
}
