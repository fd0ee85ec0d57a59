//! What is found of a server, and what is said of it.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_qdrant::{Collection, Found, Options};
use context_manager_test_qdrant::{Server, Tls};
use context_manager_tests::operator::{Operator, RESYNC, condition, provision, wait_for};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{ResourceExt as _, api::DeleteParams};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use std::sync::OnceLock;

use crate::server::{KEY, Qdrant, change, change_key, event, make_key, merge, mounted, namespace, with_key};

fn said(resource: &ContextManager, kind: &str) -> Result<String> {
    Ok(condition(resource, kind).with_context(|| kind.to_owned())?.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gets_its_collection_and_sidecars_the_way_to_it() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "qdrant").await?;
    let resource = provision(&namespace, "memory", server.spec(json!({"shards": 2}))).await?;
    ensure!(resource.status.as_ref().and_then(|status| status.store.as_deref()) == Some("Qdrant"));
    let message = said(&resource, "StoreReady")?;
    ensure!(
        message.contains(&format!("ctx_{}_memory", namespace.name)) && message.contains(&server.url()),
        "{message}"
    );
    // The key crosses the network in plain text, and a person is told.
    wait_for(&namespace, "memory", "StoreReady", "True", Some("ConnectedUnencrypted")).await?;
    event(&namespace, "ConnectedUnencrypted").await?;
    ensure!(server.collection(&namespace)?.inspect().await? == Found::Fitting, "the controller makes the collection");
    ensure!(mounted(&namespace, names::QDRANT_API_KEY_FILE).await? == KEY, "the key without its line end");
    let config = namespace.api::<ConfigMap>().get("memory-context-config").await?.data.unwrap_or_default();
    let config = &config[names::CONFIG_FILE];
    ensure!(
        config.contains("api_key_file = \"qdrant-api-key\"") && config.contains("context-manager/journal"),
        "{config}"
    );
    ensure!(!config.contains(KEY) && !json!(resource).to_string().contains(KEY), "the key stands in Secrets alone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_key_is_said_and_a_wrong_one_does_not_replace_a_good_one() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let client = context_manager_tests::cluster::client().await?;
    let namespace = operator.namespace(&client, "key", &[]).await?;
    namespace.make_resource("memory", server.spec(json!({}))).await?;
    let missing = wait_for(&namespace, "memory", "StoreReady", "False", Some("SecretNotFound")).await?;
    let message = said(&missing, "Ready")?;
    ensure!(message.contains("apiKeySecretRef") && message.contains("create it with the key \"api-key\""), "{message}");
    make_key(&namespace, "wrong").await?;
    let wrong = wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreUnauthorized")).await?;
    ensure!(condition(&wrong, "Stalled").is_some_and(|stalled| stalled.status == "True"), "a person must act");
    ensure!(!json!(wrong).to_string().contains("wrong\""), "no key in a message");
    event(&namespace, "StoreUnauthorized").await?;
    change_key(&namespace, KEY).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    event(&namespace, "ConnectedUnencrypted").await?;
    change_key(&namespace, "wrong-again").await?;
    wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreUnauthorized")).await?;
    ensure!(mounted(&namespace, names::QDRANT_API_KEY_FILE).await? == KEY, "sidecars keep the key that works");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_made_for_something_else_is_named_and_left_alone() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "other").await?;
    let other = Collection::connect(Options::new(server.url(), "theirs", 8, "their-model"))?;
    other.set_api_key(Some(KEY))?;
    other.open().await?;
    let mut spec = server.spec(json!({"collection": "theirs"}));
    spec["reclaimPolicy"] = json!("Delete");
    let url = "https://embeddings.example.com/v1/embeddings";
    spec["embedding"] = json!({"provider": "openAI", "url": url, "model": "their-model", "dimensions": 9});
    spec["embedding"]["onModelChange"] = json!("Refuse");
    namespace.make_resource("memory", spec).await?;
    let resource = wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreIncompatible")).await?;
    let message = said(&resource, "StoreReady")?;
    ensure!(message.contains("dimensions 8") && message.contains('9') && message.contains("theirs"), "{message}");
    // Nor does it go with a resource that only named it.
    namespace.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    ensure!(event(&namespace, "DataKept").await?.contains("theirs"));
    ensure!(other.inspect().await? == Found::Fitting);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_asked_rarely_and_found_when_it_comes() -> Result<()> {
    let (operator, mut server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    server.stop().await?;
    let namespace = namespace(&operator, "away").await?;
    namespace.make_resource("memory", server.spec(json!({}))).await?;
    let away = wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreUnreachable")).await?;
    let message = said(&away, "StoreReady")?;
    ensure!(message.contains("NetworkPolicy") && message.contains(&server.url()), "{message}");
    event(&namespace, "StoreUnreachable").await?;
    // Nothing is said again and again, and the controller has time for others.
    tokio::time::sleep(2 * RESYNC).await;
    let before = namespace.api::<ContextManager>().get("memory").await?;
    let reconciles = operator.reconciles().await?;
    tokio::time::sleep(5 * RESYNC).await;
    let after = namespace.api::<ContextManager>().get("memory").await?;
    ensure!(before.resource_version() == after.resource_version(), "the status is written again and again");
    let others = 40;
    ensure!(operator.reconciles().await? - reconciles < others, "a hot loop");
    server.restart().await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    // And once more: what was well is looked at again.
    server.stop().await?;
    wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreUnreachable")).await?;
    server.restart().await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    Ok(())
}

/// A CA, and what a server called `localhost` shows.
fn authority() -> (String, Tls) {
    let key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&key).expect("a CA").pem();
    let server = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&server, &Issuer::from_params(&ca, &key)).expect("a certificate");
    (pem, Tls { certificate: certificate.pem(), key: server.serialize_pem(), client_ca: None })
}

