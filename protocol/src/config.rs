//! The sidecar's configuration file, `config.toml`: written by the operator, or by hand for a sidecar outside Kubernetes.
//!
//! Unknown keys are refused. Every value has a default but `store`, so that a short file is a working one. Secrets never
//! stand in the file: it names files that hold them, or they come from the environment when run by hand.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{duration::HumanDuration, names, size::ByteSize};

mod access;
mod store;
mod tracing;
mod validate;

pub use access::{AccessRule, AccessTarget, Operation};
pub use store::{Durability, EmbeddedStore, QdrantStore, Store};
pub use tracing::Tracing;

pub use validate::Error;

/// The version of the file's format that this crate reads and writes.
pub const SCHEMA_VERSION: i32 = 1;

/// The share of the token budget that L1 gets at least.
const IMMEDIATE_FLOOR: f64 = 0.1;

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

/// What makes vectors of texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Embedding {
    /// Which kind of provider.
    pub provider: Provider,
    /// The full URL of the API, such as `https://api.example.com/v1/embeddings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The model's name; part of the store's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Length of a vector.
    pub dimensions: usize,
    /// File with the API key; absolute, or relative to the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// PEM file with the CA bundle that the API's certificate is checked against; the built-in roots when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Most texts of one call.
    pub batch_size: usize,
    /// Deadline of one embedding, retries included.
    pub timeout: HumanDuration,
    /// Cache of vectors by text.
    pub cache: Cache,
    /// What is tried again, and when.
    pub retry: Retry,
    /// Put before a query's text.
    pub query_prefix: String,
    /// Put before a stored text.
    pub document_prefix: String,
    /// What is done with a store whose vectors are another model's.
    pub on_model_change: OnModelChange,
    /// How contexts get vectors that they lack.
    pub re_embedding: ReEmbedding,
}

/// What is done with a store whose vectors are another model's, or have another length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnModelChange {
    /// Its contexts get vectors of the new model in the background, and are found by their words until then.
    #[default]
    ReEmbed,
    /// It is refused and left as it is.
    Refuse,
}

/// How contexts get vectors that they lack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReEmbedding {
    /// Most contexts a second, on average; each is two texts for the embedding API.
    pub contexts_per_second: f64,
    /// How long vectors of the former model are kept after all contexts have new ones, so that going back costs nothing.
    pub keep_former_for: HumanDuration,
}

/// Which kind of embedding provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// In the sidecar's own process; no download, no network.
    #[default]
    Builtin,
    /// Any OpenAI-compatible HTTP API.
    OpenAi,
}

/// Cache of vectors by text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Most bytes of vectors; 0 switches the cache off.
    pub capacity: ByteSize,
    /// How long a vector stays.
    pub ttl: HumanDuration,
}

/// Exponential backoff with jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Most attempts, the first included.
    pub max_attempts: usize,
    /// Delay after the first failure; doubled after each further one.
    pub initial_delay: HumanDuration,
    /// Longest delay.
    pub max_delay: HumanDuration,
    /// Each delay varies by this share, either way.
    pub jitter: f64,
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

/// The three levels. What a table leaves out has the default of its level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "GivenLevels")]
pub struct Levels {
    /// L1.
    pub immediate: LevelConfig,
    /// L2.
    pub short_term: LevelConfig,
    /// L3.
    pub long_term: LevelConfig,
    /// From L2 to L3.
    pub promotion: Promotion,
}

/// The levels as they are written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenLevels {
    immediate: LevelConfig,
    short_term: LevelConfig,
    long_term: LevelConfig,
    promotion: Promotion,
}

impl From<GivenLevels> for Levels {
    fn from(given: GivenLevels) -> Self {
        let GivenLevels { immediate, short_term, long_term, promotion } = given;
        let or = |given: LevelConfig, default: LevelConfig| LevelConfig {
            capacity: given.capacity.or(default.capacity),
            ttl: given.ttl.or(default.ttl),
        };
        let default = Self::default();
        Self {
            immediate: or(immediate, default.immediate),
            short_term: or(short_term, default.short_term),
            long_term: or(long_term, default.long_term),
            promotion: Promotion { min_accesses: promotion.min_accesses.or(default.promotion.min_accesses) },
        }
    }
}

/// One level. Without a capacity it is not bounded, without a TTL its contexts are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelConfig {
    /// Most contexts of a session in this level; the oldest make room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
    /// How long a context lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
}

/// From L2 to L3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Promotion {
    /// A short-term context that was returned this often is kept as a long-term one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accesses: Option<i64>,
}

