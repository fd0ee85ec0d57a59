//! The client certificate of a resource's sidecars, before a Qdrant server behind a proxy that asks who calls.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::{
    config::{SidecarConfig, Store},
    message::ContextResponse,
    names,
};
use context_manager_qdrant::{Collection, Options, Trust};
use context_manager_tests::{
    cert_manager::{self, CertManager, Definitions},
    client::Client,
    cluster::{self, Namespace, eventually},
    files,
    gate::{Authority, Gate, Strangers},
    operator::{HOME, Operator, PATIENCE, wait_for, wait_within},
    qdrant::Qdrant,
    sidecar::Sidecar,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use tempfile::TempDir;

const NAME: &str = "memory";
/// The Secret with the CA that signs for all resources.
const CA: &str = "context-manager-client-ca";

/// A server behind a gate, and a resource that uses it.
struct Stage {
    _folder: TempDir,
    _server: Qdrant,
    operator: Arc<Operator>,
    gate: Gate,
    namespace: Namespace,
}

impl Stage {
    async fn set(what: &str, tls: Value) -> Result<Self> {
        let operator = Operator::shared().await?;
        let folder = TempDir::new()?;
        let server = Qdrant::start(&folder.path().join("qdrant")).await?;
        println!("the server is {}", Qdrant::name());
        let gate = Gate::start(server.address()).await?;
        let namespace = operator.namespace(&cluster::client().await?, what, &[]).await?;
        let ca = json!({"metadata": {"name": "server-ca"}, "data": {"ca.crt": gate.ca()}});
        namespace.make::<ConfigMap>(&ca).await?;
        let reference = json!({"name": "server-ca", "key": "ca.crt"});
        let qdrant = json!({"url": gate.url(), "tls": {"caConfigMapRef": reference}});
        namespace.make_resource(NAME, json!({"vectorStore": {"qdrant": qdrant}, "tls": tls})).await?;
        Ok(Self { _folder: folder, _server: server, operator, gate, namespace })
    }

    /// The files of the Secret that sidecars mount.
    async fn files(&self) -> Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for secret in [names::tls_secret(NAME), names::store_secret(NAME)] {
            let data = self.namespace.api::<Secret>().get(&secret).await?.data.unwrap_or_default();
            for (name, ByteString(content)) in data {
                files.push((name, String::from_utf8(content)?));
            }
        }
        Ok(files)
    }

    async fn file(&self, name: &str) -> Result<String> {
        let files = self.files().await?;
        files.into_iter().find_map(|(file, content)| (file == name).then_some(content)).context(name.to_owned())
    }

    /// Writes what sidecars mount to a folder, each file at once.
    async fn mount(&self, folder: &Path) -> Result<()> {
        for (name, content) in self.files().await? {
            files::replace(&folder.join(name), content)?;
        }
        Ok(())
    }

    /// The store of the published configuration, as the beginning of another one.
    async fn store(&self) -> Result<String> {
        let map = self.namespace.api::<ConfigMap>().get(&names::config_map(NAME)).await?;
        let published = map.data.unwrap_or_default().remove(names::CONFIG_FILE).context("no configuration")?;
        let SidecarConfig { store, .. } = SidecarConfig::from_toml(&published)?;
        let Store::Qdrant(ref qdrant) = store else { anyhow::bail!("{store:?}") };
        ensure!(qdrant.cert_file.is_some() && qdrant.key_file.is_some(), "{qdrant:?}");
        Ok(toml::to_string(&json!({"store": store}))?)
    }

    async fn resource(&self) -> Result<ContextManager> {
        Ok(self.namespace.api().get(NAME).await?)
    }

    /// The certificate that the status tells of.
    async fn fingerprint(&self) -> Result<String> {
        let status = self.resource().await?.status.context("a status")?;
        Ok(status.certificates.first().context("a certificate")?.fingerprint.clone())
    }

    async fn change(&self, patch: Value) -> Result<()> {
        let api = self.namespace.api::<ContextManager>();
        api.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// Stores a text, and finds it again.
async fn remembers(client: &Client, text: &str) -> Result<()> {
    let stored = client.post("/v1/contexts", &json!({"text": text, "level": "long_term"})).await?;
    ensure!(stored.status == 201, "{} {}", stored.status, String::from_utf8_lossy(&stored.body));
    let search = json!({"query": text, "levels": ["long_term"]});
    let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
    ensure!(found.degraded.is_empty(), "{:?}", found.degraded);
    ensure!(found.contexts.iter().any(|found| found.context.text == text), "{text} is not found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_who_calls_lets_in_the_operator_and_sidecars_also_after_a_renewal() -> Result<()> {
    let stage = Stage::set("mutual", json!({})).await?;
    let refused = async |why: &'static str| {
        let such = |said: &Condition| said.reason == "ClientCertificateRefused" && said.message.contains(why);
        let away = wait_within(PATIENCE, &stage.namespace, NAME, "StoreReady", such).await?;
        let said = serde_json::to_string(&away.status)?;
        ensure!(said.contains("ca.crt of the Secret memory-context-tls") && said.contains("spec.tls.issuer"), "{said}");
        ensure!(stage.gate.passed().is_empty() && stage.gate.refused() > 0, "nobody is let in");
        Ok(())
    };
    refused("the CAs that it names, and none of them signed").await?;
    stage.gate.ask_for(&Authority::new("Others")?.pem, Strangers::RefusedUntold)?;
    refused("does not know the CA that signed").await?;

    let bundle = stage.file(names::CA_FILE).await?;
    stage.gate.ask_for(&bundle, Strangers::Refused)?;
    wait_for(&stage.namespace, NAME, "StoreReady", "True", None).await?;
    let first = stage.fingerprint().await?;
    let passed = stage.gate.passed();
    ensure!(!passed.is_empty() && passed.iter().all(|shown| *shown == Some(first.clone())), "{passed:?}");

    let folder = TempDir::new()?;
    stage.mount(folder.path()).await?;
    let stranger =
        Options { trust: Trust::Bundle(stage.gate.ca().into()), ..Options::new(stage.gate.url(), "c", 4, "m") };
    ensure!(Collection::connect(stranger)?.inspect().await.is_err(), "nobody passes without a certificate");
    let sidecar = Sidecar::start(folder.path(), &stage.store().await?).await?;
    let client = sidecar.client()?;
    remembers(&client, "the first certificate is good").await?;
    let passed = stage.gate.passed();
    ensure!(passed.contains(&Some(first.clone())), "{passed:?}");

    // A shorter life that is asked for is a renewal at once.
    stage.change(json!({"spec": {"tls": {"duration": "1h"}}})).await?;
    let second = eventually("another certificate", PATIENCE, || async {
        let now = stage.fingerprint().await?;
        ensure!(now != first, "it is the first one still");
        Ok::<_, anyhow::Error>(now)
    })
    .await?;
    stage.mount(folder.path()).await?;
    drop(stage.gate.passed());
    stage.gate.disconnect();
    eventually("the sidecar's next connection", PATIENCE, || remembers(&client, "so is the second")).await?;
    eventually("the second certificate", PATIENCE, || async {
        let passed = stage.gate.passed();
        ensure!(passed.last() == Some(&Some(second.clone())), "{passed:?}, and not {second}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    remembers(&client, "one process has shown both").await?;
    wait_within(PATIENCE, &stage.namespace, NAME, "StoreReady", |said| said.status == "True").await?;
    let key = stage.file(names::PRIVATE_KEY_FILE).await?;
    let secret = key.lines().nth(1).context("a key")?;
    ensure!(!sidecar.log()?.contains(secret), "a key is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_secret_is_deleted_signs_on_beside_its_successor() -> Result<()> {
    let stage = Stage::set("deleted-ca", json!({})).await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    let before = stage.file(names::CA_FILE).await?;
    stage.gate.ask_for(&before, Strangers::Refused)?;
    wait_for(&stage.namespace, NAME, "StoreReady", "True", None).await?;
    let first = stage.fingerprint().await?;
    let folder = TempDir::new()?;
    stage.mount(folder.path()).await?;
    let sidecar = Sidecar::start(folder.path(), &stage.store().await?).await?;
    let client = sidecar.client()?;
    remembers(&client, "the CA is there").await?;
    let refused = stage.gate.refused();

    let secrets = Api::<Secret>::namespaced(cluster::client().await?, HOME);
    secrets.delete(CA, &DeleteParams::default()).await?;
    let end = "-----END CERTIFICATE-----";
    let after = eventually("the CA with a successor", PATIENCE, || async {
        ensure!(secrets.get_opt(CA).await?.is_some(), "its Secret is not there");
        let after = stage.file(names::CA_FILE).await?;
        ensure!(after.matches(end).count() > 1, "there is one CA alone: {after}");
        Ok::<_, anyhow::Error>(after)
    })
    .await?;
    for authority in before.split_inclusive(end).map(str::trim).filter(|pem| !pem.is_empty()) {
        ensure!(after.contains(authority), "{authority} is trusted no more: {after}");
    }
    ensure!(stage.fingerprint().await? == first, "another certificate was made");

    // A server that knows nothing of a successor yet lets them in as before.
    stage.mount(folder.path()).await?;
    drop(stage.gate.passed());
    stage.gate.disconnect();
    eventually("the sidecar's next connection", PATIENCE, || remembers(&client, "another connection was made")).await?;
    wait_within(PATIENCE, &stage.namespace, NAME, "StoreReady", |said| said.status == "True").await?;
    let passed = stage.gate.passed();
    ensure!(!passed.is_empty() && passed.iter().all(|shown| *shown == Some(first.clone())), "{passed:?}");
    ensure!(stage.gate.refused() == refused, "{} were turned away", stage.gate.refused() - refused);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_welcomes_certificates_of_its_own_ca_is_shown_none() -> Result<()> {
    let stage = Stage::set("welcoming", json!({})).await?;
    stage.gate.ask_for(&Authority::new("Others")?.pem, Strangers::LetIn)?;
    wait_for(&stage.namespace, NAME, "StoreReady", "True", None).await?;
    let passed = stage.gate.passed();
    ensure!(!passed.is_empty() && passed.iter().all(Option::is_none), "{passed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_certificate_is_verified_and_a_bad_one_never_takes_the_place_of_a_good_one() -> Result<()> {
    let stage = Stage::set("given", json!({"issuer": "Existing", "secretRef": {"name": "mine"}})).await?;
    let missing = wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("SecretNotFound")).await?;
    let said = serde_json::to_string(&missing.status)?;
    ensure!(said.contains("create it with tls.crt, tls.key and ca.crt"), "{said}");

    let (first, second) = (Authority::new("First")?, Authority::new("Second")?);
    let good = first.given()?;
    stage.namespace.make::<Secret>(&json!({"metadata": {"name": "mine"}, "stringData": good})).await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    for (file, content) in good.as_object().context("files")? {
        ensure!(stage.file(file).await? == content.as_str().context("a text")?, "{file} is another one");
    }
    stage.gate.ask_for(&first.pem, Strangers::Refused)?;
    wait_for(&stage.namespace, NAME, "Ready", "True", None).await?;
    let before = stage.fingerprint().await?;
    let passed = stage.gate.passed();
    ensure!(passed.contains(&Some(before.clone())), "the operator shows it: {passed:?}");

    let folder = TempDir::new()?;
    stage.mount(folder.path()).await?;
    let sidecar = Sidecar::start(folder.path(), &stage.store().await?).await?;
    let client = sidecar.client()?;
    remembers(&client, "the given certificate is good").await?;

    let write = async |data: &Value| {
        let (secrets, patch) = (stage.namespace.api::<Secret>(), Patch::Merge(json!({"stringData": data})));
        secrets.patch("mine", &PatchParams::default(), &patch).await.map(drop)
    };
    // Half of a new pair, and one that servers show: neither can be used.
    let other = first.given()?;
    write(&json!({"tls.key": other["tls.key"]})).await?;
    let bad = wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("CertificateInvalid")).await?;
    let said = serde_json::to_string(&bad.status)?;
    ensure!(
        said.contains("do not belong together") && said.contains("the last good one stays in force, until"),
        "{said}"
    );
    ensure!(stage.file(names::PRIVATE_KEY_FILE).await? == good["tls.key"].as_str().context("a key")?);
    ensure!(stage.fingerprint().await? == before, "the status tells of the one in force");
    let (server, key) =
        first.sign("localhost", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])?;
    write(&json!({"tls.crt": server, "tls.key": key})).await?;
    let for_servers = |said: &Condition| said.message.contains("extended key usage clientAuth");
    wait_within(PATIENCE, &stage.namespace, NAME, "TLSReady", for_servers).await?;
    remembers(&client, "what is in force stays so").await?;

    // Another CA: the server takes both, and the sidecar shows the new one without a restart.
    stage.gate.ask_for(&format!("{}{}", first.pem, second.pem), Strangers::Refused)?;
    write(&second.given()?).await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    let after = stage.fingerprint().await?;
    ensure!(after != before);
    stage.mount(folder.path()).await?;
    stage.gate.ask_for(&second.pem, Strangers::Refused)?;
    eventually("the next connection", PATIENCE, || remembers(&client, "so is that of another CA")).await?;
    eventually("the new certificate", PATIENCE, || async {
        ensure!(stage.gate.passed().contains(&Some(after.clone())));
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    wait_for(&stage.namespace, NAME, "Ready", "True", None).await?;

    let metrics = stage.operator.metrics().await?;
    let of = |metric: &str| {
        let labels = format!("resource_namespace=\"{}\"", stage.namespace.name);
        metrics.lines().any(|line| line.starts_with(metric) && line.contains(&labels))
    };
    ensure!(of("context_manager_client_certificate_replacement_timestamp_seconds"), "{metrics}");
    ensure!(!of("context_manager_client_certificate_renewal_timestamp_seconds"), "nobody renews it: {metrics}");

    // The operator's own CA takes over when it is asked to.
    stage.change(json!({"spec": {"tls": {"issuer": null, "secretRef": null}}})).await?;
    eventually("the operator's own certificate", PATIENCE, || async {
        ensure!(stage.fingerprint().await? != after && stage.file(names::CA_FILE).await? != second.pem);
        Ok::<_, anyhow::Error>(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_manager_makes_the_certificate_and_what_cannot_be_used_is_never_copied() -> Result<()> {
    let client = cluster::client().await?;
    let stage = Stage::set("issued", json!({"issuer": "CertManager", "issuerRef": {"name": "agents"}})).await?;
    let missing = wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("CertManagerMissing")).await?;
    ensure!(serde_json::to_string(&missing.status)?.contains("install cert-manager"), "{:?}", missing.status);

    let _definitions = Definitions::install(&client).await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("CertificateIssuing")).await?;
    let manager = CertManager::start()?;
    let key = json!({"algorithm": "ECDSA", "size": 256});
    let root = json!({
        "isCA": true, "commonName": "Agents", "secretName": "agents-ca", "privateKey": key, "issuerRef": {"name": "own"},
    });
    cert_manager::make(&client, &stage.namespace, "Issuer", "own", json!({"selfSigned": {}})).await?;
    cert_manager::make(&client, &stage.namespace, "Certificate", "agents-ca", root).await?;
    cert_manager::make(&client, &stage.namespace, "Issuer", "agents", json!({"ca": {"secretName": "agents-ca"}}))
        .await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    let first = stage.fingerprint().await?;
    stage.gate.ask_for(&stage.file(names::CA_FILE).await?, Strangers::Refused)?;
    wait_for(&stage.namespace, NAME, "Ready", "True", None).await?;
    let passed = stage.gate.passed();
    ensure!(passed.contains(&Some(first.clone())), "the operator shows it: {passed:?}");

    // While cert-manager is away somebody spoils what it made.
    drop(manager);
    let secrets = stage.namespace.api::<Secret>();
    let spoil = Patch::Merge(json!({"stringData": {"tls.key": "no key"}}));
    secrets.patch(&names::issued_secret(NAME), &PatchParams::default(), &spoil).await?;
    let bad = wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("CertificateInvalid")).await?;
    let said = serde_json::to_string(&bad.status)?;
    ensure!(
        said.contains("tls.key is not a private key") && said.contains("the last good one stays in force"),
        "{said}"
    );
    ensure!(stage.fingerprint().await? == first && stage.file(names::PRIVATE_KEY_FILE).await?.contains("PRIVATE KEY"));
    drop(stage.gate.passed());

    // It comes back, and makes another one.
    let _manager = CertManager::start()?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    let second = stage.fingerprint().await?;
    ensure!(second != first, "it is the first one");
    eventually("the second certificate", PATIENCE, || async {
        ensure!(stage.gate.passed().contains(&Some(second.clone())));
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    // An issuer that nobody has made cannot take the certificate away.
    stage.change(json!({"spec": {"tls": {"issuerRef": {"name": "nobody"}}}})).await?;
    let waiting = wait_for(&stage.namespace, NAME, "TLSReady", "False", Some("CertificateIssuing")).await?;
    let said = serde_json::to_string(&waiting.status)?;
    ensure!(said.contains("the last good one stays in force"), "{said}");
    ensure!(stage.fingerprint().await? == second);
    stage.change(json!({"spec": {"tls": {"issuerRef": {"name": "agents"}}}})).await?;
    wait_for(&stage.namespace, NAME, "Ready", "True", None).await?;

    // With another issuer nobody is asked for it any more, and what somebody else asks for is not touched.
    let certificates = cert_manager::certificates(&client, &stage.namespace);
    let theirs = json!({"secretName": "theirs", "commonName": "theirs", "issuerRef": {"name": "agents"}});
    cert_manager::make(&client, &stage.namespace, "Certificate", &names::tls_secret("other"), theirs).await?;
    stage.namespace.make_resource("other", json!({})).await?;
    ensure!(certificates.get_opt(&names::tls_secret(NAME)).await?.is_some());
    stage.change(json!({"spec": {"tls": null}})).await?;
    eventually("the end of the Certificate", PATIENCE, || async {
        ensure!(certificates.get_opt(&names::tls_secret(NAME)).await?.is_none(), "it is still there");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    wait_for(&stage.namespace, NAME, "TLSReady", "True", Some("Provisioned")).await?;
    ensure!(stage.fingerprint().await? != second, "the operator's own certificate takes its place");
    wait_for(&stage.namespace, "other", "Ready", "True", None).await?;
    ensure!(certificates.get_opt(&names::tls_secret("other")).await?.is_some(), "it was somebody else's");
    // It may come back.
    stage.change(json!({"spec": {"tls": {"issuer": "CertManager", "issuerRef": {"name": "agents"}}}})).await?;
    eventually("another Certificate", PATIENCE, || async {
        ensure!(certificates.get_opt(&names::tls_secret(NAME)).await?.is_some(), "there is none");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    stage.change(json!({"spec": {"tls": null}})).await?;
    eventually("its end, too", PATIENCE, || async {
        ensure!(certificates.get_opt(&names::tls_secret(NAME)).await?.is_none(), "it is still there");
        Ok::<_, anyhow::Error>(())
    })
    .await
}
