//! The server over real sockets and real TLS.

use std::net::Ipv4Addr;

use axum::routing::get;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;

use super::*;

const NAME: &str = "hook.team.svc";
/// Age of a connection where it is to end soon.
const SHORT: Duration = Duration::from_millis(500);
/// And where it is not.
const LONG: Duration = Duration::from_mins(5);

struct Running {
    address: std::net::SocketAddr,
    certificates: Certificates,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), Error>>,
}

async fn start(router: Router) -> (Running, String) {
    start_with(router, SHORT, None).await
}

async fn start_with(router: Router, connection_age: Duration, callers: Option<Callers>) -> (Running, String) {
    let times = Times { connection_age, drain: Duration::from_secs(5) };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let certificates = Certificates::default();
    let bundle = certificates.serve_new_leaf(NAME);
    let shutdown = CancellationToken::new();
    let served = serve(listener, router, certificates.clone(), times, callers, shutdown.clone());
    (Running { address, certificates, shutdown, server: tokio::spawn(served) }, bundle)
}

async fn connect(
    running: &Running,
    bundle: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Box<dyn std::error::Error>> {
    connect_as(running, bundle, Ipv4Addr::LOCALHOST, None).await
}

/// A connection from an address of this machine, which shows a certificate.
async fn connect_as(
    running: &Running,
    bundle: &str,
    from: Ipv4Addr,
    shown: Option<&(String, PrivateKeyDer<'static>)>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Box<dyn std::error::Error>> {
    connect_with(running, client(bundle, shown)?, from).await
}

fn client(
    bundle: &str,
    shown: Option<&(String, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(crate::pki::read_bundle(bundle));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match shown {
        Some((certificate, key)) => {
            config.with_client_auth_cert(crate::pki::read_bundle(certificate), key.clone_key())?
        }
        None => config.with_no_client_auth(),
    })
}

async fn connect_with(
    running: &Running,
    config: ClientConfig,
    from: Ipv4Addr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Box<dyn std::error::Error>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(running.address).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, stream).await?)
}

async fn fetch(running: &Running, bundle: &str, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    fetch_by(connect(running, bundle).await?, path).await
}

async fn fetch_by(
    mut stream: tokio_rustls::client::TlsStream<TcpStream>,
    path: &str,
) -> Result<String, Box<dyn std::error::Error>> {
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

/// One answer of a connection that stays: its head and its body.
async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_last(answer: &str) -> bool {
    answer.contains("connection: close")
}

/// Reads to the end of the connection, in good order.
async fn ends(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, within: Duration) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(within, stream.read_to_end(&mut rest)).await;
    assert_eq!(read.expect("it ends").expect("an orderly end"), 0, "{rest:?}");
}

#[tokio::test]
async fn the_next_answer_of_an_old_connection_is_its_last_and_it_ends_by_no_other_way() {
    let (running, bundle) = start(Router::new().route("/", get(async || "hello"))).await;
    let mut stream = connect(&running, &bundle).await.expect("trusted");
    assert!(!is_last(&ask(&mut stream).await.expect("an answer")));
    // Whatever happens in between, a request at any time is answered.
    tokio::time::sleep(3 * SHORT).await;
    assert!(is_last(&ask(&mut stream).await.expect("an answer")));
    ends(&mut stream, SHORT).await;
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_server_that_ends_answers_each_client_once_more() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&running, &bundle).await.expect("trusted");
        assert!(!is_last(&ask(&mut stream).await.expect("an answer")));
        streams.push(stream);
    }
    running.shutdown.cancel();
    for stream in &mut streams {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_last(&ask(stream).await.expect("an answer")));
        ends(stream, SHORT).await;
    }
    running.server.await.expect("no panic").expect("an orderly end");
}

/// API servers open connections that they do not need yet.
#[tokio::test]
async fn a_connection_without_a_request_is_closed_so_that_its_client_sees_it() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut unused = connect(&running, &bundle).await.expect("trusted");
    let mut asked = connect(&running, &bundle).await.expect("trusted");
    running.shutdown.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_last(&ask(&mut asked).await.expect("the first request is answered, late as it is")));
    let since = Instant::now();
    ends(&mut unused, Duration::from_secs(10)).await;
    assert!(since.elapsed() < Duration::from_secs(5), "it ends with the farewell, and not when nobody reads any more");
    drop(unused);
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut stream = connect(&running, &bundle).await.expect("trusted");
    let (lasts, order) = (Duration::from_secs(3), CancellationToken::new());
    let not_after = Timestamp::now() + lasts;
    let end = ending::End::new(LONG, not_after, order.clone(), order.clone());
    assert!(tokio::time::timeout(lasts / 2, end.is_near()).await.is_err(), "it has most of its time");
    end.is_near().await;
    assert!(Timestamp::now() < not_after, "there is time for one more request");
    end.is_here().await;
    assert!(Timestamp::now() >= not_after);
    assert!(!is_last(&ask(&mut stream).await.expect("an answer")), "the one that is served lasts longer");
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_request_that_crosses_the_end_of_an_unused_connection_is_not_reset() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut stream = connect(&running, &bundle).await.expect("trusted");
    assert!(!is_last(&ask(&mut stream).await.expect("an answer")));
    running.shutdown.cancel();
    ends(&mut stream, Duration::from_secs(10)).await;
    // A socket that was closed answers the first of these with a reset, and the others fail.
    for _ in 0..3 {
        stream.get_mut().0.write_all(b"what was on its way").await.expect("no reset");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(stream);
    running.server.await.expect("no panic").expect("an orderly end");
}

