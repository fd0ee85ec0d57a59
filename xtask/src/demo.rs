//! `cargo xtask demo`: the product does its main job on a real cluster, step by step, as a person would have it done.
//!
//! Each step prints its commands and what came of them, and checks what the cluster really holds afterwards. The demo ends in
//! success only if every check held; when one does not, everything is left as it is, to be looked at.

mod agent;
mod answers;
mod clean;
mod input;
mod install;
mod job;
mod kill;
mod kube;
mod metrics;
mod pod;
mod resource;
mod screen;
mod trouble;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cluster::{self, ClusterArgs, ClusterHandle, Target};
use crate::command;
use crate::paths::Home;

use input::Input;
use kube::Kube;
use screen::Screen;

/// Where the operator is installed.
const SYSTEM: &str = "context-manager-system";
/// Where the agents run; `examples/*.yaml` name it.
const AGENTS: &str = "demo-agents";
/// The helm release.
const RELEASE: &str = "context-manager";
/// The label on every namespace that the demo made, so that it removes nobody else's.
const MARK: &str = "app.kubernetes.io/part-of=context-manager-demo";
/// The custom resource's definition.
const DEFINITION: &str = "contextmanagers.contextmanager.dev";

/// The command line of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave everything as it is at the end, and print what to try next
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier run left
    #[arg(long, conflicts_with_all = ["keep", "document", "question", "embedding_url"])]
    clean: bool,
    /// The document that the agent remembers, text or Markdown [default: the project's README]
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// A question about the document; can be given several times [default: those of examples/questions.txt]
    #[arg(long, value_name = "QUESTION")]
    question: Vec<String>,
    /// An OpenAI-compatible embeddings API, as the sidecar reaches it; the key comes from `EMBEDDING_API_KEY` if it needs one
    #[arg(long, value_name = "URL", requires = "embedding_model")]
    embedding_url: Option<String>,
    /// The embedding model
    #[arg(long, value_name = "NAME", requires = "embedding_url")]
    embedding_model: Option<String>,
    /// Length of the model's vectors
    #[arg(long, value_name = "NUMBER", default_value_t = 384)]
    embedding_dimensions: u16,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `cargo xtask demo`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let input = Input::read(&home, args)?;
    let _lock = home.lock("installation")?;
    if args.clean && args.cluster.cluster == Target::Dev && !cluster::is_there(&home) {
        println!("there is no dev cluster, and so nothing of the demo in it");
        clean::files(&home)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut screen = Screen::new(args);
    let kube = Kube::new(cluster::ensure(&args.cluster)?);
    if args.clean {
        clean::run(&kube, &mut screen, &home)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = steps(args, &home, &input, &kube, &mut screen) {
        trouble::report(&kube, &screen, &error);
        return Ok(ExitCode::FAILURE);
    }
    screen.summary();
    if args.keep {
        println!("{}", screen::next_steps(args.cluster.cluster));
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails if a demo was left running in the cluster: its webhook and controller would take part in whatever comes next.
pub fn check_absent(cluster: &ClusterHandle) -> Result<()> {
    let marked = command::output(cluster.kubectl().args(["get", "namespaces", "-l", MARK, "-o", "name"]))?;
    if !marked.trim().is_empty() {
        bail!("the demo's installation is in the cluster; remove it by `cargo xtask demo --clean`");
    }
    Ok(())
}

fn steps(args: &Args, home: &Home, input: &Input, kube: &Kube, screen: &mut Screen) -> Result<()> {
    screen.step("A cluster", || install::look_at(kube))?;
    if clean::is_needed(kube)? {
        screen.extra_step("Remove what an earlier run left", || clean::all(kube))?;
    }
    screen
        .step("Images of the operator, the sidecar and the example agent", || install::images(kube, &args.cluster))?;
    screen.step("Install the operator", || install::operator(kube, &args.cluster))?;
    screen.step("A memory: one resource", || resource::apply(kube, home, input, &args.cluster))?;
    let agent = screen.step("An ordinary agent", || agent::deploy(kube, input, &args.cluster))?;
    screen.step("What the webhook added to its pod", || pod::show(kube, &agent))?;
    let said = screen.step("What the agent stored and retrieved", || agent::listen(kube, input))?;
    match args.cluster.cluster {
        Target::Dev => {
            screen.step("Kill the sidecar (SIGKILL)", || kill::sidecar(kube, &agent))?;
            screen.step("Ask again: the memory is still there", || agent::ask_again(kube, &said))?;
        }
        Target::Current => screen.skip(
            "Kill the sidecar (SIGKILL)",
            "a process of another machine's node is out of reach; on the dev cluster it is killed",
        ),
    }
    screen.step("Replace the pod: the memory is on a volume", || agent::replace(kube, &said))?;
    screen.step("A Job with a memory completes", || job::run(kube, input, &args.cluster))?;
    screen.step("What the sidecar measured", || metrics::scrape(kube, home, &said))?;
    if args.keep {
        return Ok(());
    }
    screen.step("Delete everything", || clean::all(kube))
}
