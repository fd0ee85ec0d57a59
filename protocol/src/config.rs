//! The sidecar's configuration file, `config.toml`: written by the operator, or by hand for a sidecar outside Kubernetes.
//!
//! Unknown keys are refused. Every value has a default but `store`, so that a short file is a working one. Secrets never
//! stand in the file: it names files that hold them, or they come from the environment when run by hand.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{duration::HumanDuration, names, size::ByteSize};

mod access;
mod embedding;
mod levels;
mod retrieval;
mod store;
mod tracing;
mod validate;

pub use access::{AccessRule, AccessTarget, Operation};
pub use embedding::{Cache, Embedding, OnModelChange, Provider, ReEmbedding, Retry};
pub use levels::{LevelConfig, Levels, Promotion};
pub use retrieval::{BudgetShare, Legs, Nudges, Retrieval, Tokenizer};
pub use store::{Durability, EmbeddedStore, QdrantStore, Store};
pub use tracing::Tracing;

pub use validate::Error;

/// The version of the file's format that this crate reads and writes.
pub const SCHEMA_VERSION: i32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarConfig {
    /// The format's version; [`SCHEMA_VERSION`].
    #[serde(default = "schema_version")]
    pub schema_version: i32,
    /// `metadata.generation` of the resource it was made from; 0 when written by hand.
    #[serde(default)]
    pub generation: i64,
    /// The authenticated listener on loopback.
    #[serde(default)]
    pub protocol: Protocol,
    /// The listener for probes and metrics.
    #[serde(default)]
    pub admin: Admin,
    /// Where the key ring is.
    #[serde(default)]
    pub keys: Keys,
    /// What agents may do outside their own memory. Without a rule: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessRule>,
    /// Where contexts are kept.
    pub store: Store,
    /// What makes vectors of texts.
    #[serde(default)]
    pub embedding: Embedding,
    /// When a neighbour that fails is left alone for a while.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
    /// Writes that the store could not take yet.
    #[serde(default)]
    pub journal: Journal,
    /// The three levels.
    #[serde(default)]
    pub levels: Levels,
    /// How answers are ranked and packed.
    #[serde(default)]
    pub retrieval: Retrieval,
    /// What contexts were before.
    #[serde(default)]
    pub history: History,
    /// Garbage collection of expired contexts.
    #[serde(default)]
    pub gc: Gc,
    /// What the log shows.
    #[serde(default)]
    pub log: Log,
    /// Where traces go. Not written when it says nothing, so that a sidecar that knows no traces yet takes the file as well.
    #[serde(default, skip_serializing_if = "Tracing::is_default")]
    pub tracing: Tracing,
}

const BYTES_IN_FLIGHT: ByteSize = ByteSize::new(64 << 20);

/// The authenticated listener. Addresses are 127.0.0.1 and `::1`, and cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Protocol {
    /// TCP port. A change takes effect at the next start.
    pub port: u16,
    /// A Unix socket beside it; absolute, or relative to the configuration file. A change takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Largest request body.
    pub max_message_size: ByteSize,
    /// How far `created` may lie from now, either way.
    pub timestamp_window: HumanDuration,
    /// Most requests at once; more are refused.
    pub max_in_flight: usize,
    /// Most bytes of request bodies at once; more are refused. When absent: 64Mi, or `max_message_size` if that is larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_in_flight: Option<ByteSize>,
    /// Longest time of a request.
    pub request_timeout: HumanDuration,
    /// Most streams (`/v1/stream`) at once; 0 offers none.
    pub max_streams: usize,
    /// Time between two heartbeats of a stream. One whose agent is silent for three of them is closed.
    pub heartbeat_interval: HumanDuration,
}

/// The listener for probes and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address to listen on.
    pub address: std::net::IpAddr,
    /// TCP port. A change takes effect at the next start.
    pub port: u16,
}

/// Where the key ring is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// The key ring file; absolute, or relative to the configuration file. Without it the environment variable
    /// `PROTOCOL_SECRET` holds the one key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// When a neighbour that fails, the Qdrant server or the embedding API, is left alone for a while. A change takes effect at the next
/// start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Failures in a row after which it is not called any more.
    pub failure_threshold: u32,
    /// Successes in a row after which it is trusted again.
    pub success_threshold: u32,
    /// How long it is left alone.
    pub open_for: HumanDuration,
}

/// Where writes wait while the store cannot take them. A change takes effect at the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Its directory; absolute, or relative to the configuration file. When absent: `journal` in the embedded store's path, and none
    /// beside a Qdrant server, so that writes are refused while that is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Most bytes on the disk; further writes are refused.
    pub max_size: ByteSize,
    /// Most bytes that waiting writes take in memory, estimated; further writes are refused. Left out unless chosen, because sidecars before
    /// it refuse fields that they do not know.
    #[serde(skip_serializing_if = "is_default_memory")]
    pub max_memory: ByteSize,
}

