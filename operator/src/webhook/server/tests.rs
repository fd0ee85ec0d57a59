//! The server over real sockets and real TLS.

use axum::routing::get;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

const NAME: &str = "hook.team.svc";

struct Running {
    address: std::net::SocketAddr,
    certificates: Certificates,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), rustls::Error>>,
}

async fn start(router: Router) -> (Running, String) {
    let times = Times { connection_age: Duration::from_millis(500), drain: Duration::from_secs(5) };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let certificates = Certificates::default();
    let bundle = certificates.serve_new_leaf(NAME);
    let shutdown = CancellationToken::new();
    let served = serve(listener, router, certificates.clone(), times, shutdown.clone());
    (Running { address, certificates, shutdown, server: tokio::spawn(served) }, bundle)
}

async fn connect(
    running: &Running,
    bundle: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(crate::pki::read_bundle(bundle));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(running.address).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, stream).await?)
}

async fn fetch(running: &Running, bundle: &str, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut stream = connect(running, bundle).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no end of the head")?;
    Ok(body.to_owned())
}

#[tokio::test]
async fn a_new_leaf_is_served_to_the_next_connection_without_a_restart() {
    let (running, first) = start(Router::new().route("/", get(async || "hello"))).await;
    assert_eq!(fetch(&running, &first, "/").await.expect("trusted"), "hello");
    let second = running.certificates.serve_new_leaf(NAME);
    assert_eq!(fetch(&running, &second, "/").await.expect("trusted"), "hello");
    assert!(fetch(&running, &first, "/").await.is_err(), "the first CA is not served any more");
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_request_in_flight_gets_its_answer_when_the_server_stops() {
    let started = Arc::new(tokio::sync::Notify::new());
    let signal = Arc::clone(&started);
    let slow = async move || {
        signal.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        "late"
    };
    let (running, bundle) = start(Router::new().route("/", get(slow))).await;
    let stop = async {
        started.notified().await;
        running.shutdown.cancel();
    };
    let (answer, ()) = tokio::join!(fetch(&running, &bundle, "/"), stop);
    assert_eq!(answer.expect("an answer"), "late");
    assert!(TcpStream::connect(running.address).await.is_err(), "nobody else is let in");
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn an_old_connection_ends_although_its_client_would_go_on() {
    let (running, bundle) = start(Router::new().route("/", get(async || "hello"))).await;
    let mut stream = connect(&running, &bundle).await.expect("trusted");
    let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
    let mut all = String::new();
    let talk = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut all).await
    };
    // The end of the connection is the end of the text; the server's other bound, on idle ones, comes much later.
    tokio::time::timeout(HEADER_TIMEOUT / 2, talk).await.expect("it ends").expect("an orderly end");
    assert!(all.ends_with("hello"), "{all}");
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_request_that_crosses_the_end_of_its_connection_is_not_reset() {
    let (running, bundle) = start(Router::new().route("/", get(async || "hello"))).await;
    let mut stream = connect(&running, &bundle).await.expect("trusted");
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("closed in good order");
    assert!(answer.ends_with(b"hello"));
    // A socket that was closed answers the first of these with a reset, and the others fail.
    for _ in 0..3 {
        stream.get_mut().0.write_all(b"what was on its way").await.expect("no reset");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}
