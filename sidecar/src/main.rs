//! The program `context-manager-sidecar`: parses, builds, runs.

use std::{io, num::NonZero, path::Path, process::ExitCode, thread, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use context_manager_protocol::config::Store;
use context_manager_sidecar::{
    args::{self, Args, Command},
    ask::{self, Place},
    engine, logging, openapi, set_aside,
    settings::{self, KeysFound, Settings},
    shutdown::Signals,
    sidecar::Sidecar,
    telemetry::Telemetry,
};
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Exit code when command line, configuration or key ring is not valid; what clap uses too.
const INVALID: u8 = 2;
/// Most threads that serve requests: one agent needs no more, also on a node with many processors.
const MAX_THREADS: usize = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Some(Command::Check { config }) => check(config),
        Some(Command::Openapi) => {
            print!("{}", openapi::document());
            ExitCode::SUCCESS
        }
        Some(Command::Ask { path, admin_port, admin_socket, wait }) => {
            let place = admin_socket.clone().map_or(Place::Port(*admin_port), Place::Socket);
            ask(&place, path, *wait)
        }
        Some(Command::SetAside { kind, remove }) => {
            let (kind, remove) = (*kind, *remove);
            tell_set_aside(args, kind, remove)
        }
        None => match prepare(args) {
            Ok(run) => run.until_end(),
            Err(error) => invalid(&error),
        },
    }
}

fn invalid(error: &settings::Error) -> ExitCode {
    eprintln!("error: {}", error.for_log());
    ExitCode::from(INVALID)
}

fn ask(place: &Place, path: &str, wait: Duration) -> ExitCode {
    match ask::ask(place, path, wait) {
        Ok(page) => {
            println!("{}", page.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn tell_set_aside(args: Args, kind: set_aside::Kind, remove: bool) -> ExitCode {
    let config = match Settings::new(args, args::environment_secrets()).and_then(|settings| settings.configuration()) {
        Ok(config) => config,
        Err(error) => return invalid(&error),
    };
    let Some(directory) = engine::journal_directory(&config) else {
        eprintln!("error: there is no journal; journal.path is not set");
        return ExitCode::FAILURE;
    };
    match set_aside::tell(&directory, kind, remove, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn check(config_file: &Path) -> ExitCode {
    match settings::check(config_file) {
        Ok((config, keys)) => {
            println!("{} is valid (generation {})", config_file.display(), config.generation);
            match keys {
                KeysFound::InFile(path, ids) => println!("{} is valid (keys {})", path.display(), ids.join(", ")),
                KeysFound::Missing(path) => println!("{} is not here and was not checked", path.display()),
                KeysFound::FromEnvironment => println!("no keys.file: PROTOCOL_SECRET must be set when it runs"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => invalid(&error),
    }
}

struct Run {
    settings: Settings,
    loaded: (context_manager_protocol::config::SidecarConfig, context_manager_protocol::keyring::KeyRing),
}

fn prepare(args: Args) -> Result<Run, settings::Error> {
    let settings = Settings::new(args, args::environment_secrets())?;
    let loaded = settings.load()?;
    Ok(Run { settings, loaded })
}

impl Run {
    fn until_end(self) -> ExitCode {
        let telemetry = Telemetry::default();
        let filter = match logging::start(&self.loaded.0.log, &telemetry) {
            Ok(filter) => filter,
            Err(error) => {
                eprintln!("error: {:#}", anyhow::Error::from(error));
                return ExitCode::FAILURE;
            }
        };
        match self.serve(filter, telemetry) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!(error = format!("{error:#}"), "Ended by a failure");
                ExitCode::FAILURE
            }
        }
    }

    fn serve(self, filter: logging::Filter, telemetry: Telemetry) -> anyhow::Result<()> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let outcome = runtime.block_on(async {
            let stop = CancellationToken::new();
            let signals = Signals::install().context("failed to install signal handlers")?;
            tokio::spawn(signals.run(stop.clone()));
            info!(
                version = env!("CARGO_PKG_VERSION"),
                tenant.id = %self.settings.identity.tenant,
                agent.id = %self.settings.identity.agent,
                pod.name = self.settings.identity.pod,
                "Starting"
            );
            match &self.loaded.0.store {
                Store::Embedded(_) if self.settings.secrets.qdrant_api_key.is_some() => {
                    warn!("QDRANT_API_KEY is not used: the store is the embedded one");
                }
                Store::Qdrant(store) if store.is_unverified() => {
                    warn!(
                        "store.qdrant.verify is off: whoever is on the way to Qdrant can read and change every context"
                    );
                }
                Store::Embedded(_) | Store::Qdrant(_) => {}
            }
            match Sidecar::start(self.settings, self.loaded, (filter, telemetry), stop).await? {
                Some(sidecar) => Ok(sidecar.run().await?),
                None => Ok(()), // Told to stop before the start was over.
            }
        });
        // What still runs after the bounded end, such as a blocked disk, does not hold up the exit.
        runtime.shutdown_background();
        outcome
    }
}
