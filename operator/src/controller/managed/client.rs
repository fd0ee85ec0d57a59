//! Calls of one node's REST interface. They go to the pod itself and not through the Service, because what is asked is this node's own
//! view; its certificate is for its name. What may change something passes the [`Fence`], as writes to the API server do.

use std::{fmt, io, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::nodes::Node;
use crate::controller::{
    exchange::{BROKEN, exchange},
    fence::Fence,
    store::Credentials,
};

/// Longest time of one call, unless the caller knows better.
const CALL: Duration = Duration::from_secs(5);
/// Largest answer that is read; a collection of a thousand shards on each of 32 nodes is well within.
const LARGEST: usize = 16 << 20;

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
            let Some(tls) = &self.tls else { return converse(stream, request).await };
            let host = ServerName::try_from(name.to_owned()).map_err(|_| away("has a name that is none"))?;
            let stream = tls
                .connect(host, stream)
                .await
                .map_err(|error| if is_distrust(&error) { Silence::Refused } else { away(BROKEN) })?;
            converse(stream, request).await
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
async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Value, Silence>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    exchange(
        stream,
        request,
        || away(BROKEN),
        |answer| async {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST).collect().await;
            read(status, &body.map_err(|_| away("breaks its answer off"))?.to_bytes())
        },
    )
    .await
}

/// The result, without what is around it.
fn read(status: StatusCode, body: &[u8]) -> Result<Value, Silence> {
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Silence::Refused);
    }
    let mut answer: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.is_success() {
        return Ok(answer["result"].take());
    }
    let said = answer["status"]["error"].as_str().unwrap_or("gives no reason");
    let said = format!("answers {}: {said}", status.as_u16());
    Err(if status == StatusCode::NOT_FOUND { Silence::Missing(said) } else { Silence::Away(said) })
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
