//! The way to a server: trust, keys and deadlines. What a store does is the contract of the sidecar's `stores` suite.

use std::{net::SocketAddr, time::Duration};

use context_manager_qdrant::{Collection, Error, Options, Trust};
use context_manager_test_qdrant::{Server, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;

const DIMENSIONS: usize = 4;

/// A server on a port of this machine, for as long as the test runs.
async fn serve(change: impl FnOnce(Server) -> Server) -> (SocketAddr, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let server = change(Server::open(directory.path().to_owned()).expect("a server"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(server.serve(listener, std::future::pending()));
    (address, directory)
}

fn connect(url: String, trust: Trust) -> Collection {
    let options = Options::new(url, "memory", DIMENSIONS, "model");
    Collection::connect(Options { trust, timeout: Duration::from_secs(10), ..options }).expect("usable options")
}

/// A CA and what it vouches for: a server called `localhost`.
fn authority() -> (String, Tls) {
    let key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&key).expect("a CA").pem();
    let server = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&server, &Issuer::from_params(&ca, &key)).expect("a certificate");
    (pem, Tls { certificate: certificate.pem(), key: server.serialize_pem() })
}

#[tokio::test]
async fn a_certificate_counts_only_if_one_of_the_trusted_vouches_for_it() {
    let (ca, tls) = authority();
    let (address, _directory) = serve(|server| server.with_tls(tls)).await;
    let url = format!("https://localhost:{}", address.port());
    connect(url.clone(), Trust::Bundle(ca.clone().into_bytes())).open().await.expect("vouched for");
    connect(url.clone(), Trust::Anybody).open().await.expect("not looked at");
    let (other, _) = authority();
    for trust in [Trust::Bundle(other.into_bytes()), Trust::WebRoots] {
        let refused = connect(url.clone(), trust.clone()).open().await;
        assert!(matches!(refused, Err(Error::Server { .. })), "{trust:?}: {refused:?}");
    }
    let another_name = format!("https://127.0.0.1:{}", address.port());
    let refused = connect(another_name, Trust::Bundle(ca.into_bytes())).open().await;
    assert!(matches!(refused, Err(Error::Server { .. })), "{refused:?}");
    let plain = connect(format!("http://localhost:{}", address.port()), Trust::WebRoots).open().await;
    assert!(plain.is_err(), "a TLS server does not speak without");
}

#[tokio::test]
async fn the_key_is_changed_while_calls_go_on() {
    let (address, _directory) = serve(|server| server.with_api_key("right".to_owned())).await;
    let collection = connect(format!("http://{address}"), Trust::WebRoots);
    for key in [None, Some("wrong")] {
        collection.set_api_key(key).expect("a key that a header can carry");
        let refused = collection.open().await.expect_err("not let in");
        let message = format!("{refused:?}");
        assert!(message.contains("API key"), "{message}");
        assert!(!message.contains("wrong"), "the key stays out of messages: {message}");
    }
    collection.set_api_key(Some("right")).expect("a key that a header can carry");
    collection.open().await.expect("let in");
    assert!(collection.set_api_key(Some("two\nlines")).is_err());
    assert_eq!(collection.stats().await.expect("the former key stays").points, 0);
}

#[tokio::test]
async fn every_call_ends_by_its_deadline() {
    // It accepts connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let options = Options { timeout: Duration::from_millis(200), ..Options::new(url, "memory", DIMENSIONS, "model") };
    let collection = Collection::connect(options).expect("usable options");
    assert!(matches!(collection.open().await, Err(Error::Deadline { .. })));
    assert!(matches!(collection.stats().await, Err(Error::Deadline { .. })));
}

#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let collection = connect(format!("http://{address}"), Trust::WebRoots);
    assert!(matches!(collection.open().await, Err(Error::Server { .. })));
    let directory = TempDir::new().expect("a directory");
    let server = Server::open(directory.path().to_owned()).expect("a server");
    let listener = TcpListener::bind(address).await.expect("the same port");
    tokio::spawn(server.serve(listener, std::future::pending()));
    collection.open().await.expect("reached without a new channel");
}
