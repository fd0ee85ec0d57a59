//! The look at a server: can it be reached, is it trusted, is the key right, does the collection fit, and does it take tokens.
//!
//! The collection is made here if it is missing, with the API key, because a sidecar with a token may not.

mod trouble;

use std::time::Duration;

use context_manager_crds::context_manager::qdrant::TokenPolicy;
use context_manager_memory::store::OnModelChange;
use context_manager_protocol::{config, names};
use context_manager_qdrant::{Failure, Identity, Options, Sizing, Trust};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{
    credentials::Credentials,
    server::{Error, Server},
    token::{self, Scope},
};
use crate::{
    controller::{
        context::Context,
        fence::Fence,
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
    fence: Fence,
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
    pub(super) fn new(context: &Context, plan: &Plan, wanted: &QdrantPlan, credentials: &Credentials) -> Self {
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
            fence: context.fence.clone(),
        }
    }

    /// Tells one target from another without keeping its secrets. Options print no key; a certificate that is printed has one key.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let Self { options, key, tokens, scope, observe, run_by: _, tls_secret: _, fence: _ } = self;
        let mut digest = Sha256::new();
        digest.update(format!("{options:?} {tokens:?} {scope:?} {observe} "));
        digest.update(key.as_ref().map_or("", |key| key.expose_secret()));
        digest.finalize().into()
    }

    /// The way to the collection, with the API key.
    pub(super) fn connect(&self) -> Result<Server, context_manager_qdrant::Error> {
        Server::new(self.options.clone(), self.key.as_ref(), self.fence.clone())
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
    let server = target.connect()?;
    if target.observe {
        server.inspect().await?;
    } else {
        server.open().await?;
    }
    let Some(key) = &target.key else { return Ok(Takes::Nothing) };
    if target.tokens == TokenPolicy::Never {
        return Ok(Takes::Key);
    }
    let expires = Timestamp::now().checked_add(TRIAL).unwrap_or(Timestamp::MAX);
    let trial = token::mint(key, &target.scope, expires);
    server.set_key(Some(&trial))?;
    match server.inspect().await {
        Ok(_) => Ok(Takes::Tokens),
        Err(error) if error.failure() == Failure::Unauthorized => Ok(Takes::Key),
        Err(error) => Err(error.into()),
    }
}
