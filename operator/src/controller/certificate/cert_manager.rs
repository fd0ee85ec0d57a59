//! The certificate that cert-manager makes: asked for by a `Certificate`, whose Secret is not the one that pods mount, so that what
//! cannot be used is never theirs.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Preconditions},
};
use serde_json::{Value, json};

use super::{Wanted, before_end, take};
use crate::{
    controller::{
        apply::{Manager, apply, covers},
        build,
        context::Context,
        error::{Error, call},
        keys::{name_taken, owned, suspended},
        metrics::Due,
        plan::{CertManagerPlan, Plan},
        status::Trouble,
    },
    pki::client::Given,
};

/// The annotation by which cert-manager says for which `Certificate` a Secret is.
const CERTIFICATE: &str = "cert-manager.io/certificate-name";

/// Resources of which no `Certificate` of ours is left, by their uids. So each is looked at once while this replica leads.
#[derive(Default)]
pub(in crate::controller) struct Withdrawn(Mutex<HashSet<String>>);

impl Withdrawn {
    /// Forgets a resource that has a `Certificate` again.
    fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    /// Forgets all resources but these.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.all().retain(|uid| is_there(uid));
    }

    fn all(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes the `Certificate` of a resource that has another issuer now, if it is ours. Its Secret is cert-manager's, and stays.
pub(super) async fn withdraw(context: &Context, plan: &Plan) -> Result<(), Error> {
    let uid = &plan.owner.uid;
    if !context.cert_manager || plan.suspended || context.withdrawn.all().contains(uid) {
        return Ok(());
    }
    let name = names::tls_secret(&plan.name);
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &plan.namespace, &kind());
    let live = match call("look for a former Certificate", api.get_opt(&name)).await {
        Ok(live) => live,
        Err(error) => unless_denied(error).map(|()| None)?,
    };
    if let Some(live) = live.filter(|live| build::is_ours(&live.metadata) && owned(live, plan)) {
        let (uid, resource_version) = (live.metadata.uid, live.metadata.resource_version);
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::default() };
        match call("delete a former Certificate", api.delete(&name, &params)).await {
            Ok(_) => {
                context.wrote("certificate");
                let secret = names::issued_secret(&plan.name);
                let note = format!(
                    "Deleted the Certificate {name}, because spec.tls.issuer is another one; its Secret {secret} stays"
                );
                context.tell(plan, "CertificateWithdrawn", &note).await;
            }
            // Somebody else was faster.
            Err(error) if error.status().is_some_and(|status| status.code == 404) => {}
            Err(error) => {
                unless_denied(error)?;
                let note = format!(
                    "The Certificate {name} is of no use any more, and the controller may not delete it: \
                     kubectl delete certificate {name} -n {}",
                    plan.namespace
                );
                context.warn(plan, "CertificateLeft", &note).await;
            }
        }
    }
    context.withdrawn.all().insert(uid.clone());
    Ok(())
}

/// What is not permitted, or not there, is nothing to try again.
fn unless_denied(error: Error) -> Result<(), Error> {
    if error.status().is_some_and(|status| matches!(status.code, 403 | 404)) { Ok(()) } else { Err(error) }
}

/// What cert-manager made, or, if that cannot be used yet or any more, what sidecars have.
pub(super) async fn obtain(
    context: &Context,
    plan: &Plan,
    live: Option<&Secret>,
    wanted: &CertManagerPlan,
) -> Result<Result<Wanted, Trouble>, Error> {
    context.withdrawn.forget(&plan.owner.uid);
    let (name, target) = (names::tls_secret(&plan.name), names::issued_secret(&plan.name));
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let made = call("read what cert-manager made", secrets.get_opt(&target)).await?;
    if let Some(foreign) = made.as_ref().filter(|made| made.annotations().get(CERTIFICATE) != Some(&name)) {
        // cert-manager would write it all the same.
        return Ok(Err(name_taken(foreign, &target)));
    }
    let given = match ask(context, plan, &certificate(plan, wanted)).await? {
        Err(trouble) => Err(trouble),
        Ok(asked) => given(&asked, made.as_ref(), &target, Timestamp::now()),
    };
    let due = |facts: &_| Due::Renewal(before_end(facts, wanted.renew_before));
    Ok(take(given, live, &target, due, Timestamp::now()))
}

