//! Calls of one node's REST interface. They go to the pod itself and not through the Service, because what is asked is this node's own
//! view; its certificate is for its name. What may change something passes the [`Fence`], as writes to the API server do.

use std::{fmt, io, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::nodes::Node;
use crate::{
    controller::{
        exchange::{BROKEN, exchange},
        fence::Fence,
        store::Credentials,
    },
    weight::weigh_values,
};

/// Longest time of one call, unless the caller knows better.
const CALL: Duration = Duration::from_secs(5);
/// Largest answer that is read. A node is a pod of the resource's namespace, and whoever has that may let it answer what they like.
const LARGEST: usize = 4 << 20;
/// Most memory that the values of an answer may take: the catalogue of ten thousand files is within.
const HEAVIEST: u64 = 48 << 20;
/// Longest words of a node that are told, in bytes.
const LONGEST_WORDS: usize = 500;

/// What is said of an answer that is not read.
const MUCH: &str = "answers with more than is read";

/// Why a node did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// It has another API key, or another CA: it was started with an older Secret.
    Refused,
    /// It has nothing of the name that it was asked about.
    Missing(String),
    /// It cannot be reached, or does not do what it was asked.
    Away(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => out.write_str("does not take the API key"),
            Self::Missing(what) | Self::Away(what) => out.write_str(what),
        }
    }
}

/// The way to the nodes of a cluster.
pub(super) struct Client {
    tls: Option<TlsConnector>,
    key: SecretString,
    fence: Fence,
}

impl Client {
    /// The way, if key and CA can be used.
    pub(super) fn new(credentials: &Credentials, fence: Fence) -> Option<Self> {
        let key = credentials.key.clone()?;
        let tls = match &credentials.ca {
            Some(pem) => Some(connector(pem)?),
            None => None,
        };
        Some(Self { tls, key, fence })
    }

    /// What a node is asked, with the key by which it may ask another one on the way.
    pub(super) fn with_key(&self, mut body: Value) -> Value {
        body["api_key"] = Value::from(self.key.expose_secret());
        body
    }

    /// Whether nodes speak encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// What a node answers to a question.
    pub(super) async fn get(&self, node: &Node, path: &str) -> Result<Value, Silence> {
        self.call(node, Method::GET, path, None).await
    }

    /// The same where nothing is read but what is asked for. The answer counts as a part of the bytes in `left`.
    pub(super) async fn look<T>(&self, node: &Node, path: &str, left: &mut usize) -> Result<T, Silence>
    where
        T: DeserializeOwned,
    {
        let (status, body) = self.send((CALL, *left), node, Method::GET, path, None).await?;
        *left = left.saturating_sub(body.len());
        read_as(status, &body)
    }

    /// What a node answers; one without an address answers nothing.
    pub(super) async fn call(
        &self,
        node: &Node,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Silence> {
        self.call_within(CALL, node, method, path, body).await
    }

    /// The same for what takes longer.
    pub(super) async fn call_within(
        &self,
        longest: Duration,
        node: &Node,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Silence> {
        let (status, body) = self.send((longest, LARGEST), node, method, path, body).await?;
        read(status, &body)
    }

    /// A node's answer as it is, which comes within a time and has no more than so many bytes.
    async fn send(
        &self,
        (longest, largest): (Duration, usize),
        node: &Node,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), Silence> {
        let is_read = method == Method::GET;
        let address = node.address.ok_or_else(|| away("has no address yet"))?;
        let name = node.host.as_str();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, name)
            .header(header::CONTENT_TYPE, "application/json")
            .header("api-key", self.key.expose_secret())
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))));
        let request = request.map_err(|_| Silence::Away("cannot be asked".to_owned()))?;
        let exchange = Box::pin(async {
            let stream = TcpStream::connect(address).await.map_err(|_| away("cannot be reached"))?;
            let Some(tls) = &self.tls else { return converse(stream, request, largest).await };
            let host = ServerName::try_from(name.to_owned()).map_err(|_| away("has a name that is none"))?;
            let stream = tls
                .connect(host, stream)
                .await
                .map_err(|error| if is_distrust(&error) { Silence::Refused } else { away(BROKEN) })?;
            converse(stream, request, largest).await
        });
        let answered = tokio::time::timeout(longest, exchange);
        let answered = if is_read { Ok(answered.await) } else { self.fence.guard(answered).await };
        let answered = answered.map_err(|closed| Silence::Away(format!("is not asked: {closed}")))?;
        answered.unwrap_or_else(|_| Err(away("does not answer in time")))
    }
}