/// The CA of this program's TLS server, and what that shows.
fn known() -> &'static (String, String, String) {
    static KNOWN: OnceLock<(String, String, String)> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let (ca, Tls { certificate, key, .. }) = authority();
        (ca, certificate, key)
    })
}

fn over_tls(server: Server) -> Server {
    let (_, certificate, key) = known();
    with_key(server).with_tls(Tls { certificate: certificate.clone(), key: key.clone(), client_ca: None })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_counts_by_the_ca_of_the_resource() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(over_tls).await?);
    let namespace = namespace(&operator, "tls").await?;
    let mut spec = server.spec(json!({"tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}}));
    spec["vectorStore"]["qdrant"]["url"] = json!(format!("https://localhost:{}", server.port()));
    namespace.make_resource("memory", spec).await?;
    wait_for(&namespace, "memory", "StoreReady", "False", Some("ConfigMapNotFound")).await?;
    let (another, _) = authority();
    let _: ConfigMap = namespace.make(&json!({"metadata": {"name": "ca"}, "data": {"ca.crt": another}})).await?;
    let wrong = wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreNotTrusted")).await?;
    let remedy =
        "is not signed by the CA of spec.vectorStore.qdrant.tls; give the certificate of the CA that signed it";
    ensure!(said(&wrong, "StoreReady")?.contains(remedy), "{}", said(&wrong, "StoreReady")?);
    merge::<ConfigMap>(&namespace, "ca", json!({"data": {"ca.crt": known().0}})).await?;
    wait_for(&namespace, "memory", "StoreReady", "True", Some("Connected")).await?;
    event(&namespace, "StoreConnected").await?;
    ensure!(mounted(&namespace, names::QDRANT_CA_FILE).await? == known().0);
    merge::<ConfigMap>(&namespace, "ca", json!({"data": {"ca.crt": "no certificate"}})).await?;
    wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreNotTrusted")).await?;
    ensure!(mounted(&namespace, names::QDRANT_CA_FILE).await? == known().0, "sidecars keep the CA that works");
    change(
        &namespace,
        json!({"spec": {"vectorStore": {"qdrant": {"tls": {"caConfigMapRef": null, "verify": false}}}}}),
    )
    .await?;
    wait_for(&namespace, "memory", "StoreReady", "True", Some("ConnectedUnverified")).await?;
    ensure!(event(&namespace, "ConnectedUnverified").await?.contains("verify is false"));
    ensure!(mounted(&namespace, names::QDRANT_CA_FILE).await.is_err(), "a CA that is not asked for is gone");
    Ok(())
}
