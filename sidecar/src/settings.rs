//! What the sidecar runs with: the start parameters made valid, and how the content of a file becomes values in force.
//!
//! Start and reload read files the same way, by [`Settings::config`] and [`Settings::keys`]; both are pure.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use context_manager_memory::name::InvalidName;
use context_manager_protocol::{
    config::{self, EnvironmentSecrets, SidecarConfig, Store},
    keyring::{self, Key, KeyRing},
};
use secrecy::ExposeSecret as _;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::{args::Args, identity::Identity, listener::socket::MAX_BYTES, refusal::chain};

#[cfg(test)]
mod tests;

/// Id of the one key of a sidecar that is run by hand.
pub const ENVIRONMENT_KEY_ID: &str = "default";
/// The protocol's Unix socket, as its configuration calls it.
const PROTOCOL_SOCKET: &str = "protocol.socket";

/// The start parameters, valid.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config_file: PathBuf,
    /// Where the data lies below the store's path.
    pub data_layout: DataLayout,
    /// Wins over the configuration's.
    pub log_level: Option<String>,
    /// Likewise.
    pub protocol_port: Option<u16>,
    /// Likewise.
    pub socket: Option<PathBuf>,
    /// Likewise.
    pub admin_port: Option<u16>,
    /// A Unix socket for probes and metrics.
    pub admin_socket: Option<PathBuf>,
    /// What is listened on.
    pub listening: Listening,
    /// Who this sidecar is.
    pub identity: Identity,
    /// Secrets from the environment.
    pub secrets: EnvironmentSecrets,
}

/// Where the data lies below the store's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataLayout {
    /// Right there: the path belongs to one agent.
    Flat,
    /// In `tenant/agent`: several agents share the volume.
    PerAgent,
}

/// What is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// Ports, and the sockets that are configured.
    Ports,
    /// The sockets alone.
    SocketsOnly,
}

/// Why the sidecar cannot run with what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a flag nor the environment names the configuration.
    #[error("no configuration file; give --config FILE")]
    NoConfigFile,
    /// A file cannot be read.
    #[error("failed to read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is not valid.
    #[error("{path:?} is not a valid configuration")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: config::Error,
    },
    /// The path of the Unix socket is too long for the kernel.
    #[error(
        "{name} is {path:?}, {} bytes long; the kernel takes few, so it must be at most {MAX_BYTES}",
        path.as_os_str().len()
    )]
    SocketPath {
        /// Which socket.
        name: &'static str,
        /// The path, absolute.
        path: PathBuf,
    },
    /// There would be no way to speak to it.
    #[error("no port is to be listened on and there is no socket; give --socket PATH, or leave out --socket-only")]
    NoSocket,
    /// The log filter is not valid.
    #[error("the log level {level:?} is not a filter such as info or context_manager_sidecar=debug")]
    LogLevel {
        /// The filter.
        level: String,
        /// Why.
        source: ParseError,
    },
    /// The key ring is not valid.
    #[error("{path:?} is not a valid key ring")]
    Keys {
        /// The file.
        path: PathBuf,
        /// Why.
        source: keyring::Error,
    },
    /// There is no key at all.
    #[error(
        "no key for the protocol; set keys.file in the configuration, or PROTOCOL_SECRET (openssl rand -base64 32)"
    )]
    NoKey,
    /// The key in the environment is not valid.
    #[error("PROTOCOL_SECRET is not a valid key")]
    EnvironmentKey(#[source] keyring::Error),
    /// Tenant or agent is not a valid name.
    #[error("the start parameters do not say who this sidecar is")]
    Identity(#[source] InvalidName),
}

impl Error {
    /// The whole chain on one line, for log and terminal, without what could be a piece of a key: a type error of the key
    /// ring quotes the value, so only its place is told.
    #[must_use]
    pub fn for_log(&self) -> String {
        if let Self::Keys { source: source @ keyring::Error::Json(cause), .. } = self
            && cause.to_string().starts_with("invalid ")
        {
            return format!(
                "{self}: {source}: a value is not valid at line {} column {}",
                cause.line(),
                cause.column()
            );
        }
        chain(self)
    }
}

impl Settings {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// When tenant, agent or log level is not valid.
    pub fn new(args: Args, secrets: EnvironmentSecrets) -> Result<Self, Error> {
        let Args {
            command: _,
            config,
            data_per_agent,
            log_level,
            protocol_port,
            socket,
            admin_port,
            admin_socket,
            socket_only,
            tenant,
            agent,
            pod,
        } = args;
        if let Some(level) = &log_level {
            check_log_level(level)?;
        }
        // What is typed is relative to where it is typed.
        let here = Path::new("");
        Ok(Self {
            config_file: config.ok_or(Error::NoConfigFile)?,
            data_layout: if data_per_agent { DataLayout::PerAgent } else { DataLayout::Flat },
            log_level,
            protocol_port,
            socket: socket.map(|path| socket_path(PROTOCOL_SOCKET, here, &path)).transpose()?,
            admin_port,
            admin_socket: admin_socket.map(|path| socket_path("the admin socket", here, &path)).transpose()?,
            listening: if socket_only { Listening::SocketsOnly } else { Listening::Ports },
            identity: Identity::new(tenant.as_deref(), agent.as_deref(), pod.as_deref()).map_err(Error::Identity)?,
            secrets,
        })
    }

    /// Reads configuration and key ring.
    ///
    /// # Errors
    /// When one of them cannot be read or is not valid.
    pub fn load(&self) -> Result<(SidecarConfig, KeyRing), Error> {
        let config = self.configuration()?;
        let keys = match &config.keys.file {
            Some(path) => Self::keys(path, &read(path)?)?,
            None => self.environment_keys()?,
        };
        Ok((config, keys))
    }

    /// Reads the configuration alone.
    ///
    /// # Errors
    /// When it cannot be read or is not valid.
    pub fn configuration(&self) -> Result<SidecarConfig, Error> {
        self.config(&read(&self.config_file)?)
    }

    /// The configuration that the file's content means for this sidecar: with absolute paths, the data's place, and what
    /// the command line says otherwise.
    ///
    /// # Errors
    /// When the content is not a valid configuration.
    pub fn config(&self, content: &[u8]) -> Result<SidecarConfig, Error> {
        let mut config = parse_config(&self.config_file, content)?;
        let directory = self.config_file.parent().unwrap_or(Path::new(""));
        let EmbeddingFiles { api_key, ca } = EmbeddingFiles::of(&mut config);
        for file in [api_key, ca].into_iter().flatten() {
            *file = directory.join(&file);
        }
        for file in config.keys.file.iter_mut().chain(config.tracing.files_mut()) {
            *file = directory.join(&file);
        }
        match (&self.socket, &config.protocol.socket) {
            (Some(socket), _) => config.protocol.socket = Some(socket.clone()),
            (None, Some(path)) => config.protocol.socket = Some(socket_path(PROTOCOL_SOCKET, directory, path)?),
            (None, None) if self.listening == Listening::SocketsOnly => return Err(Error::NoSocket),
            (None, None) => {}
        }
        if let Some(path) = &mut config.journal.path {
            *path = directory.join(&path);
            if self.data_layout == DataLayout::PerAgent {
                path.push(self.identity.directory());
            }
        }
        match &mut config.store {
            Store::Embedded(store) if self.data_layout == DataLayout::PerAgent => {
                store.path.push(self.identity.directory());
            }
            Store::Embedded(_) => {}
            Store::Qdrant(store) => {
                for file in store.files_mut() {
                    *file = directory.join(&file);
                }
            }
        }
        config.protocol.port = self.protocol_port.unwrap_or(config.protocol.port);
        config.admin.port = self.admin_port.unwrap_or(config.admin.port);
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        Ok(config)
    }

    /// The key ring that the file's content means.
    ///
    /// # Errors
    /// When the content is not a valid key ring.
    pub fn keys(path: &Path, content: &[u8]) -> Result<KeyRing, Error> {
        KeyRing::from_json(content).map_err(|source| Error::Keys { path: path.to_owned(), source })
    }

    /// The key ring of a sidecar that is run by hand.
    ///
    /// # Errors
    /// When there is no `PROTOCOL_SECRET`, or it is too short.
    pub fn environment_keys(&self) -> Result<KeyRing, Error> {
        let secret = self.secrets.protocol_secret.as_ref().ok_or(Error::NoKey)?;
        let material = secret.expose_secret().as_bytes().to_vec();
        Key::new(ENVIRONMENT_KEY_ID, material).map(KeyRing::new).map_err(Error::EnvironmentKey)
    }
}

/// The files that the embedding's configuration names.
struct EmbeddingFiles<'a> {
    api_key: Option<&'a mut PathBuf>,
    ca: Option<&'a mut PathBuf>,
}