fn away(what: &str) -> Silence {
    Silence::Away(what.to_owned())
}

/// What a node says over a connection to it.
async fn converse<S>(stream: S, request: Request<Full<Bytes>>, largest: usize) -> Result<(StatusCode, Bytes), Silence>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    exchange(
        stream,
        request,
        || away(BROKEN),
        |answer| async move {
            let status = answer.status();
            match Limited::new(answer.into_body(), largest).collect().await {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(away(MUCH)),
                Err(_) => Err(away("breaks its answer off")),
            }
        },
    )
    .await
}

/// The result, without what is around it; nothing if there is none.
fn read(status: StatusCode, body: &[u8]) -> Result<Value, Silence> {
    accepted(status, body)?;
    if weigh_values(body) > HEAVIEST {
        return Err(away(MUCH));
    }
    let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
    Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
}

/// The same as what it is to be.
fn read_as<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Silence> {
    #[derive(Deserialize)]
    struct Answer<T> {
        result: T,
    }

    accepted(status, body)?;
    let answer = serde_json::from_slice::<Answer<T>>(body);
    // What was found instead may be told at length.
    let told = |error: serde_json::Error| format!("says what is not understood: {}", words(&error.to_string()));
    answer.map(|answer| answer.result).map_err(|error| Silence::Away(told(error)))
}

/// Whether a node does what it was asked; otherwise what it says.
fn accepted(status: StatusCode, body: &[u8]) -> Result<(), Silence> {
    #[derive(Deserialize)]
    struct Refusal {
        status: Reason,
    }
    #[derive(Deserialize)]
    struct Reason {
        error: String,
    }

    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Silence::Refused);
    }
    if status.is_success() {
        return Ok(());
    }
    let said = serde_json::from_slice(body).map(|Refusal { status: Reason { error } }| error);
    let said = said.as_deref().map_or("gives no reason", words);
    let said = format!("answers {}: {said}", status.as_u16());
    Err(if status == StatusCode::NOT_FOUND { Silence::Missing(said) } else { Silence::Away(said) })
}

/// As much of a node's words as is told.
pub(super) fn words(said: &str) -> &str {
    &said[..said.floor_char_boundary(LONGEST_WORDS)]
}

