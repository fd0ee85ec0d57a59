//! An upgrade from what an earlier version left: its chart and its definition, and what its operator and its webhook had made, as they were
//! on 25 November 2026 (`tests/earlier`). Its programs are not there any more, so pods of that day are not part of this.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::{config::SidecarConfig, names};
use context_manager_tests::{
    cluster::{self, Namespace, kubectl},
    helm::Release,
    operator::{condition, wait_within},
    pods,
};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    Api, Client,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The release of the fixture, whose objects have this name too.
const RELEASE: &str = "context-manager";
const NAME: &str = "memory";
const KEY: &str = "k-20261125090000-1a2b3c";
const DAY: Duration = Duration::from_hours(24);
/// How long the operator may take after it has started.
const SOON: Duration = Duration::from_secs(30);

/// A folder or file of this repository.
fn path(of: &str) -> String {
    format!("{}/{of}", env!("CARGO_MANIFEST_DIR"))
}

/// A certificate with its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// A CA of that day, with the Secret that it stood in.
struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

/// In force since five minutes ago.
fn params(lifetime: Duration) -> CertificateParams {
    let (mut params, now) = (CertificateParams::default(), SystemTime::now());
    params.not_before = (now - Duration::from_mins(5)).into();
    params.not_after = (now + lifetime).into();
    params
}

impl Authority {
    fn new(lifetime: Duration) -> Result<Self> {
        let (mut params, key) = (params(lifetime), KeyPair::generate()?);
        params.distinguished_name.push(DnType::CommonName, "Context Manager CA 1764061200");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pair = Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    /// The client certificate of the sidecars.
    fn issue(&self, namespace: &str) -> Result<Pair> {
        let (mut params, key) = (params(30 * DAY), KeyPair::generate()?);
        let identity = format!("spiffe://contextmanager.dev/ns/{namespace}/contextmanager/{NAME}");
        params.distinguished_name.push(DnType::CommonName, "Context Manager sidecar");
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// What vouches for a pair, and the pair.
    fn files(&self, Pair { certificate, key }: &Pair) -> Value {
        let data = [("ca.crt", &self.pair.certificate), ("tls.crt", certificate), ("tls.key", key)];
        let bytes = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
        data.into_iter().map(|(name, text)| (name.to_owned(), bytes(text))).collect()
    }
}

/// What the operator and the webhook of that day had made.
struct Left {
    spec: Value,
    webhook_authority: String,
    client_authority: String,
    certificate: String,
}

/// Writes an object as one of that day's field managers did.
async fn apply(client: &Client, namespace: Option<&str>, manager: &str, object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    };
    let params = PatchParams::apply(manager).force();
    api.patch(&text(&object["metadata"]["name"]), &params, &Patch::Apply(object)).await?;
    Ok(())
}

impl Left {
    async fn make(client: &Client, home: &Namespace, agents: &Namespace) -> Result<Self> {
        let file = fs::read_to_string(path("earlier/left.yaml"))?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&file)?;
        let [resource, keys, config] = &objects[..] else { anyhow::bail!("the file has a resource and two children") };
        // Not by the type of today, which would leave out what it has not.
        let written = DynamicObject::new(NAME, &cluster::resource_type()).data(json!({"spec": resource["spec"]}));
        let made = agents.resources().create(&PostParams::default(), &written).await?;
        let status = json!({
            "apiVersion": resource["apiVersion"], "kind": resource["kind"], "metadata": {"name": NAME}, "status": resource["status"],
        });
        let params = PatchParams::apply("context-manager-status").force();
        agents.resources().patch_status(NAME, &params, &Patch::Apply(&status)).await?;

        let of_a_day = |object: &Value, name: &str| {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(name);
            object["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "context-manager"});
            object
        };
        let owned = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let mut object = of_a_day(object, name);
            let labels = &mut object["metadata"]["labels"];
            labels["app.kubernetes.io/instance"] = json!(NAME);
            labels["app.kubernetes.io/managed-by"] = json!("context-manager");
            labels["contextmanager.dev/owned-by"] = json!(NAME);
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": resource["apiVersion"], "kind": resource["kind"], "name": NAME, "uid": made.metadata.uid,
                "controller": true,
            }]);
            object
        };
        let [webhook, client_authority] = [Authority::new(DAY * 365)?, Authority::new(DAY * 1_825)?];
        let certificate = client_authority.issue(&agents.name)?;
        let secret = |kind: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "type": kind, "data": data});
        let mut tls = secret("kubernetes.io/tls", client_authority.files(&certificate));
        tls["metadata"]["name"] = json!(names::tls_secret(NAME));
        for (manager, object) in
            [("context-manager-keys", keys), ("context-manager-config", config), ("context-manager-tls", &tls)]
        {
            apply(client, Some(&agents.name), manager, &owned(object)).await?;
        }
        for (name, authority) in
            [("context-manager-webhook-ca", &webhook), ("context-manager-client-ca", &client_authority)]
        {
            let object = of_a_day(&secret("Opaque", authority.files(&authority.pair)), name);
            apply(client, Some(&home.name), "context-manager/pki", &object).await?;
        }
        let bundle = ByteString(webhook.pair.certificate.clone().into_bytes());
        let entry = |name: &str| json!({"name": name, "clientConfig": {"caBundle": bundle}});
        let trust = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": RELEASE},
            "webhooks": [entry("namespaces.contextmanager.dev"), entry("pods.contextmanager.dev")],
        });
        apply(client, None, "context-manager/pki", &trust).await?;
        Ok(Self {
            spec: spec(agents).await?,
            webhook_authority: webhook.pair.certificate,
            client_authority: client_authority.pair.certificate,
            certificate: certificate.certificate,
        })
    }
}

