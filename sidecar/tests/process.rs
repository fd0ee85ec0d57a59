//! The program itself, as a process: exit codes, signals, and what is left after `kill -9`.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use context_manager_protocol::{
    keyring::Key,
    message::{Acknowledgment, ContextList, ContextResponse},
    signature,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const SIGKILL: i32 = 9;

/// A directory with a configuration, and the environment of a sidecar that is run by hand.
struct Home(TempDir);

impl Home {
    fn new(rest: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let data = directory.path().join("data");
        let ports = "[protocol]\nport = 0\n[admin]\naddress = \"127.0.0.1\"\nport = 0\n";
        let text = format!("{ports}[store.embedded]\npath = \"{}\"\n{rest}", data.display());
        fs::write(directory.path().join("config.toml"), text).expect("a file");
        Self(directory)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    fn start(&self) -> Sidecar {
        let child = program(&self.config()).env("PROTOCOL_SECRET", SECRET).spawn().expect("the program");
        let mut sidecar = Sidecar { child, address: String::new() };
        let log = BufReader::new(sidecar.child.stdout.take().expect("a pipe"));
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(&line.expect("UTF-8")).expect("a JSON line");
            if line["message"] == "Ready" {
                line["protocol"].as_str().expect("an address").clone_into(&mut sidecar.address);
                return sidecar;
            }
        }
        let mut complaint = String::new();
        sidecar.child.stderr.take().expect("a pipe").read_to_string(&mut complaint).expect("UTF-8");
        unreachable!("the sidecar did not start: {complaint}")
    }
}

/// The program that cargo built for these tests. The variable is read when they run, because a compiler wrapper that is a
/// shell script drops variables with a hyphen in their name when they are compiled.
fn executable() -> Command {
    let mut command = Command::new(env::var_os("CARGO_BIN_EXE_context-manager-sidecar").expect("set by cargo test"));
    command.env_clear();
    command
}