/// Brings the `Certificate` to what it should be; a trouble says what is missing for that.
async fn ask(context: &Context, plan: &Plan, desired: &DynamicObject) -> Result<Result<DynamicObject, Trouble>, Error> {
    let name = desired.name_any();
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &plan.namespace, &kind());
    let live = match call("read the Certificate", api.get_opt(&name)).await {
        Ok(live) => live,
        Err(error) => return or_trouble(error).map(Err),
    };
    match live {
        Some(live) if covers(&live, desired) => Ok(Ok(live)),
        Some(live) if !build::is_ours(&live.metadata) && !owned(&live, plan) => {
            let message = format!(
                "a Certificate called {name:?} exists and was not made by the operator; delete or rename it, or give this \
                 resource another name"
            );
            Ok(Err(Trouble::stalled("NameTaken", message)))
        }
        Some(_) | None if plan.suspended => Ok(Err(suspended("The Certificate is not up to date"))),
        Some(_) | None => {
            let manager = context.manager(Manager::Tls);
            match apply(&api, &name, desired, &manager, "write the Certificate").await {
                Ok(written) => {
                    context.wrote("certificate");
                    Ok(Ok(written))
                }
                Err(error) => or_trouble(error).map(Err),
            }
        }
    }
}

/// What a person has to do when the API server does not take a `Certificate`.
fn or_trouble(error: Error) -> Result<Trouble, Error> {
    match error.status().map(|status| status.code) {
        Some(403) => Ok(Trouble::stalled(
            "CertManagerForbidden",
            "spec.tls.issuer: the controller may not ask cert-manager for certificates; set controller.certManager to true \
             in the values of the chart",
        )),
        Some(404) => Ok(Trouble::stalled(
            "CertManagerMissing",
            "spec.tls.issuer: the API server knows no Certificates; install cert-manager, or choose another issuer",
        )),
        Some(_) | None => error.or_refused("CertificateRefused", |words| {
            format!("spec.tls: cert-manager does not take this Certificate: {words}")
        }),
    }
}

/// What was made, once it is what was asked for.
fn given(asked: &DynamicObject, made: Option<&Secret>, target: &str, now: Timestamp) -> Result<Given, Trouble> {
    if let Some(why) = unready(asked) {
        let name = asked.name_any();
        let message = format!(
            "cert-manager has not made the certificate yet ({why}); if this stays, see `kubectl describe certificate {name}`"
        );
        return Err(Trouble::passing("CertificateIssuing", message));
    }
    let Some(made) = made else {
        let message = format!("the Secret {target:?} of cert-manager is not there yet");
        return Err(Trouble::passing("CertificateIssuing", message));
    };
    Given::verify(made, now).map_err(|what| {
        let message = format!(
            "the Secret {target:?} of cert-manager cannot be used: {what}; spec.tls.issuerRef must name an issuer that \
             makes certificates for clients and writes its CA to ca.crt"
        );
        Trouble::stalled("CertificateInvalid", message)
    })
}

/// Why a `Certificate` is not what it should be, unless it is.
fn unready(asked: &DynamicObject) -> Option<String> {
    let conditions = asked.data.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let Some(ready) = ready else { return Some("it has not looked at it".to_owned()) };
    // What it says of an earlier generation is no answer.
    let observed = ready["observedGeneration"].as_i64();
    if observed.is_some_and(|observed| Some(observed) < asked.metadata.generation) {
        return Some("it has not looked at the last change".to_owned());
    }
    (ready["status"] != "True").then(|| ready["message"].as_str().unwrap_or("it does not say why").to_owned())
}

fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"))
}

/// A host name in form, because some issuers take no other common name.
const ISSUED_COMMON_NAME: &str = "context-manager-sidecar";

fn certificate(plan: &Plan, wanted: &CertManagerPlan) -> DynamicObject {
    let CertManagerPlan { issuer, kind: issuer_kind, group, identity, lifetime, renew_before } = wanted;
    let seconds = |duration: &Duration| format!("{}s", duration.as_secs());
    let mut object = DynamicObject::new(&names::tls_secret(&plan.name), &kind()).data(json!({"spec": {
        "secretName": names::issued_secret(&plan.name),
        // Some issuers ask for one. It is not the resource's name, which its author chooses: whoever else trusts the issuer may take a
        // common name for a user's.
        "commonName": ISSUED_COMMON_NAME,
        "uris": [identity.as_str()],
        "usages": ["digital signature", "client auth"],
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "duration": seconds(lifetime),
        "renewBefore": seconds(renew_before),
        "issuerRef": {"name": issuer, "kind": issuer_kind, "group": group},
    }}));
    object.metadata = build::metadata(plan, names::tls_secret(&plan.name), true);
    object
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::controller::plan::{CertificatePlan, tests::resource};

    #[test]
    fn a_resource_chooses_no_common_name_for_its_certificate() {
        let spec = json!({"tls": {"issuer": "CertManager", "issuerRef": {"name": "agents"}}});
        let mut postgres = resource(&spec);
        postgres.metadata.name = Some("postgres".to_owned());
        let plan = Plan::of(&postgres).unwrap();
        let CertificatePlan::CertManager(wanted) = &plan.certificate else { unreachable!("it was asked for") };
        let asked = certificate(&plan, wanted).data;
        assert_eq!(asked["spec"]["commonName"], ISSUED_COMMON_NAME);
        assert_eq!(asked["spec"]["uris"], json!(["spiffe://contextmanager.dev/ns/team/contextmanager/postgres"]));
    }
}
