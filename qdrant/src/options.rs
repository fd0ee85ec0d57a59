//! Where the server is, whom to trust, and how a collection is made if it is not there.

use std::time::Duration;

/// How to reach a collection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gRPC endpoint, such as `https://qdrant.example.com:6334`; the port is 6334 when absent.
    pub url: String,
    /// Who may vouch for the server's certificate; only looked at with `https`.
    pub trust: Trust,
    /// The collection's name.
    pub collection: String,
    /// Length of the dense vectors.
    pub dimensions: usize,
    /// The embedding model, part of the collection's identity.
    pub model: String,
    /// Longest time of one call.
    pub timeout: Duration,
    /// How the collection is made if it is not there.
    pub sizing: Sizing,
}

/// Who may vouch for the server's certificate.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The roots of the web, which are built in.
    WebRoots,
    /// Only these certificates, in PEM.
    Bundle(Vec<u8>),
    /// Anybody: the connection is encrypted, but to whom is not known.
    Anybody,
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
            collection: collection.into(),
            dimensions,
            model: model.into(),
            timeout: Duration::from_secs(5),
            sizing: Sizing::default(),
        }
    }
}
