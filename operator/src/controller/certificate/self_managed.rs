//! The certificate by the operator's own CA, renewed before it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::Mutex;

use super::{Wanted, before_end, good, pair_in};
use crate::{
    controller::{context::Context, error::Error, keys::suspended, metrics::Due, plan::Plan, status::Trouble},
    pki::client::{Identity, Settings, Trust, keep},
};

/// How long the CA is remembered; far shorter than a new one is published before it signs.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Least pause before a certificate is looked at for its renewal.
const SOONEST: Duration = Duration::from_secs(1);

/// The CA, read at most every half minute, whatever the number of resources.
pub(in crate::controller) struct Authority {
    settings: Settings,
    current: Mutex<Option<(Instant, Arc<Trust>)>>,
}

impl Authority {
    pub(in crate::controller) fn new(settings: Settings) -> Self {
        Self { settings, current: Mutex::default() }
    }

    /// The CA.
    pub(in crate::controller) async fn trust(&self, client: &Client) -> Result<Arc<Trust>, Error> {
        let mut current = self.current.lock().await;
        if let Some((_, trust)) = current.as_ref().filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Ok(Arc::clone(trust));
        }
        let remembered = current.as_ref().map(|(_, trust)| &**trust);
        let kept = keep(client, &self.settings, remembered, Timestamp::now()).await.map_err(Error::Authority)?;
        let trust = Arc::new(kept);
        *current = Some((Instant::now(), Arc::clone(&trust)));
        Ok(trust)
    }
}

/// The certificate in force while it is good, else a new one.
pub(super) async fn obtain(
    context: &Context,
    plan: &Plan,
    live: Option<&Secret>,
    (identity, lifetime, renew_before): (&Identity, Duration, Duration),
) -> Result<Result<Wanted, Trouble>, Error> {
    let trust = context.authority.trust(&context.client).await?;
    let now = Timestamp::now();
    let current = live.and_then(pair_in).ok_or_else(|| "there is none".to_owned());
    let current = current.and_then(|pair| {
        let facts = trust.check(&pair, identity, now)?;
        let rest = Duration::try_from(facts.not_after.duration_since(now)).unwrap_or_default();
        if rest <= renew_before || facts.lifetime > lifetime {
            return Err("it is due".to_owned());
        }
        Ok((pair, facts))
    });
    let (pair, facts, news) = match current {
        Ok((pair, facts)) => (pair, facts, None),
        Err(why) if plan.suspended => return Ok(Err(suspended(&format!("The certificate is to be made ({why})")))),
        Err(why) => {
            let pair = trust.issue(identity, now, lifetime).map_err(Error::Certificate)?;
            match trust.check(&pair, identity, now) {
                Ok(facts) => (pair, facts, Some(why)),
                Err(what) => {
                    let message = format!("a new certificate does not pass its own check: {what}");
                    return Ok(Err(Trouble::passing("CertificateRefused", message)));
                }
            }
        }
    };
    let news = news.map(|why| format!("Made a new certificate in Secret {}: {why}", names::tls_secret(&plan.name)));
    let renewal = before_end(&facts, renew_before);
    let (due, next, finding) = (Due::Renewal(renewal), until(renewal, now), Ok(good(&facts)));
    Ok(Ok(Wanted { pair, authorities: trust.bundle(), facts, due, next, news, finding }))
}

/// How long it is until a renewal. One that is due though the certificate was just made, as its CA ends, can wait for the next look.
fn until(renewal: Timestamp, now: Timestamp) -> Option<Duration> {
    let rest = Duration::try_from(renewal.duration_since(now)).ok()?;
    (!rest.is_zero()).then(|| rest.max(SOONEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::objects::{Objects, SECRETS};

    #[tokio::test]
    async fn a_ca_whose_secret_has_vanished_or_was_damaged_signs_on_beside_its_successor() {
        let (settings, identity) = (Settings::new("team", "ca"), Identity::new("team", "memory"));
        let now = Timestamp::now();
        let first = keep(&Objects::default().client(), &settings, None, now).await.expect("a CA");
        let damaged = Objects::default();
        damaged.put(&format!("{SECRETS}/ca"), &[("tls.crt", "damaged")]);
        for (what, objects) in [("vanished", Objects::default()), ("damaged", damaged)] {
            let kept = keep(&objects.client(), &settings, Some(&first), now).await.expect("a CA");
            for (signing, trusting) in [(&first, &kept), (&kept, &first)] {
                let pair = signing.issue(&identity, now, Duration::from_hours(1)).expect("a certificate");
                assert!(trusting.check(&pair, &identity, now).is_ok(), "{what}");
            }
            let (before, after) = (first.bundle(), kept.bundle());
            assert!(after.starts_with(&before) && after.len() > before.len(), "{what}: there is no successor");
            assert_eq!(objects.file("ca", "ca.crt"), Some(after), "{what}");
        }
    }

    #[test]
    fn a_renewal_is_awaited_to_the_moment_and_never_in_a_hurry() {
        let renewal = Timestamp::UNIX_EPOCH;
        let before = |rest: Duration| until(renewal, renewal.checked_sub(rest).expect("a time"));
        assert_eq!(before(Duration::from_secs(20)), Some(Duration::from_secs(20)));
        assert_eq!(before(Duration::from_millis(20)), Some(SOONEST));
        assert_eq!(before(Duration::ZERO), None);
        assert_eq!(until(renewal, Timestamp::MAX), None, "another one would be due as well");
    }
}
