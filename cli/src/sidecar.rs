//! The sidecar of a running pod, asked by the protocol that its agent speaks.
//!
//! It listens on the pod's loopback alone, so the API server forwards a port; and it answers signed requests alone, so the key ring of the
//! resource is read. Both take rights: whoever has them could read the memory anyhow.

use std::{fmt::Display, time::Duration};

use context_manager_operator::pods;
use context_manager_protocol::{
    codec::Format,
    keyring::{Key, KeyRing},
    names,
    problem::Problem,
    signature,
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use crate::{
    cluster::{Cluster, call},
    error::Error,
};

/// Longest wait for an answer, and for each part of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// A sidecar that can be asked.
pub(crate) struct Sidecar<'a> {
    cluster: &'a Cluster,
    pod: Pod,
    /// The pod's name.
    pub(crate) name: String,
}

/// A request before it is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) query: Option<&'a str>,
    pub(crate) content_type: &'static str,
    pub(crate) body: &'a [u8],
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It broke off or did not come; the same request may be sent again.
    Broken(Error),
    /// The sidecar refuses, with this status.
    Refused(u16, Error),
    /// It cannot be asked at all.
    Impossible(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken(error) | Failure::Refused(_, error) | Failure::Impossible(error) => error,
        }
    }
}

/// A good answer that is on its way.
pub(crate) struct Answer {
    exchanged: Exchanged,
    forwarder: kube::api::Portforwarder,
    failed: String,
}

impl<'a> Sidecar<'a> {
    /// That of the pod that is named, or of the first one whose sidecar can be asked.
    ///
    /// # Errors
    /// When there is no such pod, or its sidecar has no port.
    pub(crate) async fn find(cluster: &'a Cluster, named: Option<&str>) -> Result<Self, Error> {
        let pod = choose(cluster, named).await?;
        let name = pod.name_any();
        if pods::is_closed(&pod) {
            return Err(Error::Refused(format!(
                "the sidecar of pod {name:?} listens on no port, because the pod uses the node's network; name another pod by --pod"
            )));
        }
        Ok(Self { cluster, pod, name })
    }

    /// Sends a request. The key ring is read for each, so that a key that is rotated meanwhile does no harm.
    ///
    /// # Errors
    /// When there is no good answer.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let Self { cluster, pod, name } = self;
        let key = key(cluster, pod).await.map_err(Failure::Impossible)?;
        let port = protocol_port(pod);
        let failed = format!(
            "the sidecar of pod {name:?} did not answer on its loopback port {port}; look at `kubectl -n {} logs {name} -c {}`",
            cluster.namespace,
            names::CONTAINER
        );
        let wanted = [port];
        let api = cluster.of::<Pod>(&cluster.namespace);
        let action = format!("forward the protocol's port of the pod {name:?}");
        let forwarding = call(&action, "create pods/portforward", api.portforward(name, &wanted)).await;
        let mut forwarder = forwarding.map_err(|error| {
            let passes = matches!(error, Error::Unreachable { .. });
            if passes { Failure::Broken(error) } else { Failure::Impossible(error) }
        })?;
        let stream = forwarder.take_stream(port).ok_or_else(|| broken(&failed, "no stream"))?;
        let exchange = tokio::time::timeout(PATIENCE, exchange(stream, port, &key, request)).await;
        let exchanged =
            exchange.map_err(|_| broken(&failed, "no answer in time"))?.map_err(|what| broken(&failed, what))?;
        let status = exchanged.status;
        let answer = Answer { exchanged, forwarder, failed };
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.whole().await?;
        Err(Failure::Refused(status.as_u16(), refusal(status.as_u16(), &body)))
    }

    /// Sends a request, and waits for its whole answer.
    ///
    /// # Errors
    /// When there is none, or it cannot be understood.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, Failure> {
        let answer = self.send(request).await?;
        let failed = answer.failed.clone();
        let body = answer.whole().await?;
        let unreadable = |error| Error::Refused(format!("{failed}: its answer cannot be read: {error}"));
        Format::Json.decode(&body).map_err(|error| Failure::Impossible(unreadable(error)))
    }
}