/// The program with a configuration and nothing else.
fn program(config: &Path) -> Command {
    let mut command = executable();
    command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Sidecar {
    child: Child,
    address: String,
}

impl Sidecar {
    fn call(&self, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        static NONCE: AtomicU64 = AtomicU64::new(0);
        let key = Key::new("default", SECRET.into()).expect("a valid key");
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let created = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs().cast_signed();
        let nonce = format!("nonce-{:020}-{}", NONCE.fetch_add(1, Ordering::Relaxed), std::process::id());
        let signed = signature::sign(&key, &signature::Request { method, path, query, body }, created, &nonce);
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in signed.pairs() {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.extend(["content-type: application/json\r\ncontent-length: ", &body.len().to_string(), "\r\n\r\n"]);
        let mut stream = TcpStream::connect(&self.address).expect("a listener");
        stream.write_all(&[request.as_bytes(), body].concat()).expect("a connection");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let status = String::from_utf8_lossy(&answer[9..12]).parse().expect("a status");
        (status, answer.split_off(end + 4))
    }

    fn expect<T: DeserializeOwned>(&self, method: &str, target: &str, body: &serde_json::Value, status: u16) -> T {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let (actual, answer) = self.call(method, target, &body);
        assert_eq!(actual, status, "{}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).expect("the message")
    }

    fn signal(&mut self, name: &str) -> (std::process::ExitStatus, Duration) {
        let since = Instant::now();
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("the command kill");
        assert!(sent.success());
        (self.child.wait().expect("an exit"), since.elapsed())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It has ended already, except when a test failed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let home = Home::new("[levels.short_term]\ncapacity = 1000\n");
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut sidecar = home.start();
        for number in 0..40 {
            let level = ["immediate", "short_term", "long_term"][number % 3];
            let text = format!("in round {round} the traveller wrote down the number {number}");
            // A session of its own for each immediate context, so that none makes room for another.
            let session = format!("session-{round}-{number}");
            let body = json!({"text": text, "level": level, "session": session});
            let acknowledgment: Acknowledgment = sidecar.expect("POST", "/v1/contexts", &body, 201);
            acknowledged.push((acknowledgment.id, text));
        }
        let (status, _) = sidecar.signal("-KILL");
        assert_eq!(status.signal(), Some(SIGKILL));
    }
    let sidecar = home.start();
    for (id, text) in &acknowledged {
        let context: serde_json::Value = sidecar.expect("GET", &format!("/v1/contexts/{id}"), &json!(null), 200);
        assert_eq!(context["text"], *text);
    }
    let listed: ContextList = sidecar.expect("GET", "/v1/contexts?session=session-1-4", &json!(null), 200);
    assert_eq!(listed.contexts.len(), 1, "nothing is lost, and nothing is doubled");
    let query = json!({"query": "which number did the traveller write in round 2", "token_budget": 200});
    let found: ContextResponse = sidecar.expect("POST", "/v1/contexts/search", &query, 200);
    assert!(!found.contexts.is_empty() && found.tokens_used <= 200);
}

#[test]
fn sigterm_and_sigint_end_it_with_0_within_2_seconds() {
    for signal in ["-TERM", "-INT"] {
        let home = Home::new("");
        let mut sidecar = home.start();
        // An idle connection and half a request must not hold up the end.
        let _idle = TcpStream::connect(&sidecar.address).expect("a listener");
        let mut half = TcpStream::connect(&sidecar.address).expect("a listener");
        half.write_all(b"POST /v1/contexts HTTP/1.1\r\nhost: a\r\n").expect("a connection");
        let (status, elapsed) = sidecar.signal(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(elapsed < Duration::from_secs(2), "{signal}: {elapsed:?}");
    }
}

#[test]
fn a_second_sidecar_on_the_same_data_says_so_and_ends() {
    let home = Home::new("");
    let first = home.start();
    let child = program(&home.config()).env("PROTOCOL_SECRET", SECRET).spawn().expect("the program");
    let mut second = Sidecar { child, address: String::new() };
    let mut log = String::new();
    let mut lines = BufReader::new(second.child.stdout.take().expect("a pipe"));
    while lines.read_line(&mut log).expect("UTF-8") > 0 {
        assert!(!log.contains("Ready"), "both use the same data: {log}");
    }
    assert_eq!(second.child.wait().expect("an exit").code(), Some(1), "{log}");
    assert!(log.contains("failed to open the memory"), "{log}");
    let (status, _) = first.call("GET", "/v1/contexts/stats", b"");
    assert_eq!(status, 200);
}

#[test]
fn a_bad_start_ends_with_2_and_names_what_is_wrong() {
    let home = Home::new("");
    let no_key = program(&home.config()).output().expect("the program");
    let (code, complaint) = failed(&no_key);
    assert!(code == Some(2) && complaint.contains("PROTOCOL_SECRET"), "{complaint}");

    let weak = program(&home.config()).env("PROTOCOL_SECRET", "weak").output().expect("the program");
    let (code, complaint) = failed(&weak);
    assert!(code == Some(2) && complaint.contains("at least 32") && !complaint.contains("weak"), "{complaint}");

    let bad = Home::new("[gc]\nbatch_size = 0\n");
    for command in [&mut program(&bad.config()), executable().arg("check").arg("--config").arg(bad.config())] {
        let (code, complaint) = failed(&command.output().expect("the program"));
        assert!(code == Some(2) && complaint.contains("gc.batch_size is 0"), "{complaint}");
    }
    let none = executable().output().expect("the program");
    let (code, complaint) = failed(&none);
    assert!(code == Some(2) && complaint.contains("--config"), "{complaint}");
}

#[test]
fn check_accepts_a_good_configuration() {
    let home = Home::new("");
    let check = executable().arg("check").arg("--config").arg(home.config()).output().expect("the program");
    let told = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success() && told.contains("is valid") && told.contains("PROTOCOL_SECRET"), "{told}");
}