/// The spec as the API server has it.
async fn spec(agents: &Namespace) -> Result<Value> {
    Ok(agents.resources().get(NAME).await?.data["spec"].clone())
}

async fn file<K>(namespace: &Namespace, object: &str, file: &str) -> Result<String>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + std::fmt::Debug,
{
    let found = json!(namespace.api::<K>().get(object).await?);
    let content = found["data"][file].clone();
    let ByteString(bytes) = if K::kind(&()) == "Secret" {
        serde_json::from_value(content)?
    } else {
        ByteString(content.as_str().context("a text")?.as_bytes().to_vec())
    };
    Ok(String::from_utf8(bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_left_goes_on_after_an_upgrade() -> Result<()> {
    let client = cluster::client().await?;
    cluster::remove_definition(&client).await?;
    let outcome = upgrade(&client).await;
    // The definition that stays says of which release it is, and another one would not take it.
    cluster::remove_definition(&client).await?;
    cluster::install_definition(&client).await?;
    outcome
}

async fn upgrade(client: &Client) -> Result<()> {
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let home = Namespace::create(client, "earlier", &enforce).await?;
    let agents = Namespace::create(client, "earlier-agents", &enforce).await?;
    let release = Release::new(RELEASE, &home.name)?;
    release.helm(&["install"], &[path("earlier").as_str()]).await?;
    let left = Left::make(client, &home, &agents).await?;
    let ring = file::<Secret>(&agents, &names::keys_secret(NAME), names::KEYS_FILE).await?;

    let chart = path("../charts/context-manager");
    let small = ["--set", "controller.replicas=1,webhook.replicas=1", "--hide-notes", "--wait", "--timeout", "3m"];
    release.helm(&["upgrade"], &[&[chart.as_str()], &small[..]].concat()).await?;

    // Nothing that a person wrote is lost by the newer definition, and it is understood.
    let resource = wait_within(SOON, &agents, NAME, "Ready", |said| said.status == "True").await?;
    ensure!(spec(&agents).await? == left.spec, "{} became {}", left.spec, spec(&agents).await?);
    let since = condition(&resource, "Ready").map(|ready| ready.last_transition_time.0.to_string());
    ensure!(since.as_deref() == Some("2026-11-25T09:00:01Z"), "it was not ready at a time: {since:?}");
    let newer = json!({"spec": {"sidecar": {"upgrade": {"strategy": "OnRecreate"}}}});
    agents.resources().patch(NAME, &PatchParams::default(), &Patch::Merge(&newer)).await?;
    wait_within(SOON, &agents, NAME, "Ready", |said| said.status == "True").await?;

    // Keys and certificates are those of before; the configuration says what it said, and is valid for the new sidecar.
    let keys = resource.status.and_then(|status| status.keys).context("keys")?;
    ensure!(keys.active == KEY && keys.previous.is_empty(), "{keys:?}");
    let now = file::<Secret>(&agents, &names::keys_secret(NAME), names::KEYS_FILE).await?;
    ensure!(now == ring, "the key ring was written anew");
    let pair = names::tls_secret(NAME);
    let certificate = file::<Secret>(&agents, &pair, names::CERTIFICATE_FILE).await?;
    ensure!(certificate == left.certificate, "the client certificate was made anew");
    let authorities = file::<Secret>(&agents, &pair, names::CA_FILE).await?;
    ensure!(authorities.contains(left.client_authority.trim()), "its CA is another one");
    let config =
        SidecarConfig::from_toml(&file::<ConfigMap>(&agents, &names::config_map(NAME), names::CONFIG_FILE).await?)?;
    let ports = (config.protocol.port, config.admin.port);
    ensure!(ports == (8001, 8002) && config.retrieval.default_token_budget == 500, "{config:?}");
    let trust = Api::<MutatingWebhookConfiguration>::all(client.clone()).get(RELEASE).await?;
    for entry in trust.webhooks.into_iter().flatten() {
        let ByteString(bundle) = entry.client_config.ca_bundle.unwrap_or_default();
        let trusted = String::from_utf8(bundle)?;
        ensure!(trusted.trim() == left.webhook_authority.trim(), "{} trusts {trusted}", entry.name);
    }

    // Pods get a sidecar that works with all of that.
    pods::make_document(&agents).await?;
    pods::start(&agents, "agent").await?;
    let kept: usize = pods::stats(&agents, "agent").await?.contexts.values().sum();
    ensure!(kept == 3, "the agent remembers {kept} contexts");

    // Of the earlier release nothing is left that the newer one has not.
    let mine = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/version=0.0.1");
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,deployments,services,serviceaccounts,\
                 roles,rolebindings,poddisruptionbudgets,pods";
    let old = kubectl(&["get", kinds, "-n", &home.name, "-l", &mine, "-o", "name"]).await?;
    ensure!(old.is_empty(), "these are left: {old}");
    Ok(())
}