const JOURNAL_MEMORY: ByteSize = ByteSize::new(96 << 20);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_default_memory(size: &ByteSize) -> bool {
    *size == JOURNAL_MEMORY
}

/// What contexts were before they were changed or superseded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// How long it is kept; 0 keeps nothing.
    pub keep_for: HumanDuration,
}

/// Garbage collection of expired contexts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// Time between two runs, varied by up to a tenth.
    pub interval: HumanDuration,
    /// Most contexts of one deletion.
    pub batch_size: usize,
    /// Only counts what a run would delete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What the log shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A `tracing` filter such as `info` or `context_manager=debug`.
    pub level: String,
    /// JSON lines or text.
    pub format: LogFormat,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Secrets that a sidecar outside Kubernetes takes from the environment.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentSecrets {
    /// `PROTOCOL_SECRET`: the one key of the protocol.
    pub protocol_secret: Option<SecretString>,
    /// `QDRANT_API_KEY`: of a remote vector store.
    pub qdrant_api_key: Option<SecretString>,
    /// `EMBEDDING_API_KEY`, or else `CHUTES_API_TOKEN`: of the embedding API.
    pub chutes_api_token: Option<SecretString>,
}

impl SidecarConfig {
    /// The defaults, with the embedded store in `path`.
    #[must_use]
    pub fn embedded(path: impl Into<PathBuf>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            generation: 0,
            protocol: Protocol::default(),
            admin: Admin::default(),
            keys: Keys::default(),
            access: Vec::new(),
            store: Store::Embedded(EmbeddedStore { path: path.into(), durability: Durability::default() }),
            embedding: Embedding::default(),
            circuit_breaker: CircuitBreaker::default(),
            journal: Journal::default(),
            levels: Levels::default(),
            retrieval: Retrieval::default(),
            history: History::default(),
            gc: Gc::default(),
            log: Log::default(),
            tracing: Tracing::default(),
        }
    }

    /// Reads and checks a file's content.
    ///
    /// # Errors
    /// When it is not TOML of this form, or a value is out of its range; the message names the key and the remedy.
    ///
    /// ```
    /// use context_manager_protocol::config::SidecarConfig;
    ///
    /// let config = SidecarConfig::from_toml("[store.embedded]\npath = \"/var/lib/context-manager\"\n")?;
    /// assert_eq!(config.levels.immediate.capacity, Some(10));
    /// assert!(SidecarConfig::from_toml("[store.embedded]\npath = \"/x\"\n[gc]\nbatch_size = 0\n").is_err());
    /// # Ok::<(), context_manager_protocol::config::Error>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(Error::Toml)?;
        validate::check(&config)?;
        Ok(config)
    }

    /// The file's content; the same value always gives the same text.
    ///
    /// # Panics
    /// Never: the configuration has only strings, numbers, booleans and tables.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration has only strings, numbers, booleans and tables")
    }
}

impl Protocol {
    /// Most bytes of request bodies at once: as chosen, or enough for one of the largest.
    ///
    /// ```
    /// use context_manager_protocol::{config::Protocol, size::ByteSize};
    ///
    /// let protocol = Protocol::default();
    /// assert_eq!(protocol.most_bytes_in_flight(), ByteSize::new(64 << 20));
    /// let large = Protocol { max_message_size: ByteSize::new(1 << 30), ..protocol };
    /// assert_eq!(large.most_bytes_in_flight(), large.max_message_size);
    /// ```
    #[must_use]
    pub fn most_bytes_in_flight(&self) -> ByteSize {
        self.max_bytes_in_flight.unwrap_or_else(|| BYTES_IN_FLIGHT.max(self.max_message_size))
    }
}

const fn schema_version() -> i32 {
    SCHEMA_VERSION
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            port: names::DEFAULT_PROTOCOL_PORT,
            socket: None,
            max_message_size: ByteSize::new(10 << 20),
            timestamp_window: HumanDuration::from_secs(300),
            max_in_flight: 256,
            max_bytes_in_flight: None,
            request_timeout: HumanDuration::from_secs(30),
            max_streams: 64,
            heartbeat_interval: HumanDuration::from_secs(15),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: std::net::Ipv4Addr::UNSPECIFIED.into(), port: names::STANDALONE_ADMIN_PORT }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failure_threshold: 5, success_threshold: 2, open_for: HumanDuration::from_secs(30) }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { path: None, max_size: ByteSize::new(64 << 20), max_memory: JOURNAL_MEMORY }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { keep_for: HumanDuration::from_secs(30 * 24 * 3_600) }
    }
}

impl Default for Gc {
    fn default() -> Self {
        Self { interval: HumanDuration::from_secs(60), batch_size: 500, dry_run: false }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}