/// A pod that opens as many connections as it can takes no place from the API server, neither one that it has nor one that it asks for.
#[tokio::test]
async fn who_opens_many_connections_keeps_nobody_else_out() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut before = connect(&running, &bundle).await.expect("trusted");
    let stranger = Ipv4Addr::new(127, 0, 0, 2);
    let soon = Duration::from_secs(2);
    let mut many = Vec::new();
    for _ in 0..LIMITS.all + 10 {
        let connected = connect_as(&running, &bundle, stranger, None);
        many.push(tokio::time::timeout(soon, connected).await.expect("it need not wait").expect("nobody is refused"));
    }
    let answer = tokio::time::timeout(soon, fetch(&running, &bundle, "/")).await.expect("it need not wait");
    assert_eq!(answer.expect("an answer"), "hello");
    before.write_all(format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut some = [0; 12];
    tokio::time::timeout(soon, before.read_exact(&mut some)).await.expect("an answer").expect("it was not ended");
    assert_eq!(&some, b"HTTP/1.1 200");
    // The stranger has its share, and its first connections have ended for those that followed.
    let mut byte = [0; 1];
    let ended = many[0].read(&mut byte);
    assert!(matches!(tokio::time::timeout(soon, ended).await.expect("it has ended"), Ok(0) | Err(_)));
    let newest = many.pop().expect("there are many");
    assert_eq!(fetch_by(newest, "/").await.expect("an answer"), "hello");
    drop((before, many));
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

/// What a connection of HTTP/2 keeps for its client is as bounded as what one of HTTP/1.1 does.
#[tokio::test]
async fn a_connection_of_http_2_has_few_streams_and_small_windows() {
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, None).await;
    let mut config = client(&bundle, None).expect("a configuration");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = connect_with(&running, config, Ipv4Addr::LOCALHOST).await.expect("trusted");
    // The preface, and settings that say nothing (RFC 9113, sections 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!((head[0], head[1], head[3]), (0, 0, 4), "its settings come first");
    let mut payload = vec![0; head[2].into()];
    stream.read_exact(&mut payload).await.expect("the settings");
    let setting = |id: u8| {
        let found = payload.chunks_exact(6).find(|entry| entry[..2] == [0, id])?;
        Some(u32::from_be_bytes(found[2..].try_into().ok()?))
    };
    assert_eq!((setting(3), setting(4)), (Some(STREAMS), Some(BUFFER.into())), "streams and window: {payload:?}");
    drop(stream);
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}

/// A CA for clients: its certificate, and a certificate of it with its key.
fn clients() -> (String, (String, PrivateKeyDer<'static>)) {
    let (key, of_client) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a CA").pem();
    let signed = CertificateParams::new(["kube-apiserver".to_owned()]).expect("a name");
    let certificate = signed.signed_by(&of_client, &Issuer::new(params, key)).expect("a certificate").pem();
    (authority, (certificate, PrivatePkcs8KeyDer::from(of_client.serialize_der()).into()))
}

#[tokio::test]
async fn with_a_ca_of_api_servers_nobody_else_is_answered() {
    let [(authority, api_server), (_, stranger)] = [clients(), clients()];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, "nothing").expect("written");
    let refused = Callers::read(path.clone()).expect_err("no PEM").to_string();
    assert!(refused.contains("ca.crt") && refused.contains("no certificate in PEM"), "{refused}");
    std::fs::write(&path, &authority).expect("written");
    let callers = Callers::read(path).expect("a CA");
    assert_eq!(callers.changed().expect("readable"), None);
    let (running, bundle) = start_with(Router::new().route("/", get(async || "hello")), LONG, Some(callers)).await;
    let ask = async |shown| -> Result<String, Box<dyn std::error::Error>> {
        fetch_by(connect_as(&running, &bundle, Ipv4Addr::LOCALHOST, shown).await?, "/").await
    };
    assert_eq!(ask(Some(&api_server)).await.expect("an answer"), "hello");
    assert!(ask(Some(&stranger)).await.is_err(), "a certificate of another CA");
    assert!(ask(None).await.is_err(), "no certificate");
    running.shutdown.cancel();
    running.server.await.expect("no panic").expect("an orderly end");
}
