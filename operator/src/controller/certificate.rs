//! The client certificate of a resource's sidecars: where it comes from, and the Secret that they mount.
//!
//! Whoever makes it, what cannot be used never takes the place of what can: sidecars keep the pair in force until it has ended.

mod cert_manager;
mod existing;
mod self_managed;

use std::time::Duration;

use context_manager_crds::{ContextManagerStatus, context_manager::status::Certificate};
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::Api;

use super::{
    apply::{Manager, apply, covers},
    build,
    context::Context,
    error::{Error, call},
    keys::{name_taken, not_taken, owned, suspended},
    metrics::Due,
    plan::{CertificatePlan, Plan},
    status::{Finding, Good, Trouble},
};
use crate::pki::client::{Facts, Given, Pair};
pub(super) use cert_manager::Withdrawn;
pub(super) use self_managed::Authority;

/// What was found of the certificate.
pub(super) struct Found {
    /// The one in force, if there is one.
    pub(super) certificate: Option<Certificate>,
    /// Whether it is as it should be.
    pub(super) finding: Finding,
    /// When it is to be renewed here.
    pub(super) next: Option<Duration>,
}

impl From<Trouble> for Found {
    fn from(trouble: Trouble) -> Self {
        Self { certificate: None, finding: Err(trouble), next: None }
    }
}

/// What sidecars are to have.
struct Wanted {
    pair: Pair,
    /// The CAs that vouch for it, in PEM.
    authorities: String,
    facts: Facts,
    due: Due,
    /// When it is to be renewed here; others renew theirs without being asked.
    next: Option<Duration>,
    /// What a person is told when it takes the place of another one; nothing when it is the one in force.
    news: Option<String>,
    /// Whether it is as it should be.
    finding: Finding,
}

/// Brings the certificate's Secret to what it should be.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let name = names::tls_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the certificate", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(name_taken(foreign, &name).into());
    }
    let wanted = match &plan.certificate {
        CertificatePlan::SelfManaged { identity, lifetime, renew_before } => {
            self_managed::obtain(context, plan, live.as_ref(), (identity, *lifetime, *renew_before)).await?
        }
        CertificatePlan::Existing { secret, replace_before } => {
            existing::obtain(context, plan, live.as_ref(), (secret, *replace_before)).await?
        }
        CertificatePlan::CertManager(wanted) => cert_manager::obtain(context, plan, live.as_ref(), wanted).await?,
    };
    let found = match wanted {
        Ok(wanted) => publish(context, plan, &api, live.as_ref(), wanted).await?,
        Err(trouble) => trouble.into(),
    };
    announce(context, plan, current, &found.finding).await;
    if !matches!(plan.certificate, CertificatePlan::CertManager(_)) {
        cert_manager::withdraw(context, plan).await?;
    }
    Ok(found)
}

/// What was given by somebody else if it can be used, or else what is in force, with what is the matter.
fn take(
    given: Result<Given, Trouble>,
    live: Option<&Secret>,
    from: &str,
    due: impl Fn(&Facts) -> Due,
    now: Timestamp,
) -> Result<Wanted, Trouble> {
    let kept = live.and_then(|live| Given::verify(live, now).ok());
    let (Given { pair, authorities, facts }, news, finding) = match (given, kept) {
        (Ok(given), kept) => {
            let news = format!("Copied the certificate of the Secret {from}, valid until {}", given.facts.not_after);
            let is_new = kept.is_none_or(|kept| kept.pair != given.pair);
            let good = good(&given.facts);
            (given, is_new.then_some(news), Ok(good))
        }
        (Err(Trouble { reason, message, stalled }), Some(kept)) => {
            let message = format!("{message}; the last good one stays in force, until {}", kept.facts.not_after);
            (kept, None, Err(Trouble { reason, message, stalled }))
        }
        (Err(trouble), None) => return Err(trouble),
    };
    let due = due(&facts);
    Ok(Wanted { pair, authorities, facts, due, next: None, news, finding })
}