fn connector(pem: &[u8]) -> Option<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    Some(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

fn is_distrust(error: &io::Error) -> bool {
    let carried = error.get_ref().and_then(|carried| carried.downcast_ref::<rustls::Error>());
    matches!(carried, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    /// A node that answers everything but what begins with `DELETE`, and what it was asked for.
    async fn node() -> (Node, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let node = Node { address: listener.local_addr().ok(), host: "node".to_owned(), ..Node::default() };
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let method = text.split(' ').next().unwrap_or_default().to_owned();
                noted.lock().expect("not poisoned").push(method.clone());
                if method == "DELETE" {
                    tokio::spawn(async move {
                        let _open = stream;
                        std::future::pending::<()>().await;
                    });
                    continue;
                }
                let answer = "{\"result\":true}";
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
        });
        (node, asked)
    }

    #[tokio::test]
    async fn without_the_lease_a_node_is_asked_for_nothing_that_changes_something() {
        let (node, asked) = node().await;
        let fence = Fence::until(Instant::now() + Duration::from_mins(1));
        let credentials = Credentials { key: Some("key".into()), ..Credentials::default() };
        let client = Client::new(&credentials, fence.clone()).expect("a key");
        let call = |method| client.call(&node, method, "/collections/c", None);
        for method in [Method::GET, Method::PUT] {
            assert_eq!(call(method).await, Ok(json!(true)));
        }
        // What is under way is given up.
        let closing = async {
            while asked.lock().expect("not poisoned").len() < 3 {
                tokio::task::yield_now().await;
            }
            fence.close();
        };
        let refused = |said| matches!(said, Err(Silence::Away(said)) if said.contains("does not lead any more"));
        assert!(refused(futures::future::join(call(Method::DELETE), closing).await.0));
        for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
            assert!(refused(call(method).await));
        }
        assert_eq!(call(Method::GET).await, Ok(json!(true)), "who does not lead may look");
        assert_eq!(*asked.lock().expect("not poisoned"), ["GET", "PUT", "DELETE", "GET"]);
    }

    #[test]
    fn whatever_a_node_answers_is_read_or_refused() {
        for body in ["[]", "[{\"result\":1}]", "\"result\"", "7", "true", "null", "{}", "{\"result\"", ""] {
            assert_eq!(read(StatusCode::OK, body.as_bytes()), Ok(Value::Null), "{body}");
            assert!(matches!(read_as::<u8>(StatusCode::OK, body.as_bytes()), Err(Silence::Away(_))), "{body}");
            let refused = read(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(refused, Err(Silence::Away("answers 502: gives no reason".to_owned())), "{body}");
        }
        let long = format!("{{\"result\":\"{0}\",\"status\":{{\"error\":\"{0}\"}}}}", "é".repeat(LONGEST_WORDS));
        for said in [read_as::<u8>(StatusCode::OK, long.as_bytes()), read_as(StatusCode::CONFLICT, long.as_bytes())] {
            assert!(said.is_err_and(|said| said.to_string().len() < 2 * LONGEST_WORDS));
        }
    }

    #[test]
    fn an_answer_of_few_bytes_and_many_values_is_not_read() {
        let answer = |many: usize| format!("{{\"result\":[{}0]}}", "{\"\":0},".repeat(many));
        assert!(read(StatusCode::OK, answer(1_000).as_bytes()).is_ok());
        let made_for_it = answer(LARGEST / 10);
        assert!(made_for_it.len() < LARGEST);
        assert_eq!(read(StatusCode::OK, made_for_it.as_bytes()), Err(away(MUCH)));
        let file =
            json!({"shard": 999, "name": "contexts-shard-999-2026-11-27-03-26-40.snapshot", "bytes": 123_456_789});
        let catalogue =
            json!({"result": {"points": [{"id": 1, "payload": {"files": vec![file; 10_000]}}]}}).to_string();
        assert!(catalogue.len() <= LARGEST && read(StatusCode::OK, catalogue.as_bytes()).is_ok());
    }

    #[tokio::test]
    async fn a_look_has_so_many_bytes_in_all() {
        let (node, _) = node().await;
        let credentials = Credentials { key: Some("key".into()), ..Credentials::default() };
        let fence = Fence::until(Instant::now() + Duration::from_mins(1));
        let client = Client::new(&credentials, fence).expect("a key");
        let mut left = 20;
        assert_eq!(client.look::<bool>(&node, "/", &mut left).await, Ok(true));
        assert_eq!(left, 20 - "{\"result\":true}".len());
        assert_eq!(client.look::<bool>(&node, "/", &mut left).await, Err(away(MUCH)));
    }

    #[test]
    fn an_answer_is_a_result_a_reason_or_a_refusal() {
        let good = br#"{"result":{"peer_id":1},"status":"ok","time":0.1}"#;
        assert_eq!(read(StatusCode::OK, good), Ok(json!({"peer_id": 1})));
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            assert_eq!(read(status, b"Must provide an API key"), Err(Silence::Refused));
        }
        let bad = br#"{"status":{"error":"Service internal error: No leader"},"time":0.1}"#;
        let said = read(StatusCode::INTERNAL_SERVER_ERROR, bad);
        assert_eq!(said, Err(Silence::Away("answers 500: Service internal error: No leader".to_owned())));
        let missing = br#"{"status":{"error":"Not found: Collection `x` doesn't exist!"},"time":0.1}"#;
        assert!(matches!(read(StatusCode::NOT_FOUND, missing), Err(Silence::Missing(said)) if said.contains("404")));
    }
}