impl Answer {
    /// The next part of the body; `None` is its end.
    ///
    /// # Errors
    /// When it broke off, or does not come.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.exchanged.body.frame()).await;
            match frame.map_err(|_| broken(&self.failed, "nothing more in time"))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&self.failed, error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn whole(mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(part) = self.part().await? {
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchanged.connection.abort();
        self.forwarder.abort();
    }
}

fn broken(failed: &str, what: impl Display) -> Failure {
    Failure::Broken(Error::Refused(format!("{failed}: {what}")))
}

/// Whether a pod's sidecar would answer.
fn can_be_asked(pod: &Pod) -> bool {
    pods::sidecar_status(pod).is_some_and(|sidecar| sidecar.ready) && !pods::is_closed(pod)
}

/// The pod that was named, or the first one whose sidecar can be asked.
async fn choose(cluster: &Cluster, named: Option<&str>) -> Result<Pod, Error> {
    let api = cluster.of::<Pod>(&cluster.namespace);
    let Some(named) = named else {
        let action = format!("list the pods of namespace {:?}", cluster.namespace);
        let all = call(&action, "list pods", api.list(&ListParams::default().labels(names::INJECTED))).await?;
        return all.items.into_iter().find(can_be_asked).ok_or_else(|| Error::Missing {
            what: format!("a pod with a ready sidecar that listens on a port in namespace {:?}", cluster.namespace),
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

/// The head of an answer, and the connection on which its body comes.
struct Exchanged {
    status: http::StatusCode,
    body: Incoming,
    connection: JoinHandle<hyper::Result<()>>,
    /// Without it the connection would take nobody to be interested in it.
    _sender: SendRequest<Full<Bytes>>,
}

/// One signed request over a forwarded port.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    port: u16,
    key: &Key,
    Request { method, path, query, content_type, body }: Request<'_>,
) -> Result<Exchanged, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let signed = signature::Request { method, path, query, body };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let headers = signature::sign(key, &signed, Timestamp::now().as_second(), &nonce);
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut request = http::Request::builder()
        .method(method)
        .uri(target)
        .header("host", format!("127.0.0.1:{port}"))
        .header("content-type", content_type)
        .header("accept", Format::Json.media_type())
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers.to_header_map());
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(Exchanged { status: answer.status(), body: answer.into_body(), connection, _sender: sender })
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

    const PATH: &str = "/v1/contexts/search";

    fn request(body: &[u8]) -> Request<'_> {
        Request { method: "POST", path: PATH, query: None, content_type: Format::Json.media_type(), body }
    }

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

    #[test]
    fn a_sidecar_can_be_asked_that_is_ready_and_listens_on_a_port() {
        let pod = |env: serde_json::Value, ready: bool| -> Pod {
            serde_json::from_value(json!({
                "spec": {"containers": [], "initContainers": [{"name": "context-manager", "env": env}]},
                "status": {"initContainerStatuses": [
                    {"name": "context-manager", "ready": ready, "restartCount": 0, "image": "sidecar:1", "imageID": ""}]},
            }))
            .unwrap()
        };
        let closed = json!([{"name": names::ENV_SOCKET_ONLY, "value": "true"}]);
        assert!(can_be_asked(&pod(json!([]), true)));
        assert!(!can_be_asked(&pod(json!([]), false)));
        assert!(!can_be_asked(&pod(closed, true)));
    }

    #[tokio::test]
    async fn a_request_over_a_stream_is_signed_as_a_sidecar_verifies_it() {
        let key = Key::new("k1", vec![7; 32]).unwrap();
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let asking = tokio::spawn({
            let key = key.clone();
            async move {
                let exchanged = exchange(ours, 7419, &key, request(b"{\"query\":\"boat\"}")).await?;
                let body = exchanged.body.collect().await.map_err(|error| error.to_string())?.to_bytes();
                Ok::<_, String>((exchanged.status, body))
            }
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
        let request = signature::Request { method: "POST", path: PATH, query: None, body: body.as_bytes() };
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
