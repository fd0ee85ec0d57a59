//! The loop that keeps secret, leaf and trust together: at every poll, and whenever the configuration changes.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Certificates, Error, Issuer, Settings,
    authority::{Authorities, Published, Step},
    given::{self, Given},
    secret::{self, Stored, Written},
    trust::{self, Entry},
};
use crate::chain::Chain;

/// Longest wait for one answer of the API server. The client's own retries would go on for hours.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A lost race is looked at again at once, this often; then the next poll has its turn.
const RACES: usize = 5;

/// Keeps `certificates` up to date until `shutdown`.
pub async fn maintain(client: Client, settings: Settings, certificates: Certificates, shutdown: CancellationToken) {
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let watched = watcher::Config::default().fields(&format!("metadata.name={}", settings.configuration));
    let mut changes = watcher(api, watched).default_backoff().touched_objects().boxed();
    let mut keeper = Keeper { client, settings, certificates, authorities: None, given: None, complaint: None };
    loop {
        // Whatever is interrupted here is complete or undone: each write is one call.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = keeper.keep() => {}
        }
        let pause = keeper.pause();
        let next_poll = tokio::time::sleep(pause);
        tokio::pin!(next_poll);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = &mut next_poll => {}
            () = changed(&mut changes) => {}
        }
    }
}

/// Waits until the configuration changes, or is seen again after its watch was interrupted. The watch only makes repairs quicker; the poll
/// makes them sure.
async fn changed(changes: &mut (impl Stream<Item = watcher::Result<MutatingWebhookConfiguration>> + Unpin)) {
    while let Some(change) = changes.next().await {
        match change {
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(error = %error, "The watch of the MutatingWebhookConfiguration was interrupted");
            }
        }
    }
    // A watch has no end.
    std::future::pending::<()>().await;
}

struct Keeper {
    client: Client,
    settings: Settings,
    certificates: Certificates,
    /// The last ones read: with them the leaf is renewed even while the API server is away.
    authorities: Option<Authorities>,
    /// What another issuer gave.
    given: Option<Given>,
    /// What was last complained about, so that a lasting trouble is logged once.
    complaint: Option<String>,
}

impl Keeper {
    async fn keep(&mut self) {
        // Each is done whatever became of the one before: what the API server trusts is to be known without the Secret too, and a leaf is
        // renewed while the API server is away. The leaf comes last, because only one that is trusted takes the place of another.
        let source = self.keep_source().await;
        // What this replica remembers may be older than what another one has published: only what was just read is written.
        let trust = if source.is_ok() { self.keep_trust().await } else { self.look_at_trust().await };
        let outcome = [source, trust, self.keep_leaf()].into_iter().collect::<Result<(), Error>>();
        let complaint = outcome.err().map(|error| Chain(&error).to_string());
        match (&complaint, &self.complaint) {
            (Some(new), old) if old.as_ref() != Some(new) => {
                warn!(error = %new, "Certificates could not be brought up to date; trying again at the next poll");
            }
            (None, Some(_)) => info!("Certificates are up to date again"),
            (Some(_) | None, _) => {}
        }
        self.complaint = complaint;
    }

    /// Until the next poll, or earlier if something is due before: short lifetimes are for tests, and renewals should not be late.
    fn pause(&self) -> Duration {
        let (now, longest) = (Timestamp::now(), self.settings.poll);
        let renewal = self.certificates.inner.leaf.load().as_ref().map(|leaf| leaf.validity.renew_at);
        let dates = [renewal, self.certificates.authority().map(|authority| authority.not_after)];
        let ahead = dates.into_iter().flatten().filter_map(|date| Duration::try_from(date.duration_since(now)).ok());
        // What is due at this moment must not make a busy loop.
        ahead.fold(longest, Duration::min).max(longest.min(Duration::from_millis(200)))
    }

    async fn keep_source(&mut self) -> Result<(), Error> {
        match self.settings.issuer {
            Issuer::SelfManaged => self.keep_authorities().await,
            Issuer::Existing | Issuer::CertManager => {
                let given = given::fetch(&self.client, &self.settings).await?;
                self.certificates.inner.authority.store(given.last_authority().map(Arc::new));
                self.given = Some(given);
                Ok(())
            }
        }
    }

