//! The look at a server: can it be reached, is it trusted, is the key right, does the collection fit, and does it take tokens.
//!
//! The collection is made here if it is missing, with the API key, because a sidecar with a token may not.

mod trouble;

use std::time::Duration;

use context_manager_crds::context_manager::qdrant::TokenPolicy;
use context_manager_memory::store::OnModelChange;
use context_manager_protocol::{config, names};
use context_manager_qdrant::{Collection, Error, Failure, Identity, Options, Sizing, Trust};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{
    credentials::Credentials,
    token::{self, Scope},
};
use crate::{
    controller::{
        plan::{Plan, QdrantPlan, RunBy},
        status::Trouble,
    },
    pki::client::Pair,
};

/// Longest time of a whole look; each call of it has the resource's own deadline.
const DEADLINE: Duration = Duration::from_secs(30);
/// Life of the token that a server is tried with.
const TRIAL: Duration = Duration::from_mins(2);

/// A server and how it is looked at.
#[derive(Debug)]
pub(super) struct Target {
    options: Options,
    key: Option<SecretString>,
    tokens: TokenPolicy,
    pub(super) scope: Scope,
    /// Whether a missing collection is left missing.
    observe: bool,
    run_by: RunBy,
    /// The Secret with the sidecars' certificate and its CA.
    tls_secret: String,
}

/// What the server takes from sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Tokens of their own.
    Tokens,
    /// The API key alone.
    Key,
    /// Anything: the resource has no API key.
    Nothing,
}

/// What came of a look.
pub(super) type Seen = Result<Takes, Trouble>;

impl Target {
    pub(super) fn new(plan: &Plan, wanted: &QdrantPlan, credentials: &Credentials) -> Self {
        let store = &wanted.store;
        let trust = match &credentials.ca {
            _ if !store.verify => Trust::Anybody,
            Some(pem) => Trust::Bundle(pem.clone()),
            None => Trust::WebRoots,
        };
        let sizing = Sizing {
            shards: store.shards,
            replication_factor: store.replication_factor,
            write_consistency: store.write_consistency,
        };
        let timeout = store.timeout.get();
        let on_model_change = match wanted.on_model_change {
            config::OnModelChange::ReEmbed => OnModelChange::ReEmbed,
            config::OnModelChange::Refuse => OnModelChange::Refuse,
        };
        let identity = credentials
            .certificate
            .clone()
            .map(|Pair { certificate, key }| Identity::Pem { certificate, key: key.into() });
        let options = Options::new(&store.url, &store.collection, wanted.dimensions, &wanted.model);
        Self {
            options: Options { trust, identity, timeout, sizing, on_model_change, ..options },
            key: credentials.key.clone(),
            tokens: wanted.tokens,
            scope: Scope { collection: store.collection.clone(), subject: format!("{}/{}", plan.namespace, plan.name) },
            observe: plan.suspended,
            run_by: wanted.run_by,
            tls_secret: names::tls_secret(&plan.name),
        }
    }

    /// Tells one target from another without keeping its secrets. Options print no key; a certificate that is printed has one key.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let Self { options, key, tokens, scope, observe, run_by: _, tls_secret: _ } = self;
        let mut digest = Sha256::new();
        digest.update(format!("{options:?} {tokens:?} {scope:?} {observe} "));
        digest.update(key.as_ref().map_or("", |key| key.expose_secret()));
        digest.finalize().into()
    }

    /// The collection, with the API key.
    pub(super) fn connect(&self) -> Result<Collection, Error> {
        let collection = Collection::connect(self.options.clone())?;
        collection.set_api_key(self.key.as_ref().map(SecretString::expose_secret))?;
        Ok(collection)
    }
}

/// Looks at the server.
pub(super) async fn look(target: &Target) -> Seen {
    match tokio::time::timeout(DEADLINE, ask(target)).await {
        Ok(Ok(Takes::Key)) if target.tokens == TokenPolicy::PerResource => Err(Trouble::stalled(
            "StoreTokensRefused",
            format!(
                "{} takes the API key but no token made with it; set service.jwt_rbac there, or \
                 spec.vectorStore.qdrant.token.policy to Auto or Never, which gives sidecars the API key",
                target.options.url
            ),
        )),
        Ok(Ok(takes)) => Ok(takes),
        Ok(Err(error)) => Err(target.trouble(&error)),
        Err(_) => Err(target.unreachable()),
    }
}

async fn ask(target: &Target) -> Result<Takes, Error> {
    let collection = target.connect()?;
    if target.observe {
        collection.inspect().await?;
    } else {
        collection.open().await?;
    }
    let Some(key) = &target.key else { return Ok(Takes::Nothing) };
    if target.tokens == TokenPolicy::Never {
        return Ok(Takes::Key);
    }
    let expires = Timestamp::now().checked_add(TRIAL).unwrap_or(Timestamp::MAX);
    let trial = token::mint(key, &target.scope, expires);
    collection.set_api_key(Some(trial.expose_secret()))?;
    match collection.inspect().await {
        Ok(_) => Ok(Takes::Tokens),
        Err(error) if error.failure() == Failure::Unauthorized => Ok(Takes::Key),
        Err(error) => Err(error),
    }
}
