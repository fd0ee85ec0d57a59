//! What makes vectors of texts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::validate::{self, is_http, refuse, within};
use crate::{duration::HumanDuration, size::ByteSize};

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
    /// The CA bundle itself, in PEM, instead of a file. Left out unless chosen, because sidecars before it refuse fields that they do not
    /// know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
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

impl Default for Embedding {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            url: None,
            model: None,
            dimensions: 384,
            api_key_file: None,
            ca_file: None,
            ca: None,
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

impl Default for ReEmbedding {
    fn default() -> Self {
        Self { contexts_per_second: 50.0, keep_former_for: HumanDuration::from_secs(3_600) }
    }
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

impl Default for Cache {
    fn default() -> Self {
        Self { capacity: ByteSize::new(4 << 20), ttl: HumanDuration::from_secs(3_600) }
    }
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

impl Embedding {
    pub(super) fn check(&self) -> validate::Result {
        let Self {
            provider,
            url,
            model,
            dimensions,
            api_key_file: _,
            ca_file,
            ca,
            batch_size,
            timeout,
            cache,
            retry,
            query_prefix: _,
            document_prefix: _,
            on_model_change: _,
            re_embedding,
        } = self;
        within("embedding.dimensions", dimensions, 1, 8_192)?;
        within("embedding.batch_size", batch_size, 1, 2_048)?;
        within("embedding.timeout (milliseconds)", &timeout.as_millis_i64(), 1, 600_000)?;
        if ca_file.is_some() && ca.is_some() {
            return refuse("embedding.ca", "set beside embedding.ca_file", "remove one of them");
        }
        cache.check()?;
        retry.check()?;
        re_embedding.check()?;
        match (provider, url, model) {
            (Provider::OpenAi, None, _) => {
                refuse("embedding.url", "not set", "provider \"open_ai\" needs the full URL of the embeddings API")
            }
            (Provider::OpenAi, Some(_), None) => {
                refuse("embedding.model", "not set", "provider \"open_ai\" needs the model's name")
            }
            (Provider::OpenAi, Some(url), Some(_)) if !is_http(url) => {
                refuse("embedding.url", url, "it must be a URL that starts with http:// or https://")
            }
            (Provider::OpenAi | Provider::Builtin, _, _) => Ok(()),
        }
    }
}

impl ReEmbedding {
    fn check(&self) -> validate::Result {
        let Self { contexts_per_second, keep_former_for: _ } = self;
        within("embedding.re_embedding.contexts_per_second", contexts_per_second, 0.01, 100_000.0)
    }
}

/// 500 years: more than a resource can say, and less than the thousand for which the cache ends the process.
const MOST_CACHED: HumanDuration = HumanDuration::from_secs(500 * 365 * 24 * 3_600);

impl Cache {
    fn check(&self) -> validate::Result {
        let Self { capacity: _, ttl } = self;
        if ttl.get().is_zero() {
            let remedy = "it must be longer than zero; set embedding.cache.capacity to 0 to switch the cache off";
            return refuse("embedding.cache.ttl", ttl, remedy);
        }
        if ttl > &MOST_CACHED {
            return refuse("embedding.cache.ttl", ttl, format!("it must be at most {MOST_CACHED}"));
        }
        Ok(())
    }
}

impl Retry {
    fn check(&self) -> validate::Result {
        let Self { max_attempts, initial_delay, max_delay, jitter } = self;
        within("embedding.retry.max_attempts", max_attempts, 1, 20)?;
        if initial_delay.get().is_zero() || initial_delay > max_delay {
            let remedy = format!("it must be longer than zero and at most embedding.retry.max_delay ({max_delay})");
            return refuse("embedding.retry.initial_delay", initial_delay, remedy);
        }
        within("embedding.retry.jitter", jitter, 0.0, 1.0)
    }
}