impl<'a> EmbeddingFiles<'a> {
    fn of(config: &'a mut SidecarConfig) -> Self {
        Self { api_key: config.embedding.api_key_file.as_mut(), ca: config.embedding.ca_file.as_mut() }
    }
}

fn parse_config(path: &Path, content: &[u8]) -> Result<SidecarConfig, Error> {
    // A byte that is not UTF-8 becomes a character that TOML refuses with its line, or is harmless in a comment.
    let text = String::from_utf8_lossy(content);
    let config = SidecarConfig::from_toml(&text).map_err(|source| Error::Config { path: path.to_owned(), source })?;
    check_log_level(&config.log.level)?;
    Ok(config)
}

/// Where a Unix socket is.
fn socket_path(name: &'static str, directory: &Path, path: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(path);
    if path.as_os_str().len() > MAX_BYTES { Err(Error::SocketPath { name, path }) } else { Ok(path) }
}

fn check_log_level(level: &str) -> Result<(), Error> {
    EnvFilter::try_new(level).map(drop).map_err(|source| Error::LogLevel { level: level.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// What `check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFound {
    /// The file is there and valid; the ids of its keys.
    InFile(PathBuf, Vec<String>),
    /// The file is not on this machine, so it was not checked.
    Missing(PathBuf),
    /// The configuration names none: `PROTOCOL_SECRET` will be needed.
    FromEnvironment,
}

/// Validates a configuration file, and the key ring it names if that is there.
///
/// # Errors
/// When one of them is not valid.
pub fn check(config_file: &Path) -> Result<(SidecarConfig, KeysFound), Error> {
    let config = parse_config(config_file, &read(config_file)?)?;
    let directory = config_file.parent().unwrap_or(Path::new(""));
    if let Some(path) = &config.protocol.socket {
        socket_path(PROTOCOL_SOCKET, directory, path)?;
    }
    let Some(path) = config.keys.file.as_ref().map(|file| directory.join(file)) else {
        return Ok((config, KeysFound::FromEnvironment));
    };
    if !path.exists() {
        return Ok((config, KeysFound::Missing(path)));
    }
    let ring = Settings::keys(&path, &read(&path)?)?;
    let ids = ring.keys().map(|key| key.id().to_owned()).collect();
    Ok((config, KeysFound::InFile(path, ids)))
}
