//! `query`: searches the memory of a running pod, by the protocol that its agent speaks.
//!
//! The sidecar listens on the pod's loopback alone, so the API server forwards a port; and it answers signed requests alone, so the key ring
//! of the resource is read. Both take rights: whoever has them could read the memory anyhow.

mod answer;

use std::time::Duration;

use context_manager_operator::pods;
use context_manager_protocol::{
    codec::Format,
    keyring::{Key, KeyRing},
    message::{ContextRequest, ContextResponse, Filter, Scope},
    names,
    problem::Problem,
    signature::{self, Request},
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{ResourceExt as _, api::ListParams};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    answer::{Answer, Exit, Output},
    cluster::{Cluster, call},
    error::Error,
};

const PATH: &str = "/v1/contexts/search";
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `query`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to look for, in natural language
    query: String,
    /// The pod whose sidecar is asked, as NAME or pod/NAME; any ready one with a sidecar when absent
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Most tokens of the answer; the configured default when absent
    #[arg(long, value_name = "TOKENS")]
    token_budget: Option<i64>,
    /// Most contexts of the answer
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    limit: i64,
    /// Only contexts of this session
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Search this shared space instead of the agent's own memory, if its access rules permit
    #[arg(long, value_name = "NAME")]
    space: Option<String>,
    /// Show the parts of each score
    #[arg(long)]
    explain: bool,
}

/// Searches.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let pod = choose(cluster, args.pod.as_deref()).await?;
    let name = pod.name_any();
    if pods::is_closed(&pod) {
        return Err(Error::Refused(format!(
            "the sidecar of pod {name:?} listens on no port, because the pod uses the node's network; name another pod by --pod"
        )));
    }
    let key = key(cluster, &pod).await?;
    let port = protocol_port(&pod);
    let message = Format::Json.encode(&request(args));
    let wanted = [port];
    let api = cluster.of::<Pod>(&cluster.namespace);
    let action = format!("forward the protocol's port of the pod {name:?}");
    let mut forwarder = call(&action, "create pods/portforward", api.portforward(&name, &wanted)).await?;
    let failed = |what: String| {
        Error::Refused(format!(
            "the sidecar of pod {name:?} did not answer on its loopback port {port}: {what}; look at `kubectl -n {} logs {name} -c {}`",
            cluster.namespace,
            names::CONTAINER
        ))
    };
    let stream = forwarder.take_stream(port).ok_or_else(|| failed("no stream".to_owned()))?;
    let exchange = tokio::time::timeout(PATIENCE, exchange(stream, port, &key, message)).await;
    forwarder.abort();
    let (status, body) = exchange.map_err(|_| failed("no answer in time".to_owned()))?.map_err(failed)?;
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &body));
    }
    let found: ContextResponse =
        Format::Json.decode(&body).map_err(|error| failed(format!("its answer cannot be read: {error}")))?;
    let text = output.write(&found, |found| answer::page(found, &name))?;
    Ok(Answer::new(text, Exit::Fine))
}

fn request(args: &Args) -> ContextRequest {
    let Args { query, pod: _, token_budget, limit, session, space, explain } = args;
    ContextRequest {
        query: query.clone(),
        token_budget: *token_budget,
        limit: Some(*limit),
        levels: None,
        session: session.clone(),
        filter: Filter::default(),
        min_score: None,
        as_of: None,
        scope: space.clone().map(|space| Scope { space: Some(space), ..Scope::default() }),
        scopes: Vec::new(),
        explain: *explain,
    }
}

/// The pod that was named, or the first one whose sidecar is ready.
async fn choose(cluster: &Cluster, named: Option<&str>) -> Result<Pod, Error> {
    let api = cluster.of::<Pod>(&cluster.namespace);
    let Some(named) = named else {
        let action = format!("list the pods of namespace {:?}", cluster.namespace);
        let all = call(&action, "list pods", api.list(&ListParams::default().labels(names::INJECTED))).await?;
        let is_ready = |pod: &Pod| pods::sidecar_status(pod).is_some_and(|sidecar| sidecar.ready);
        return all.items.into_iter().find(is_ready).ok_or_else(|| Error::Missing {
            what: format!("a pod with a ready sidecar in namespace {:?}", cluster.namespace),
            remedy: "look at `kubectl context status`, or name another namespace by -n".to_owned(),
        });
    };
    let name = named.strip_prefix("pod/").unwrap_or(named);
    let found = call(&format!("read the pod {name:?}"), "get pods", api.get_opt(name)).await?;
    let found = found.ok_or_else(|| Error::Missing {
        what: format!("the pod {name:?} of namespace {:?}", cluster.namespace),
        remedy: format!("`kubectl get pods -A -l {}` lists those with a sidecar", names::INJECTED),
    })?;
    if !found.labels().contains_key(names::INJECTED) {
        return Err(Error::Refused(format!(
            "the pod {name:?} has no sidecar; `kubectl context explain pod/{name} -n {}` says why",
            cluster.namespace
        )));
    }
    Ok(found)
}