    /// Reads the `Secret`, and does the step of the rotation that is due.
    async fn keep_authorities(&mut self) -> Result<(), Error> {
        let lifetimes = self.settings.lifetimes.clone();
        for _ in 0..RACES {
            let now = Timestamp::now();
            let (changed, version) = match secret::fetch(&self.client, &self.settings).await? {
                Stored::Absent => {
                    info!(secret = self.settings.secret, "Making the secret with the webhook's CA");
                    (Authorities::restore(self.authorities.clone(), now, &lifetimes)?, None)
                }
                Stored::Present { version, content: Err(what), .. } => {
                    let secret = self.settings.secret.clone();
                    warn!(error = %Error::InvalidSecret { secret, what }, "Replacing a damaged CA");
                    (Authorities::restore(self.authorities.clone(), now, &lifetimes)?, version)
                }
                Stored::Present { version, content: Ok(found), requested } => {
                    let found = *found;
                    let due = found.due(now, self.published(&found).await?, &lifetimes);
                    let step = if requested { found.asked(due) } else { due };
                    if step == Step::Keep {
                        self.take(found);
                        return Ok(());
                    }
                    info!(step = ?step, "Rotating the webhook's CA");
                    let changed = if step == Step::Replace {
                        Authorities::restore(self.authorities.clone(), now, &lifetimes)?
                    } else {
                        found.advance(step, now, &lifetimes)?
                    };
                    (changed, version)
                }
            };
            if secret::write(&self.client, &self.settings, &changed, version).await? == Written::Done {
                self.take(changed);
                return Ok(());
            }
        }
        Err(Error::Raced { secret: self.settings.secret.clone() })
    }

    /// Asked only while there is a successor.
    async fn published(&self, found: &Authorities) -> Result<Published, Error> {
        let Some(next) = &found.next else { return Ok(Published::NotYet) };
        let entries = trust::fetch(&self.client, &self.settings).await?;
        Ok(entries.map_or(Published::NotYet, |entries| trust::published(&entries, &next.authority.certificate)))
    }

    fn take(&mut self, authorities: Authorities) {
        let validity = authorities.validity(&self.settings.lifetimes);
        self.certificates.inner.authority.store(Some(Arc::new(validity)));
        self.authorities = Some(authorities);
    }

    /// Makes a leaf if there is none, if it is old, or if another CA signs now. One that is trusted is only replaced by one that is trusted.
    fn keep_leaf(&self) -> Result<(), Error> {
        let now = Timestamp::now();
        let current = self.certificates.inner.leaf.load();
        if let Some(Given { leaf, .. }) = &self.given {
            return if current.as_ref().is_some_and(|current| current.chain() == leaf.chain()) || !self.may_serve(now) {
                Ok(())
            } else {
                self.certificates.serve(Arc::clone(leaf), now).map_err(Error::KeptLeaf)
            };
        }
        let Some(Authorities { signing, .. }) = &self.authorities else { return Ok(()) };
        if current.as_ref().is_some_and(|leaf| leaf.issuer == signing.certificate && now < leaf.validity.renew_at) {
            return Ok(());
        }
        let leaf = signing.issue(&self.settings.server_names, now, self.settings.lifetimes.leaf)?;
        self.certificates.serve(leaf, now).map_err(Error::KeptLeaf)
    }

    /// Whether what was given is not too new. Who serves nothing that is trusted has nothing to wait for.
    fn may_serve(&self, now: Timestamp) -> bool {
        let grace = self.settings.lifetimes.grace;
        self.given.as_ref().is_some_and(|given| given.settled(now, grace)) || self.certificates.check(now).is_err()
    }

    /// What the API server should trust; nothing if that is not for this program to say.
    fn bundle(&self, entries: &[Entry]) -> Result<Option<String>, Error> {
        match (self.settings.issuer, &self.given) {
            (Issuer::SelfManaged, _) => Ok(self.authorities.as_ref().map(Authorities::bundle)),
            (Issuer::Existing, Some(given)) => {
                let bundle = given.bundle(entries, Timestamp::now(), self.settings.lifetimes.grace);
                let secret = self.settings.secret.clone();
                bundle.map(Some).map_err(|what| Error::GivenSecret { secret, what })
            }
            (Issuer::Existing, None) | (Issuer::CertManager, _) => Ok(None),
        }
    }

