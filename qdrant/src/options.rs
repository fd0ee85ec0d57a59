//! Where the server is, whom to trust, and how a collection is made if it is not there.

use std::{path::PathBuf, time::Duration};

use context_manager_memory::store::{Model, OnModelChange};
use secrecy::SecretString;

/// How to reach a collection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gRPC endpoint, such as `https://qdrant.example.com:6334`; the port is 6334 when absent.
    pub url: String,
    /// Who may vouch for the server's certificate; only looked at with `https`.
    pub trust: Trust,
    /// What this side shows to a server that asks who calls; only with `https`.
    pub identity: Option<Identity>,
    /// The collection's name.
    pub collection: String,
    /// The embedding model.
    pub model: Model,
    /// What is done with a collection that has no vectors of this model yet.
    pub on_model_change: OnModelChange,
    /// Longest time of one call.
    pub timeout: Duration,
    /// How the collection is made if it is not there.
    pub sizing: Sizing,
    /// What each call carries beside its key, such as the context of a trace. Asked when the call is made; a value that is not visible
    /// ASCII is left out.
    pub call_headers: fn() -> Vec<(&'static str, String)>,
}

/// Who may vouch for the server's certificate.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The roots of the web, which are built in.
    WebRoots,
    /// Only these certificates, in PEM.
    Bundle(Vec<u8>),
    /// Only the certificates in this PEM file. It is read for each connection, so a rotated one counts from the next on.
    File(PathBuf),
    /// Anybody: the connection is encrypted, but to whom is not known.
    Anybody,
}

/// A client certificate with its key. It is shown to a server that asks for one, unless that names CAs and none of them signed it.
#[derive(Clone, Debug)]
pub enum Identity {
    /// In files that are read for each connection, so a renewed one counts from the next on.
    Files {
        /// The certificate and those between it and the root, as PEM.
        certificate: PathBuf,
        /// Its private key, as PEM.
        key: PathBuf,
    },
    /// In memory.
    Pem {
        /// The certificate and those between it and the root, as PEM.
        certificate: String,
        /// Its private key, as PEM; never printed.
        key: SecretString,
    },
}

/// How a collection is spread over a cluster; the server decides what is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    /// Shards.
    pub shards: Option<u32>,
    /// Replicas of each shard.
    pub replication_factor: Option<u32>,
    /// Replicas that must have a write before it is acknowledged.
    pub write_consistency: Option<u32>,
}

impl Options {
    /// Options with what users rarely change at its default.
    #[must_use]
    pub fn new(
        url: impl Into<String>,
        collection: impl Into<String>,
        dimensions: usize,
        model: impl Into<String>,
    ) -> Self {
        Self {
            url: url.into(),
            trust: Trust::WebRoots,
            identity: None,
            collection: collection.into(),
            model: Model { name: model.into(), dimensions },
            on_model_change: OnModelChange::default(),
            timeout: Duration::from_secs(5),
            sizing: Sizing::default(),
            call_headers: Vec::new,
        }
    }
}
