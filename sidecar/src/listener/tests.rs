use axum::routing::get;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    task::JoinHandle,
};

use super::*;
use crate::testing::eventually;

struct Server {
    addresses: Vec<SocketAddr>,
    open: IntGauge,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn server() -> Server {
    server_with(Limits::PROTOCOL).await
}

async fn server_with(limits: Limits) -> Server {
    let slow = get(async || {
        sleep(Duration::from_millis(300)).await;
        "late"
    });
    let router = Router::new().route("/", get(async || "hello")).route("/slow", slow);
    let listeners = bind_loopback(0).await.expect("a free port");
    let addresses = listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect();
    let open = IntGauge::new("open", "open").expect("a gauge");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listeners, router, limits, open.clone(), stop.clone()));
    Server { addresses, open, stop, task }
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(request.as_bytes()).await.expect("a connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn the_protocol_is_on_loopback_only_with_one_port_for_both_families() {
    let server = server().await;
    assert!(server.addresses.iter().all(|address| address.ip().is_loopback()));
    assert!(server.addresses.iter().all(|address| address.port() == server.addresses[0].port()));
    for address in &server.addresses {
        let answer = exchange(*address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = bind_loopback(0).await.expect("a free port");
    let port = taken[0].local_addr().expect("an address").port();
    let error = bind_loopback(port).await.expect_err("a taken port").to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn http2_is_spoken_without_tls() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.addresses[0]).await.expect("a listener");
    // In two packets, so that the first one alone does not tell the version.
    stream.write_all(b"P").await.expect("a connection");
    sleep(Duration::from_millis(20)).await;
    stream.write_all(b"RI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("a connection");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[3], 0x04, "the first frame of a server is SETTINGS (RFC 9113 section 3.4)");
}

#[tokio::test]
async fn a_connection_is_kept_and_counted() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.addresses[0]).await.expect("a listener");
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("an open connection");
        let mut answer = vec![0; 1_024];
        let length = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
        assert_eq!(server.open.get(), 1);
    }
    drop(stream);
    eventually("the closing", || server.open.get() == 0).await;
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_reads_why() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.addresses[0]).await.expect("a listener");
    let length = 16 << 20;
    let head = format!("POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("a connection");
    stream.write_all(&vec![b' '; length]).await.expect("the server goes on reading");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("the connection is kept");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("both answers");
    assert!(answers.starts_with("HTTP/1.1 404") && answers.ends_with("hello"), "{answers}");
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = server().await;
    let headers = "x-a: 1\r\n".repeat(100);
    let answer = exchange(server.addresses[0], &format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn the_end_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let server = server().await;
    let mut idle = TcpStream::connect(server.addresses[0]).await.expect("a listener");
    let address = server.addresses[0];
    let slow = tokio::spawn(async move { exchange(address, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await });
    eventually("both connections", || server.open.get() == 2).await;
    sleep(Duration::from_millis(50)).await;
    server.stop.cancel();
    assert_eq!(idle.read(&mut [0; 8]).await.expect("an orderly end"), 0);
    let answer = slow.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("late"), "{answer}");
    timeout(Duration::from_secs(1), server.task).await.expect("a prompt end").expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "nothing is accepted after the end");
}

/// A connection from 127.0.0.`last`, on which nothing is sent.
async fn silent(server: &Server, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).expect("an address of this host");
    let address = server.addresses.iter().find(|address| address.is_ipv4()).expect("an IPv4 address");
    socket.connect(*address).await.expect("a listener")
}

/// Asks on a connection that is kept.
async fn is_answered(stream: &mut TcpStream) -> bool {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("an open connection");
    let mut answer = vec![0; 1_024];
    let length = stream.read(&mut answer).await.expect("an answer");
    answer[..length].starts_with(b"HTTP/1.1 200 OK")
}

#[tokio::test]
async fn silent_connections_keep_no_probe_out() {
    let Limits { idle: _, share } = Limits::ADMIN;
    let Share { all, of_one } = share.expect("places are shared");
    // As long as of the protocol, so that none of them ends because it is silent.
    let server = server_with(Limits { share, ..Limits::PROTOCOL }).await;
    let full = i64::try_from(all).expect("a few");
    let mut kubelet = silent(&server, 250).await;
    assert!(is_answered(&mut kubelet).await);

    let mut connections = Vec::new();
    for last in (1..).take(all.div_ceil(of_one)) {
        for _ in 0..of_one {
            connections.push(silent(&server, last).await);
        }
    }
    eventually("a full listener", || server.open.get() == full).await;
    for _ in 0..all {
        connections.push(silent(&server, 1).await);
    }
    let mut probe = silent(&server, 251).await;
    assert!(is_answered(&mut probe).await, "a new connection");
    assert!(is_answered(&mut kubelet).await, "a kept connection");
    assert_eq!(connections[0].read(&mut [0; 1]).await.expect("an orderly end"), 0, "the oldest made way");
    eventually("the end of those that made way", || server.open.get() == full).await;
}
