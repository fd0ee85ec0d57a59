//! Where contexts are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// Where contexts are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Store {
    /// The vector engine in the sidecar's own process, on a directory.
    Embedded(EmbeddedStore),
    /// A collection of a Qdrant server.
    Qdrant(QdrantStore),
}

/// The embedded store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedStore {
    /// Its directory; made if missing. A change takes effect at the next start.
    pub path: PathBuf,
    /// What an acknowledged write survives.
    #[serde(default)]
    pub durability: Durability,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all(serialize = "snake_case", deserialize = "snake_case"))]
pub enum Durability {
    /// The end of the sidecar's process, however it comes.
    #[default]
    Process,
    /// Also the end of the node: flushed to the disk before the answer.
    Node,
}

/// A collection of a Qdrant server. A change takes effect at the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QdrantStore {
    /// The gRPC endpoint, such as `https://qdrant.example.com:6334`.
    pub url: String,
    /// The collection; made if missing. Several agents and tenants may share it.
    pub collection: String,
    /// A file with the API key or a JSON Web Token, absolute or relative to the configuration file; read for every call. Without
    /// it the environment variable `QDRANT_API_KEY` holds it, if it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// A bundle of certificates in PEM; then only they are trusted. Read for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A client certificate in PEM, for a server that asks who calls; with `key_file`. Read for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether the server must prove who it is. Without that, whoever is on the way can read and change everything.
    #[serde(default = "verified")]
    pub verify: bool,
    /// Longest time of one call.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// Shards of a collection that is made; the server's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// Replicas of each shard of a collection that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// Replicas that must have a write before it is acknowledged, of a collection that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_consistency: Option<u32>,
}

impl QdrantStore {
    /// Whether the connection is encrypted to nobody knows whom.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        !self.verify && self.url.starts_with("https:")
    }

    /// The files that it names.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { api_key_file, ca_file, cert_file, key_file, .. } = self;
        [api_key_file, ca_file, cert_file, key_file].into_iter().flatten()
    }
}

const fn verified() -> bool {
    true
}

const fn timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}