/// Writes what sidecars are to have, if they have it not.
async fn publish(
    context: &Context,
    plan: &Plan,
    api: &Api<Secret>,
    live: Option<&Secret>,
    wanted: Wanted,
) -> Result<Found, Error> {
    let Wanted { pair, authorities, facts, due, next, news, finding } = wanted;
    let mut secret = build::tls_secret(plan, &authorities, &pair);
    if live.is_none_or(|live| !covers(live, &secret)) {
        if plan.suspended {
            return Ok(suspended("The certificate's Secret is not up to date").into());
        }
        if let Some(live) = live {
            // A Secret's type cannot be changed; leaving it out would give it back to the default, which is a change too.
            secret.type_.clone_from(&live.type_);
        }
        let name = names::tls_secret(&plan.name);
        let manager = context.manager(Manager::Tls);
        if let Err(error) = apply(api, &name, &secret, &manager, "write the certificate").await {
            let trouble = not_taken(error, "Secret", &name)?;
            // What sidecars have stays in force until it has ended.
            let kept = live.and_then(|live| Given::verify(live, Timestamp::now()).ok());
            if let Some(Given { facts: kept, .. }) = &kept {
                context.metrics.certificates.set(plan, kept.not_after, due.of_another(facts.not_after, kept.not_after));
            }
            return Ok(Found { certificate: kept.map(|kept| described(kept.facts)), ..Found::from(trouble) });
        }
        context.wrote("tls_secret");
        if let Some(news) = news.filter(|_| live.is_some()) {
            context.tell(plan, "CertificateRenewed", &news).await;
        }
    }
    context.metrics.certificates.set(plan, facts.not_after, due);
    Ok(Found { certificate: Some(described(facts)), finding, next })
}

/// An event when something begins to be wrong with a certificate that a person can put right.
async fn announce(context: &Context, plan: &Plan, current: Option<&ContextManagerStatus>, finding: &Finding) {
    let Err(Trouble { reason, message, stalled: true }) = finding else { return };
    let said = current.and_then(|status| status.conditions.iter().find(|said| said.type_ == "TLSReady"));
    if said.is_none_or(|said| said.message != *message) {
        context.warn(plan, reason, message).await;
    }
}

fn described(Facts { not_after, fingerprint, lifetime: _ }: Facts) -> Certificate {
    Certificate { name: "client".to_owned(), not_after: Time(not_after), fingerprint }
}

/// So long before a certificate ends.
fn before_end(facts: &Facts, long: Duration) -> Timestamp {
    facts.not_after.checked_sub(long).unwrap_or(Timestamp::MIN)
}

/// A certificate that is in force.
fn good(facts: &Facts) -> Good {
    Good("Provisioned", format!("valid until {}", facts.not_after))
}

pub(super) fn pair_in(secret: &Secret) -> Option<Pair> {
    let text = |key: &str| {
        let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Pair { certificate: text(names::CERTIFICATE_FILE)?, key: text(names::PRIVATE_KEY_FILE)? })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::{context::tests::context_with, objects::Objects, plan::tests::resource};

    #[tokio::test]
    async fn a_certificate_that_the_api_server_does_not_take_is_said_and_the_one_in_force_is_shown() {
        let objects = Objects::default();
        let context = context_with(&objects.client(), |settings| settings);
        let look = async |spec: Value| {
            let plan = Plan::of(&resource(&spec)).unwrap();
            Box::pin(ensure(&context, &plan, None)).await.unwrap()
        };
        objects.refuse(true);
        let Found { certificate, finding, next: _ } = look(json!({})).await;
        let trouble = finding.unwrap_err();
        assert_eq!((certificate, trouble.reason, trouble.stalled), (None, "ObjectRefused", true));
        let words = "Secret memory-context-tls (exceeded quota: small)";
        assert!(trouble.message.contains(words), "{}", trouble.message);
        objects.refuse(false);
        let made = look(json!({})).await.certificate;
        assert!(made.is_some());
        objects.refuse(true);
        // It lives longer than is wanted by now.
        let Found { certificate, finding, next: _ } = look(json!({"tls": {"duration": "24h"}})).await;
        assert_eq!((certificate, finding.unwrap_err().reason), (made, "ObjectRefused"));
    }
}
