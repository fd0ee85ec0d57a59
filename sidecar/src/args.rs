//! What is typed on the command line or set in the environment, as it was typed. [`crate::settings`] makes sense of it.
//!
//! Secrets are taken from the environment only: a command line can be read by every process of the host.

use std::{env, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use context_manager_protocol::{config::EnvironmentSecrets, names};

use crate::set_aside::Kind;

/// Environment variable with the path of the configuration file.
const ENV_CONFIG: &str = "CONTEXT_MANAGER_CONFIG";
/// Environment variables of a sidecar that is run by hand.
const ENV_PROTOCOL_SECRET: &str = "PROTOCOL_SECRET";
const ENV_QDRANT_API_KEY: &str = "QDRANT_API_KEY";
const ENV_EMBEDDING_API_KEY: &str = "EMBEDDING_API_KEY";
/// Another name of the one before, which counts if that is not set.
const ENV_CHUTES_API_TOKEN: &str = "CHUTES_API_TOKEN";

const AFTER_HELP: &str = "\
Run by hand, these environment variables hold secrets:
  PROTOCOL_SECRET   the key of the protocol, at least 32 bytes; its key id is \"default\". Used when keys.file is not set
  EMBEDDING_API_KEY the key of the embedding API, or else CHUTES_API_TOKEN. Used when embedding.api_key_file is not set
  QDRANT_API_KEY    the key of a remote vector store. Used when store.qdrant.api_key_file is not set

Exit codes: 0 ended as asked, 1 failed, 2 the command line, the configuration or the key ring is not valid.";

/// An authenticated memory for the agent in the same pod.
#[derive(Clone, Debug, Parser)]
#[command(name = "context-manager-sidecar", version, subcommand_negates_reqs = true, after_help = AFTER_HELP)]
pub struct Args {
    /// Something other than running the sidecar.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The configuration file
    #[arg(long, env = ENV_CONFIG, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,

    /// Keep the data in TENANT/AGENT below the store's path, for a volume that several agents share
    #[arg(long, env = "CONTEXT_MANAGER_DATA_PER_AGENT")]
    pub data_per_agent: bool,

    /// Log filter, such as `info` or `context_manager_sidecar=debug`; wins over the configuration
    #[arg(long, env = names::ENV_LOG_LEVEL, value_name = "FILTER")]
    pub log_level: Option<String>,

    /// Port of the protocol; wins over the configuration
    #[arg(long, env = names::ENV_PROTOCOL_PORT, value_name = "PORT")]
    pub protocol_port: Option<u16>,

    /// A Unix socket beside the port of the protocol; wins over the configuration
    #[arg(long, env = names::ENV_SOCKET, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Port of probes and metrics; wins over the configuration
    #[arg(long, env = names::ENV_ADMIN_PORT, value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// A Unix socket for probes and metrics, beside their port
    #[arg(long, env = names::ENV_ADMIN_SOCKET, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Listen on no port, for a host whose network is shared: the protocol is served on its Unix socket alone, and probes and
    /// metrics on theirs, if there is one
    #[arg(long, env = names::ENV_SOCKET_ONLY)]
    pub socket_only: bool,

    /// Whose memory it is: the pod's namespace [default: default]
    #[arg(long, env = names::ENV_TENANT)]
    pub tenant: Option<String>,

    /// The agent's id, stable over restarts of its pod [default: default]
    #[arg(long, env = names::ENV_AGENT)]
    pub agent: Option<String>,

    /// The pod's name [default: the host's name]
    #[arg(long, env = names::ENV_POD)]
    pub pod: Option<String>,
}

/// Something other than running the sidecar.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Validate a configuration file, and the key ring it names if that is there, and exit
    Check {
        /// The configuration file
        #[arg(long, env = ENV_CONFIG, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print journaled writes that could not reach the store and were set aside, and exit. Options that say where the journal is come before
    /// it, as of the sidecar that runs: --config, and --data-per-agent if it has that
    SetAside {
        /// What
        #[arg(value_enum)]
        kind: Kind,
        /// Remove from the file what was printed
        #[arg(long)]
        remove: bool,
    },
    /// Print the OpenAPI document of the protocol, and exit
    Openapi,
    /// Ask the sidecar that runs here for a page of its probes and metrics, print it, and exit: 0 if the answer is good, 1 otherwise
    Ask {
        /// The page, such as /health or /metrics
        #[arg(value_name = "PATH", default_value = "/health/readiness")]
        path: String,
        /// Port of probes and metrics
        #[arg(long, env = names::ENV_ADMIN_PORT, value_name = "PORT", default_value_t = names::STANDALONE_ADMIN_PORT)]
        admin_port: u16,
        /// The Unix socket of probes and metrics; wins over the port
        #[arg(long, env = names::ENV_ADMIN_SOCKET, value_name = "PATH")]
        admin_socket: Option<PathBuf>,
        /// How long to ask again while the answer is not good, such as 30s
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
        wait: Duration,
    },
}

/// The secrets in the environment; an empty variable counts as none.
#[must_use]
pub fn environment_secrets() -> EnvironmentSecrets {
    secrets(|name| env::var(name).ok())
}

fn secrets(variable: impl Fn(&str) -> Option<String>) -> EnvironmentSecrets {
    let secret = |name: &str| variable(name).filter(|value| !value.is_empty()).map(Into::into);
    EnvironmentSecrets {
        protocol_secret: secret(ENV_PROTOCOL_SECRET),
        qdrant_api_key: secret(ENV_QDRANT_API_KEY),
        chutes_api_token: secret(ENV_EMBEDDING_API_KEY).or_else(|| secret(ENV_CHUTES_API_TOKEN)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn every_flag_has_an_environment_variable() {
        Args::command().debug_assert();
        for argument in Args::command().get_arguments() {
            let standard = ["help", "version"].contains(&argument.get_id().as_str());
            assert!(standard || argument.get_env().is_some(), "{}", argument.get_id());
        }
    }

    #[test]
    fn the_key_of_the_embedding_api_has_two_names() {
        let key = |set: &'static [(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            secrets(value).chutes_api_token.map(|key| key.expose_secret().to_owned())
        };
        assert_eq!(key(&[("CHUTES_API_TOKEN", "old")]).as_deref(), Some("old"));
        assert_eq!(key(&[("CHUTES_API_TOKEN", "old"), ("EMBEDDING_API_KEY", "new")]).as_deref(), Some("new"));
        assert_eq!(key(&[("CHUTES_API_TOKEN", "old"), ("EMBEDDING_API_KEY", "")]).as_deref(), Some("old"));
        assert_eq!(key(&[]), None);
    }

    #[test]
    fn every_flag_is_documented() {
        let page = include_str!("../../docs/sidecar.md");
        for argument in Args::command().get_arguments() {
            if let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) {
                let row = format!("\n| `--{flag}` | `{}` |", variable.to_string_lossy());
                assert!(page.contains(&row), "docs/sidecar.md lacks {row:?}");
            }
        }
    }

    #[test]
    fn a_configuration_is_needed_to_run() {
        assert!(Args::try_parse_from(["context-manager-sidecar"]).is_err());
        let args = Args::try_parse_from(["context-manager-sidecar", "check", "--config", "a.toml"]).expect("valid");
        assert!(matches!(args.command, Some(Command::Check { config }) if config.as_os_str() == "a.toml"));
    }
}
