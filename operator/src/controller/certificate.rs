//! The client certificate of a resource's sidecars: made by the operator's own CA, renewed before it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use context_manager_crds::context_manager::status::Certificate;
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, Client};
use tokio::sync::Mutex;

use super::{
    apply::{Manager, apply, covers},
    build,
    error::{Error, call},
    keys::{name_taken, owned, suspended},
    plan::{CertificatePlan, Plan},
    reconcile::Context,
    status::{Good, Trouble},
};
use crate::pki::client::{Facts, Pair, Settings, Trust, keep};

/// How long the CA is remembered; far shorter than a new one is published before it signs.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The CA, read at most every half minute, whatever the number of resources.
pub(super) struct Authority {
    settings: Settings,
    current: Mutex<Option<(Instant, Arc<Trust>)>>,
}

impl Authority {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, current: Mutex::default() }
    }

    /// The CA.
    pub(super) async fn trust(&self, client: &Client) -> Result<Arc<Trust>, Error> {
        let mut current = self.current.lock().await;
        if let Some((_, trust)) = current.as_ref().filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Ok(Arc::clone(trust));
        }
        let trust = Arc::new(keep(client, &self.settings, Timestamp::now()).await.map_err(Error::Authority)?);
        *current = Some((Instant::now(), Arc::clone(&trust)));
        Ok(trust)
    }
}

/// Brings the certificate's Secret to what it should be.
pub(super) async fn ensure(context: &Context, plan: &Plan) -> Result<Result<(Certificate, Good), Trouble>, Error> {
    let name = names::tls_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the certificate", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let trust = context.authority.trust(&context.client).await?;
    let now = Timestamp::now();
    let CertificatePlan { identity, lifetime, renew_before } = &plan.certificate;
    let current = live.as_ref().and_then(pair_in).ok_or_else(|| "there is none".to_owned());
    let current = current.and_then(|pair| {
        let facts = trust.check(&pair, identity, now)?;
        let rest = Duration::try_from(facts.not_after.duration_since(now)).unwrap_or_default();
        if rest <= *renew_before || facts.lifetime > *lifetime {
            return Err("it is due".to_owned());
        }
        Ok((pair, facts))
    });
    let (pair, facts, renewed) = match current {
        Ok((pair, facts)) => (pair, facts, None),
        Err(why) if plan.suspended => return Ok(Err(suspended(&format!("The certificate is to be made ({why})")))),
        Err(why) => {
            let pair = trust.issue(identity, now, *lifetime).map_err(Error::Certificate)?;
            match trust.check(&pair, identity, now) {
                Ok(facts) => (pair, facts, Some(why)),
                Err(what) => {
                    let message = format!("a new certificate does not pass its own check: {what}");
                    return Ok(Err(Trouble::passing("CertificateRefused", message)));
                }
            }
        }
    };
    let mut wanted = build::tls_secret(plan, &trust.bundle(), &pair);
    if live.as_ref().is_none_or(|live| !covers(live, &wanted)) {
        if plan.suspended {
            return Ok(Err(suspended("The certificate's Secret is not up to date")));
        }
        if let Some(live) = &live {
            // A Secret's type cannot be changed; leaving it out would give it back to the default, which is a change too.
            wanted.type_.clone_from(&live.type_);
        }
        apply(&api, &name, &wanted, &context.manager(Manager::Tls), "write the certificate").await?;
        context.wrote("tls_secret");
        if let Some(why) = renewed.filter(|_| live.is_some()) {
            context.tell(plan, "CertificateRenewed", &format!("Made a new certificate in Secret {name}: {why}")).await;
        }
    }
    context.metrics.certificates.set(plan, facts.not_after);
    Ok(Ok(describe(facts)))
}

fn describe(Facts { not_after, fingerprint, lifetime: _ }: Facts) -> (Certificate, Good) {
    let message = format!("valid until {not_after}");
    (Certificate { name: "client".to_owned(), not_after: Time(not_after), fingerprint }, Good("Provisioned", message))
}

pub(super) fn pair_in(secret: &Secret) -> Option<Pair> {
    let text = |key: &str| {
        let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Pair { certificate: text(names::CERTIFICATE_FILE)?, key: text(names::PRIVATE_KEY_FILE)? })
}
