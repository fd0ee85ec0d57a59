//! Real nodes of a managed Qdrant, asked as the operator asks them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::names;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use reqwest::Method;
use serde_json::Value;

use crate::cluster::{self, Namespace};

/// Names the program of a real Qdrant, of which the nodes' image is made.
pub const PROGRAM: &str = "CONTEXT_MANAGER_TEST_QDRANT_PROGRAM";

/// Fails where no program is named: what is not tested must not look tested.
///
/// # Errors
/// In that case.
pub fn required() -> Result<()> {
    if std::env::var_os(PROGRAM).is_none() {
        bail!("{PROGRAM} names no program of a Qdrant server; `cargo xtask test` leaves this test out then");
    }
    Ok(())
}

/// Asks a node of a resource over TLS, with the API key.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn ask(
    namespace: &Namespace,
    (resource, node): (&str, u8),
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value> {
    cluster::install_tls();
    let name = names::qdrant(resource);
    let data = namespace.api::<Secret>().get(&name).await?.data.context("the Secret is empty")?;
    let file = |file: &str| data.get(file).map(|ByteString(bytes)| bytes.clone()).context(file.to_owned());
    let pod = namespace.api::<Pod>().get(&format!("{name}-{node}")).await?;
    let address = pod.status.and_then(|status| status.pod_ip).context("the node has no address")?;
    let host = format!("{name}-{node}.{}.{}.svc", names::qdrant_peers(resource), namespace.name);
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&file(names::CA_FILE)?)?)
        .resolve(&host, SocketAddr::new(address.parse()?, 6333))
        .build()?;
    let mut request = client.request(method, format!("https://{host}:6333{path}"));
    request = request.header("api-key", String::from_utf8(file("api-key")?)?);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let mut answer: Value = answer.json().await?;
    ensure!(status.is_success(), "{path}: {status}: {answer}");
    Ok(answer["result"].take())
}