/// The key that signs for the pod's resource.
async fn key(cluster: &Cluster, pod: &Pod) -> Result<Key, Error> {
    let resource = pod.labels().get(names::INJECTED).cloned().unwrap_or_default();
    let secret = pods::keys_secret(pod).unwrap_or_default();
    let right = format!("get the Secret {secret} of namespace {}", cluster.namespace);
    let found = call(
        "read the key ring that requests are signed with",
        &right,
        cluster.of::<Secret>(&cluster.namespace).get_opt(&secret),
    )
    .await?;
    let ring = found.and_then(|found| found.data?.remove(names::KEYS_FILE));
    let invalid = || {
        Error::Refused(format!(
            "the Secret {secret:?} has no valid key ring; look at `kubectl context status {resource}`"
        ))
    };
    let ByteString(json) = ring.ok_or_else(invalid)?;
    // What a parser quotes of a key ring is nothing for a terminal.
    Ok(KeyRing::from_json(&json).map_err(|_| invalid())?.active().clone())
}

/// The port of the sidecar, as injection wrote it.
fn protocol_port(pod: &Pod) -> u16 {
    pods::sidecar_port(pod, names::ENV_PROTOCOL_PORT).unwrap_or(names::DEFAULT_PROTOCOL_PORT)
}

/// One signed request over a forwarded port.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    port: u16,
    key: &Key,
    message: Vec<u8>,
) -> Result<(http::StatusCode, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let signed = Request { method: "POST", path: PATH, query: None, body: &message };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let headers = signature::sign(key, &signed, Timestamp::now().as_second(), &nonce);
    let mut request = http::Request::post(PATH)
        .header("host", format!("127.0.0.1:{port}"))
        .header("content-type", Format::Json.media_type())
        .header("accept", Format::Json.media_type())
        .body(Full::new(Bytes::from(message.clone())))
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers.to_header_map());
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    driver.abort();
    Ok((status, body))
}

fn refusal(status: u16, body: &[u8]) -> Error {
    match Format::Json.decode::<Problem>(body) {
        Ok(problem) => Error::Refused(format!(
            "the sidecar refuses it ({}): {}; docs/errors.md says more",
            problem.code.as_str(),
            problem.detail
        )),
        Err(_) => Error::Refused(format!("the sidecar answers with status {status}")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_protocol::signature::Presented;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn the_port_is_the_one_that_injection_wrote() {
        let pod = |env: serde_json::Value| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [], "initContainers": [{"name": "context-manager", "env": env}]}}),
            )
            .unwrap()
        };
        assert_eq!(protocol_port(&pod(json!([{"name": "CONTEXT_MANAGER_PROTOCOL_PORT", "value": "9000"}]))), 9000);
        assert_eq!(protocol_port(&pod(json!([]))), names::DEFAULT_PROTOCOL_PORT);
    }

    #[tokio::test]
    async fn a_request_over_a_stream_is_signed_as_a_sidecar_verifies_it() {
        let key = Key::new("k1", vec![7; 32]).unwrap();
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let asking = tokio::spawn({
            let key = key.clone();
            async move { exchange(ours, 7419, &key, b"{\"query\":\"boat\"}".to_vec()).await }
        });
        let mut seen = vec![0; 4096];
        let mut length = 0;
        while !seen[..length].ends_with(b"{\"query\":\"boat\"}") {
            length += theirs.read(&mut seen[length..]).await.unwrap();
        }
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        let (status, body) = asking.await.unwrap().unwrap();
        assert_eq!((status.as_u16(), &body[..]), (200, &b"{}"[..]));
        let text = String::from_utf8_lossy(&seen[..length]).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let presented = Presented::from_headers(&headers).unwrap();
        let request = Request { method: "POST", path: PATH, query: None, body: body.as_bytes() };
        presented.verify(&KeyRing::new(key), &request, &headers).unwrap();
    }

    #[test]
    fn a_problem_is_told_with_its_code() {
        let problem = Problem::new(context_manager_protocol::problem::Code::KeyUnknown, "the key is not known");
        let said = refusal(401, &Format::Json.encode(&problem)).to_string();
        assert!(said.contains("key-unknown") && said.contains("the key is not known"), "{said}");
        assert!(refusal(502, b"<html>").to_string().contains("502"));
    }
}
