//! The webhook: registered, served with a certificate that the API server's own bundle verifies, and for some time yet.

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration},
};
use kube::ResourceExt as _;

use super::finding::Findings;
use crate::{
    cluster::Cluster,
    error::Error,
    operator::{self, Component},
    status::until,
    trust::{self, bundle, not_after},
};

const REGISTERED: &str = "webhook-registration";
const TRUST: &str = "webhook-trust";
/// Both entries of the chart.
const ENTRIES: [&str; 2] = ["namespaces.contextmanager.dev", "pods.contextmanager.dev"];
/// Looks at every configuration.
pub(super) async fn check(
    cluster: &Cluster,
    registrations: Result<Vec<MutatingWebhookConfiguration>, Error>,
    findings: &mut Findings,
) {
    let registrations = match registrations {
        Ok(found) => found,
        Err(error) => return findings.unknown(REGISTERED, &error),
    };
    if registrations.is_empty() {
        let message = "no MutatingWebhookConfiguration has the webhook's entries, so no pod gets a sidecar";
        return findings.problem(REGISTERED, message, "install the chart again");
    }
    // The programs were looked at before; if they cannot be read, that was said there.
    let webhooks = operator::deployments(cluster, Component::Webhook).await.unwrap_or_default();
    for configuration in &registrations {
        registered(configuration, findings);
        let webhook = operator::registered(&webhooks, &configuration.name_any());
        let issuer = webhook.and_then(operator::issuer_of);
        trusted(cluster, configuration, issuer, findings).await;
    }
}

fn registered(configuration: &MutatingWebhookConfiguration, findings: &mut Findings) {
    let name = configuration.name_any();
    let entries: Vec<_> = operator::entries(configuration).collect();
    let missing: Vec<_> =
        ENTRIES.into_iter().filter(|wanted| !entries.iter().any(|entry| entry.name == *wanted)).collect();
    if !missing.is_empty() {
        let message = format!("{name} lacks the entries {}", missing.join(", "));
        return findings.problem(REGISTERED, message, "install the chart again");
    }
    let ignoring: Vec<_> = entries.iter().filter(|entry| entry.failure_policy.as_deref() == Some("Ignore")).collect();
    if ignoring.is_empty() {
        findings.fine(
            REGISTERED,
            format!("{name} has both entries; pods that ask wait for the webhook, all others never do"),
        );
    } else {
        let message =
            format!("{name} has failurePolicy: Ignore, so pods start without their memory while the webhook is away");
        findings.warning(REGISTERED, message, "set webhook.failurePolicy: Fail: only pods that ask are blocked by it");
    }
}

async fn trusted(
    cluster: &Cluster,
    configuration: &MutatingWebhookConfiguration,
    issuer: Option<(String, String)>,
    findings: &mut Findings,
) {
    let now = Timestamp::now();
    let name = configuration.name_any();
    let entries: Vec<_> = operator::entries(configuration).collect();
    if let Err(what) = entries.iter().try_for_each(|entry| lasting(entry, now)) {
        let remedy = unset(issuer.as_ref(), &cluster.operator_namespace);
        return findings.problem(TRUST, format!("{name}: {what}"), remedy);
    }
    // All entries have one place; that of the first is looked at, and every bundle has to verify it.
    let Some(first) = entries.first() else { return };
    let chain = match trust::served(cluster, &first.client_config).await {
        Ok(chain) => chain,
        Err(error) => return findings.unknown(TRUST, &error),
    };
    for entry in &entries {
        if let Err(what) = trust::verify(&pem(entry), &chain, &trust::server_name(&entry.client_config), now) {
            let message =
                format!("{name}: the caBundle of {} does not verify what the webhook serves: {what}", entry.name);
            return findings.problem(
                TRUST,
                message,
                "look at the webhook's log; a replica that is not trusted should not be ready",
            );
        }
    }
    let leaf = chain.first().and_then(|leaf| not_after(leaf).ok());
    let authority =
        entries.iter().flat_map(|entry| bundle(&pem(entry))).filter_map(|found| not_after(&found).ok()).max();
    let (Some(leaf), Some(authority)) = (leaf, authority) else { return };
    let by = issuer.map(|(issuer, secret)| format!(" (issuer {issuer}, Secret {secret})")).unwrap_or_default();
    let message = format!(
        "{name}: what is served is trusted; the certificate ends in {}, its CA in {}{by}",
        until(leaf, now),
        until(authority, now)
    );
    findings.fine(TRUST, message);
}

/// What to do when caBundle is missing or has ended: it depends on who sets it.
fn unset(issuer: Option<&(String, String)>, namespace: &str) -> String {
    match issuer {
        Some((issuer, _)) if issuer == "cert-manager" => {
            "cert-manager's cainjector sets caBundle: look at its log, and at `kubectl get certificates -n ".to_owned()
                + namespace
                + "`"
        }
        Some((_, secret)) => format!(
            "the webhook sets caBundle to ca.crt of the Secret {namespace}/{secret}: look whether it is there and at the webhook's log"
        ),
        None => {
            "the webhook sets caBundle within seconds: look at its log, and whether a GitOps tool sets that field back"
                .to_owned()
        }
    }
}

fn pem(entry: &MutatingWebhook) -> Vec<u8> {
    entry.client_config.ca_bundle.as_ref().map(|ByteString(bytes)| bytes.clone()).unwrap_or_default()
}

/// Whether a bundle has a CA that has not ended.
fn lasting(entry: &MutatingWebhook, now: Timestamp) -> Result<(), String> {
    let ends: Vec<_> = bundle(&pem(entry)).iter().filter_map(|certificate| not_after(certificate).ok()).collect();
    match ends.iter().max() {
        None => Err(format!("{} has no caBundle, so the API server trusts no webhook", entry.name)),
        Some(end) if *end < now => Err(format!("the last CA of {} ended {}", entry.name, until(*end, now))),
        Some(_) => Ok(()),
    }
}
