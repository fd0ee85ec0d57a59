//! The chart with cert-manager as the issuer of the webhook's certificate, on the real kubelet: cert-manager makes it, its cainjector tells
//! the API server what to trust, and neither another certificate nor another CA refuses a pod that is admitted meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    admissions::Admissions,
    cert_manager::{self, CertManager, Definitions},
    cluster::{self, Namespace, eventually, kubectl},
    helm::Release,
    operator::{PATIENCE, provision},
};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Pod, Secret},
    },
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

const RELEASE: &str = "suite-issued";
const CONFIGURATION: &str = "suite-issued-context-manager";
/// The `Certificate` of what is served, and that of the CA.
const SERVED: &str = "suite-issued-context-manager-webhook";
const AUTHORITY: &str = "suite-issued-context-manager-webhook-ca";
/// Where cert-manager writes what is served.
const SECRET: &str = "suite-issued-context-manager-webhook-tls";
/// The chart's values: cert-manager with a CA of the chart's own, and times of seconds, so that the API server connects anew and anew.
const VALUES: &[&str] = &[
    "--set",
    "crds.install=false,webhook.certificates.issuer=CertManager,webhook.certificates.caGrace=4s,webhook.certificates.poll=1s",
    "--set",
    "webhook.connectionAge=1s,controller.replicas=1",
    "--hide-notes",
];
/// How long pods may take to start, and a part of the cluster to hear of a change.
const START: Duration = Duration::from_mins(2);
/// Renewals under the same CA.
const RENEWALS: usize = 3;

/// The release in its namespace.
struct Stage {
    certificates: Api<DynamicObject>,
    configurations: Api<MutatingWebhookConfiguration>,
    release: Release,
    home: Namespace,
}

impl Stage {
    /// What the API server trusts: the same by each entry.
    async fn trusted(&self) -> Result<String> {
        let found = self.configurations.get(CONFIGURATION).await?;
        let mut bundles: Vec<_> =
            found.webhooks.into_iter().flatten().map(|entry| entry.client_config.ca_bundle).collect();
        bundles.dedup();
        ensure!(bundles.len() == 1, "the entries trust different CAs: {bundles:?}");
        let ByteString(bundle) = bundles.remove(0).context("nobody has written caBundle")?;
        Ok(String::from_utf8(bundle)?)
    }

    /// Who owns a part of `caBundle`.
    async fn writers(&self) -> Result<Vec<String>> {
        let found = self.configurations.get(CONFIGURATION).await?;
        let fields = found.metadata.managed_fields.into_iter().flatten();
        let owns = fields.filter(|entry| json!(entry.fields_v1).to_string().contains("f:caBundle"));
        Ok(owns.filter_map(|entry| entry.manager).collect())
    }

    /// The CA that vouches for what is served.
    async fn authority(&self) -> Result<String> {
        let data = self.home.api::<Secret>().get(SECRET).await?.data.unwrap_or_default();
        let ByteString(authority) = data.get("ca.crt").context("no ca.crt")?;
        Ok(String::from_utf8(authority.clone())?.trim().to_owned())
    }

    /// Asks for another certificate as `cmctl renew` does, and waits until it is made; when it ends.
    async fn renew(&self, name: &str) -> Result<Timestamp> {
        // The end of a certificate has whole seconds: one that is made in the next one is told from this one by it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.certificates.get(name).await?;
        let conditions = before.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut conditions: Vec<Value> =
            conditions.into_iter().filter(|condition| condition["type"] != "Issuing").collect();
        conditions.push(json!({
            "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "the suite asked for it",
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }));
        let ask = Patch::Merge(json!({"status": {"conditions": conditions}}));
        self.certificates.patch_status(name, &PatchParams::default(), &ask).await?;
        eventually(&format!("a renewal of {name}"), PATIENCE, || async {
            let now = self.certificates.get(name).await?;
            let revision = |found: &DynamicObject| found.data["status"]["revision"].as_i64();
            // One part of cert-manager writes the revision, another one when it ends.
            let ends = |found: &DynamicObject| -> Result<Timestamp> {
                Ok(found.data["status"]["notAfter"].as_str().context("it never ends")?.parse()?)
            };
            let is_new = revision(&now) > revision(&before) && ends(&now)? > ends(&before)?;
            ensure!(is_new, "{}", now.data["status"]);
            ends(&now)
        })
        .await
    }

