//! Every chore of the project as one program: `cargo xtask --help` lists them.
//!
//! This file owns the command line and nothing else; each command lives in the module of its name.

mod arrows;
mod bench;
mod build;
mod cert_manager;
mod ci;
mod cluster;
mod command;
mod demo;
mod disk;
mod eval;
mod fuzz;
mod generate;
mod images;
mod paths;
mod progress;
mod real;
mod schemathesis;
mod test;
mod tool;
#[cfg(test)]
mod workflows;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See the product do its main job on a real cluster, step by step
    Demo(demo::Args),
    /// A real Kubernetes on this machine: start it, look at it, end it
    Cluster(cluster::Args),
    /// Build the container images of the product, without Docker
    Images(images::Args),
    /// Write the files that are made from code: the resource's definition, the description of the protocol
    Generate(generate::Args),
    /// Measure sizes, memory and latencies on this machine
    Bench(bench::Args),
    /// Measure how well retrieval finds, on conversations that are not part of the project
    Eval(eval::Args),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Args),
    /// Run every test; the last line counts them
    Test(test::Args),
    /// Run what continuous integration runs: format, arrows, lints, tests
    Ci,
    /// Check which crate depends on which
    CheckArrows,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Ci => ci::run(),
        Command::CheckArrows => arrows::run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
