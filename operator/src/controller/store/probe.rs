//! The look at a server: can it be reached, is it trusted, is the key right, does the collection fit, and does it take tokens.
//!
//! The collection is made here if it is missing, with the API key, because a sidecar with a token may not.

use std::time::Duration;

use context_manager_crds::context_manager::qdrant::TokenPolicy;
use context_manager_memory::store::OnModelChange;
use context_manager_protocol::{config, names};
use context_manager_qdrant::{Collection, Error, Failure, Identity, Options, Sizing, Trust};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tracing::debug;

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

    /// What a person is told about a failure; what the server said is for the log alone.
    pub(super) fn trouble(&self, error: &Error) -> Trouble {
        let cause: &dyn std::error::Error = error;
        debug!(resource = self.scope.subject, cause, "A look at the Qdrant server failed");
        let url = &self.options.url;
        match error.failure() {
            Failure::Unreachable => self.unreachable(),
            // Nobody but the operator can put these right, and it does: nodes with an old key or certificate are made anew.
            Failure::Distrusted | Failure::Unauthorized if self.run_by == RunBy::Operator => Trouble::passing(
                "StoreUpdating",
                format!("the nodes behind {url} do not all have the API key and certificate of their Secret yet"),
            ),
            Failure::Distrusted => Trouble::stalled(
                "StoreNotTrusted",
                format!(
                    "the certificate of {url} is not vouched for by the CA of spec.vectorStore.qdrant.tls (the roots of the \
                     web without one), or is for another name; give the CA that signed it, and the name it is for"
                ),
            ),
            Failure::Unauthorized => Trouble::stalled(
                "StoreUnauthorized",
                format!(
                    "{url} does not take the API key of spec.vectorStore.qdrant.apiKeySecretRef for the collection {}; write \
                     one that may make and change collections",
                    self.options.collection
                ),
            ),
            Failure::Incompatible => Trouble::stalled("StoreIncompatible", error.to_string()),
            Failure::Settings => Trouble::stalled("StoreNotTrusted", error.to_string()),
            Failure::Refused => {
                Trouble::passing("StoreFailing", format!("{url} answers, but not as it should: {error}; see its log"))
            }
        }
    }

    fn unreachable(&self) -> Trouble {
        let url = &self.options.url;
        let port = if url.trim_end_matches('/').ends_with(":6333") {
            " 6333 is the port of its REST interface; use the gRPC port, 6334."
        } else {
            ""
        };
        let how = match &self.options.identity {
            Some(_) => format!(
                " over TLS, and, if it asks who calls, takes certificates of the CA in ca.crt of the Secret {}",
                self.tls_secret
            ),
            None if url.starts_with("https://") => " over TLS".to_owned(),
            None => " without TLS".to_owned(),
        };
        let message = format!(
            "{url} does not answer.{port} Look whether the server runs and serves gRPC there{how}, and whether a NetworkPolicy \
             lets the controller's namespace and the agents' pods reach it"
        );
        Trouble::passing("StoreUnreachable", message)
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