    /// Waits until both replicas serve the certificate that ends then.
    async fn served(&self, ends: Timestamp) -> Result<()> {
        let metric = "context_manager_webhook_certificate_not_after_timestamp_seconds{certificate=\"leaf\"}";
        for pod in self.release.ready_pods(&self.home, "webhook", 2).await? {
            let page = format!("/api/v1/namespaces/{}/pods/{}:8081/proxy/metrics", self.home.name, pod.name_any());
            eventually("the new certificate", PATIENCE, || async {
                let metrics = kubectl(&["get", "--raw", &page]).await?;
                let shown = metrics.lines().find_map(|line| line.strip_prefix(metric)).context("no leaf")?.trim();
                ensure!(shown == ends.as_second().to_string(), "it ends at {shown} and not at {}", ends.as_second());
                Ok::<_, anyhow::Error>(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the replicas wait for their certificate, and say so.
    async fn waits(&self) -> Result<()> {
        eventually("two replicas without a certificate", START, || async {
            let pods = self.release.pods(&self.home, "webhook").await?;
            ensure!(pods.len() == 2, "{} pods", pods.len());
            for pod in pods {
                let name = pod.name_any();
                let log = kubectl(&["logs", "-n", &self.home.name, &name]).await?;
                ensure!(log.contains(SECRET) && log.contains("does not exist"), "{name} says {log}");
                ensure!(!context_manager_operator::pods::is_ready(&pod), "{name} is ready without a certificate");
            }
            Ok::<_, anyhow::Error>(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_manager_issues_the_webhooks_certificate_and_no_renewal_refuses_a_pod() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let _definitions = Definitions::install(&client).await?;
    eventually("cert-manager's kinds", START, || async {
        let served = kubectl(&["get", "--raw", "/apis/cert-manager.io/v1"]).await?;
        ensure!(served.contains("\"certificates\"") && served.contains("\"issuers\""), "{served}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let home = Namespace::create(&client, "issued", &enforce).await?;
    let agents = Namespace::create(&client, "issued-agents", &enforce).await?;
    let certificates = cert_manager::certificates(&client, &home);
    let release = Release::new(RELEASE, &home.name)?;
    let stage = Stage { certificates, configurations: Api::all(client.clone()), release, home };
    let chart = format!("{}/../charts/context-manager", env!("CARGO_MANIFEST_DIR"));
    let apply = async |verb: &str| stage.release.helm(&[verb], &[&[chart.as_str()], VALUES].concat()).await;

    // Nobody makes the certificate yet: no replica lets anybody in.
    apply("install").await?;
    stage.waits().await?;
    let _manager = CertManager::start()?;
    stage.release.ready_pods(&stage.home, "webhook", 2).await?;
    let first = stage.authority().await?;
    ensure!(stage.trusted().await?.trim() == first, "the API server trusts something else");
    let writers = stage.writers().await?;
    ensure!(!writers.is_empty() && writers.iter().all(|writer| writer.contains("cainjector")), "{writers:?}");
    provision(&agents, "memory", json!({})).await?;
    eventually("injection", PATIENCE, || async {
        let pod: Pod = agents.try_pod(&context_manager_tests::objects::asking("first")).await?;
        let injected = pod.spec.and_then(|spec| spec.init_containers).is_some();
        injected.then_some(()).context("it was admitted without a sidecar")
    })
    .await?;

    let admissions = Admissions::begin(&agents);
    for _ in 0..RENEWALS {
        let ends = stage.renew(SERVED).await?;
        stage.served(ends).await?;
    }
    ensure!(stage.trusted().await?.trim() == first, "a renewal changed the CA");
    // Applying the chart again takes nothing away from the cainjector.
    apply("upgrade").await?;
    ensure!(stage.trusted().await?.trim() == first, "an upgrade changed what is trusted");

    // Another CA, and a certificate of it.
    stage.renew(AUTHORITY).await?;
    let ends = stage.renew(SERVED).await?;
    let second = stage.authority().await?;
    ensure!(second != first, "the CA is the first one still");
    stage.served(ends).await?;
    let trusted = stage.trusted().await?;
    ensure!(trusted.contains(&second) && trusted.contains(&first), "the CAs do not overlap: {trusted}");
    let ends = stage.renew(SERVED).await?;
    stage.served(ends).await?;

    let tally = admissions.end().await?;
    println!("{} renewals and a new CA: {} pods admitted, {} not", RENEWALS + 2, tally.injected, tally.wrong.len());
    ensure!(tally.wrong.is_empty(), "{:?}", tally.wrong);
    ensure!(tally.injected >= 200, "too few admissions to prove anything");
    Ok(())
}
