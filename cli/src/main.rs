//! The program: parses, runs, prints.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use context_manager_cli::{Answer, Args, Exit, run};

fn main() -> ExitCode {
    let args = Args::parse();
    // Two providers may be in the dependency graph, so rustls wants to be told. The first call of a process succeeds.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: failed to start: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(run(args)) {
        Ok(answer) => print(&answer),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            error.exit().into()
        }
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(Answer { text, notes, exit }: &Answer) -> ExitCode {
    for note in notes {
        eprintln!("{note}");
    }
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: failed to write to the standard output: {error}");
            Exit::Failed.into()
        }
        Ok(()) | Err(_) => (*exit).into(),
    }
}

/// The error with its causes. Libraries repeat their causes in their own words; those are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}