    /// Remembers what the configuration trusts.
    async fn look_at_trust(&self) -> Result<(), Error> {
        let found = trust::fetch(&self.client, &self.settings).await?;
        self.certificates.inner.entries.store(found.map(Arc::new));
        Ok(())
    }

    /// Makes the configuration trust the bundle, and remembers what it trusts.
    async fn keep_trust(&self) -> Result<(), Error> {
        let found = trust::fetch(&self.client, &self.settings).await?;
        let bundle = match found.as_deref().map(|entries| self.bundle(entries)).transpose() {
            Ok(bundle) => bundle.flatten(),
            Err(error) => {
                // What is trusted is to be known all the same.
                self.certificates.inner.entries.store(found.map(Arc::new));
                return Err(error);
            }
        };
        let entries = match (found, bundle) {
            (Some(entries), Some(bundle)) if trust::differs(&entries, &bundle) => {
                info!(configuration = self.settings.configuration, "Setting caBundle");
                Some(trust::apply(&self.client, &self.settings, &entries, &bundle).await?)
            }
            (unchanged, _) => unchanged,
        };
        self.certificates.inner.entries.store(entries.map(Arc::new));
        Ok(())
    }
}

/// One call of the API server, within its time.
pub(super) async fn bounded<T>(
    action: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|source| Error::Api { action, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { action, seconds: CALL_TIMEOUT.as_secs() }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response, StatusCode};
    use k8s_openapi::{ByteString, api::core::v1::Secret};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::pki::Lifetimes;

    /// An API server with a configuration and this answer for the Secret; and what it is asked to write.
    fn api_server(status: StatusCode, secret: Value) -> (Client, Arc<Mutex<Vec<String>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writes = Arc::clone(&written);
        let service = service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            if request.method() != Method::GET {
                writes.lock().unwrap().push(format!("{} {path}", request.method()));
            }
            let (status, body) = if path.contains("/secrets/") {
                (status, secret.clone())
            } else {
                let webhook = json!({
                    "name": "inject.contextmanager.dev",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "clientConfig": {"service": {"name": "webhook", "namespace": "system"}, "caBundle": "bmV3ZXI="},
                });
                let configuration = json!({
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "MutatingWebhookConfiguration",
                    "metadata": {"name": "webhook"},
                    "webhooks": [webhook],
                });
                (StatusCode::OK, configuration)
            };
            let answer = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, kube::Error>(answer.unwrap()) }
        });
        (Client::new(service, "default"), written)
    }

    /// A replica that remembers these.
    fn keeper(client: Client, authorities: &Authorities) -> Keeper {
        let settings = Settings {
            namespace: "system".to_owned(),
            issuer: Issuer::SelfManaged,
            secret: "ca".to_owned(),
            configuration: "webhook".to_owned(),
            server_names: vec!["webhook.system.svc".to_owned()],
            lifetimes: Lifetimes::default(),
            poll: Duration::from_secs(10),
        };
        let (certificates, authorities) = (Certificates::default(), Some(authorities.clone()));
        Keeper { client, settings, certificates, authorities, given: None, complaint: None }
    }

    #[tokio::test]
    async fn only_what_was_just_read_from_the_secret_is_published() {
        let authorities = Authorities::start(Timestamp::now(), &Lifetimes::default()).unwrap();
        let refusal =
            json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
        let (client, written) = api_server(StatusCode::FORBIDDEN, refusal);
        let mut stale = keeper(client, &authorities);
        stale.keep().await;
        assert_eq!(*written.lock().unwrap(), Vec::<String>::new());
        assert!(stale.complaint.is_some());
        assert!(stale.certificates.inner.entries.load().is_some(), "what is trusted is known all the same");

        let data = authorities.to_secret().into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
        let secret = Secret { data: Some(data.collect()), ..Secret::default() };
        let (client, written) = api_server(StatusCode::OK, serde_json::to_value(secret).unwrap());
        keeper(client, &authorities).keep().await;
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/webhook";
        assert_eq!(*written.lock().unwrap(), [format!("PATCH {path}")]);
    }
}