/// How answers are ranked and packed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retrieval {
    /// Weights of the four legs.
    pub legs: Legs,
    /// Bounded multiplicative nudges.
    pub nudges: Nudges,
    /// Age at which the recency signal is one half.
    pub recency_half_life: HumanDuration,
    /// Shares of the token budget of L1; the floor is 0.1 when absent.
    #[serde(deserialize_with = "immediate_share")]
    pub immediate: BudgetShare,
    /// Shares of the token budget of L2.
    pub short_term: BudgetShare,
    /// Shares of the token budget of L3.
    pub long_term: BudgetShare,
    /// Budget of a search that names none.
    pub default_token_budget: usize,
    /// Least score of a returned context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// What counts the tokens of contexts. Left out unless chosen, because sidecars before it refuse fields that they do not know.
    #[serde(skip_serializing_if = "is_estimate")]
    pub tokenizer: Tokenizer,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_estimate(tokenizer: &Tokenizer) -> bool {
    *tokenizer == Tokenizer::Estimate
}

/// What counts the tokens of contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// An estimate of the tokens of `o200k_base`, which needs no memory.
    #[default]
    Estimate,
    /// The vocabulary of GPT-4o and later models.
    #[serde(rename = "o200k_base")]
    O200kBase,
    /// The vocabulary of GPT-4 and GPT-3.5.
    #[serde(rename = "cl100k_base")]
    Cl100kBase,
}

/// Weights of the four legs: dense and sparse, over the context itself and over the context with the one before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Legs {
    /// Dense, the context itself.
    pub dense: f64,
    /// Dense, with the one before it.
    pub dense_with_previous: f64,
    /// Sparse (BM25), the context itself.
    pub sparse: f64,
    /// Sparse (BM25), with the one before it.
    pub sparse_with_previous: f64,
}

/// Bounded multiplicative nudges, each from 0 (off) to 0.1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nudges {
    /// For young contexts.
    pub recency: f64,
    /// For contexts that were often returned.
    pub frequency: f64,
    /// For fresher levels.
    pub level: f64,
}

/// Shares of the token budget that a level gets at least and at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetShare {
    /// At least, if it has that much to offer.
    pub floor: f64,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
}

fn immediate_share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BudgetShare, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        floor: Option<f64>,
        cap: Option<f64>,
    }
    let Given { floor, cap } = Given::deserialize(deserializer)?;
    Ok(BudgetShare { floor: floor.unwrap_or(IMMEDIATE_FLOOR), cap })
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
    /// `CHUTES_API_TOKEN`: of the embedding API.
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

impl Default for Embedding {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            url: None,
            model: None,
            dimensions: 384,
            api_key_file: None,
            ca_file: None,
            batch_size: 32,
            timeout: HumanDuration::from_secs(10),
            cache: Cache::default(),
            retry: Retry::default(),
            query_prefix: String::new(),
            document_prefix: String::new(),
            on_model_change: OnModelChange::default(),
            re_embedding: ReEmbedding::default(),
        }
    }
}

impl Default for ReEmbedding {
    fn default() -> Self {
        Self { contexts_per_second: 50.0, keep_former_for: HumanDuration::from_secs(3_600) }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { capacity: ByteSize::new(4 << 20), ttl: HumanDuration::from_secs(3_600) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: HumanDuration::from_millis(200),
            max_delay: HumanDuration::from_secs(30),
            jitter: 0.25,
        }
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

impl Default for Levels {
    fn default() -> Self {
        Self {
            immediate: LevelConfig { capacity: Some(10), ttl: Some(HumanDuration::from_secs(3_600)) },
            short_term: LevelConfig { capacity: Some(100), ttl: Some(HumanDuration::from_secs(3_600)) },
            long_term: LevelConfig::default(),
            promotion: Promotion { min_accesses: Some(3) },
        }
    }
}

impl Default for Retrieval {
    fn default() -> Self {
        Self {
            legs: Legs::default(),
            nudges: Nudges::default(),
            recency_half_life: HumanDuration::from_secs(24 * 3_600),
            immediate: BudgetShare { floor: IMMEDIATE_FLOOR, cap: None },
            short_term: BudgetShare::default(),
            long_term: BudgetShare::default(),
            default_token_budget: 2_000,
            min_score: None,
            tokenizer: Tokenizer::Estimate,
        }
    }
}

impl Default for Legs {
    fn default() -> Self {
        Self { dense: 0.2, dense_with_previous: 0.2, sparse: 0.3, sparse_with_previous: 0.3 }
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
