//! `cluster status`: what runs, read from the machine itself; it changes nothing and builds nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::packages::SystemPrograms;
use super::part::Part;
use super::process::Process;
use super::programs::Programs;
use super::state::{Shape, State};
use super::{control_plane, node, services, up};
use crate::command;
use crate::paths::Home;

/// How the answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

#[derive(Debug, Serialize)]
struct Report {
    up: bool,
    ready: bool,
    nodes: u8,
    kubeconfig: Option<String>,
    parts: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    running: bool,
    pid: Option<i32>,
    version: String,
    addresses: Vec<String>,
    log: String,
}

/// Prints the answer; the exit code is 0 only if every part runs and the API server says that it is ready.
pub fn status(home: &Home, output: Output) -> Result<ExitCode> {
    let report = look(home)?;
    if let Some(other) = Process::other_cluster(&home.cluster()) {
        eprintln!("another cluster runs on this machine, with its state in {}", other.display());
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print_table(&report),
    }
    Ok(if report.up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(home: &Home) -> Result<Report> {
    let state = State::new(home.cluster());
    let programs = Programs::locate(home)?;
    let Some(shape) = state.shape() else {
        return Ok(Report { up: false, ready: false, nodes: 0, kubeconfig: None, parts: Vec::new() });
    };
    let parts: Vec<Line> = parts(&state, &programs, shape).iter().map(|part| line(&state, part)).collect();
    let kubeconfig = state.kubeconfig();
    let ready = kubeconfig.is_file()
        && programs.are_built()
        && command::succeeds(up::kubectl(&programs.path("kubectl"), &kubeconfig).args([
            "get",
            "--raw=/readyz",
            "--request-timeout=5s",
        ]));
    Ok(Report {
        up: ready && parts.iter().all(|part| part.running),
        ready,
        nodes: shape.nodes,
        kubeconfig: kubeconfig.is_file().then(|| kubeconfig.display().to_string()),
        parts,
    })
}

fn parts(state: &State, programs: &Programs, shape: Shape) -> Vec<Part> {
    let mut parts = vec![control_plane::etcd(state, programs), control_plane::api_server(state, programs, shape)];
    if shape.nodes > 0 {
        parts.push(control_plane::controller_manager(state, programs));
        parts.push(control_plane::scheduler(state, programs));
        let (containerd, version) = containerd();
        for node in 0..shape.nodes {
            parts.push(node::containerd(state, containerd.clone(), &version, node));
            parts.push(node::kubelet(state, programs, node));
        }
        parts.push(services::proxy(state, programs));
        parts.push(services::dns(state, programs));
    }
    parts
}

/// A containerd that runs is recognised by its name alone, so this serves even where it has been removed meanwhile.
fn containerd() -> (PathBuf, String) {
    let found = SystemPrograms::find().and_then(|system| {
        let version = system.containerd_version()?;
        Ok((system.containerd, version))
    });
    found.unwrap_or_else(|_| ("containerd".into(), "unknown".to_owned()))
}

fn line(state: &State, part: &Part) -> Line {
    let process: Option<Process> = part.process();
    Line {
        name: part.name.clone(),
        running: process.is_some(),
        pid: process.map(|process| process.pid),
        version: part.version.clone(),
        addresses: part.listens.iter().map(ToString::to_string).collect(),
        log: state.log(&part.name).display().to_string(),
    }
}

fn print_table(report: &Report) {
    if report.parts.is_empty() {
        println!("there is no cluster; `cargo xtask cluster up` makes one");
        return;
    }
    println!("{:<24} {:<8} {:>7} {:<18} ADDRESSES", "PART", "STATE", "PID", "VERSION");
    for part in &report.parts {
        let state = if part.running { "running" } else { "stopped" };
        let pid = part.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{:<24} {state:<8} {pid:>7} {:<18} {}", part.name, part.version, part.addresses.join(" "));
    }
    let ready = if report.ready { "ready" } else { "not ready" };
    println!("API server: {ready}; kubeconfig: {}", report.kubeconfig.as_deref().unwrap_or("none"));
}
