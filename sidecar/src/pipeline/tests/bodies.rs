//! The bound on the bytes of all bodies together.

use std::net::{Ipv4Addr, SocketAddr};

use axum::body::HttpBody as _;
use context_manager_protocol::message::Imported;
use http_body_util::BodyExt as _;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::ServiceExt as _;

use super::*;
use crate::listener::{self, Limits};

/// The limit of one body, and of two.
const ONE: u16 = 2_048;

async fn fixture() -> Fixture {
    let change = |config: &mut SidecarConfig| {
        config.protocol.max_message_size = ByteSize::new(u64::from(ONE));
        config.protocol.max_bytes_in_flight = Some(ByteSize::new(2 * u64::from(ONE)));
    };
    Fixture::with(change, 100).await
}

/// A signed request whose body begins and never ends.
fn unending(begin: usize) -> Request<Body> {
    let mut request = Call::json("POST", CONTEXTS, vec![b' '; usize::from(ONE)]).sign();
    let begin = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; begin]))]);
    *request.body_mut() = Body::from_stream(begin.chain(stream::pending()));
    request
}

fn held(fixture: &Fixture) -> i64 {
    fixture.shared.metrics.requests.bytes_in_flight.get()
}

async fn overloaded(fixture: &Fixture, request: Request<Body>) {
    let answer = fixture.send(request).await;
    assert_eq!((answer.status, answer.problem().code), (StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded));
    assert_eq!(answer.header("retry-after"), "1");
    let detail = answer.problem().detail;
    assert!(detail.contains("protocol.max_bytes_in_flight"), "{detail}");
}

#[tokio::test]
async fn bodies_have_room_until_their_requests_end_and_what_finds_none_is_told_to_come_again() {
    let fixture = fixture().await;
    let one = i64::from(ONE);
    let first = tokio::spawn(send(fixture.router.clone(), unending(1)));
    eventually("room for the first", || held(&fixture) == one).await;
    let second = tokio::spawn(send(fixture.router.clone(), unending(1)));
    eventually("room for the second", || held(&fixture) == 2 * one).await;

    overloaded(&fixture, Call::json("POST", CONTEXTS, TEXT).sign()).await;
    assert_eq!(fixture.send(Call::new("GET", CONTEXTS).sign()).await.status, StatusCode::OK, "it has no body");
    first.abort();
    eventually("the end of the first", || held(&fixture) == one).await;
    assert_eq!(fixture.send(Call::json("POST", CONTEXTS, TEXT).sign()).await.status, StatusCode::CREATED);
    assert_eq!(held(&fixture), one);

    let mut config = (*fixture.shared.live.config()).clone();
    config.protocol.max_bytes_in_flight = Some(ByteSize::new(u64::from(ONE)));
    fixture.shared.live.set_config(config);
    overloaded(&fixture, Call::json("POST", CONTEXTS, TEXT).sign()).await;
    second.abort();
    eventually("the end of the second", || held(&fixture) == 0).await;
}

/// A write goes on without its caller, so what it holds is not free.
#[tokio::test]
async fn a_write_whose_caller_went_away_keeps_its_room_and_its_place_until_it_is_done() {
    let fixture = fixture().await;
    let mut config = (*fixture.shared.live.config()).clone();
    config.protocol.max_in_flight = 1;
    fixture.shared.live.set_config(config);
    let id = Uuid::from_u128(1);
    let body = format!(r#"{{"id": "{id}", "text": "the blue door"}}"#);
    let bytes = i64::try_from(body.len()).expect("a small body");

    let writes = fixture.engine.hold_writes().await;
    let unheard = timeout(Duration::from_millis(200), fixture.send(Call::json("POST", CONTEXTS, body).sign())).await;
    assert!(unheard.is_err(), "the caller went away before the answer");
    assert_eq!(held(&fixture), bytes);
    let next = fixture.send(Call::new("GET", CONTEXTS).sign()).await;
    assert_eq!((next.status, next.problem().code), (StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded));

    drop(writes);
    eventually("the end of the write", || held(&fixture) == 0).await;
    let stored = fixture.send(Call::new("GET", format!("{CONTEXTS}/{id}")).sign()).await;
    assert_eq!(stored.status, StatusCode::OK, "it was done, and its place is free");
}

/// A sidecar with room for some pages of its contexts, whatever the limit of bodies is.
async fn with_large_contexts() -> Fixture {
    let fixture = Fixture::new().await;
    let mut config = (*fixture.shared.live.config()).clone();
    config.protocol.max_bytes_in_flight = Some(config.protocol.max_message_size);
    fixture.shared.live.set_config(config);
    store_large(&fixture, 70).await;
    fixture
}

async fn store_large(fixture: &Fixture, count: usize) {
    const TEXT_BYTES: usize = 60 << 10;
    for number in 0..count {
        let body = format!(r#"{{"text": "{number}{}", "level": "long_term"}}"#, "-".repeat(TEXT_BYTES));
        let stored = fixture.send(Call::json("POST", CONTEXTS, body).sign()).await;
        assert_eq!(stored.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_large_answer_has_room_until_it_is_sent_and_a_further_one_is_told_to_come_again() {
    let fixture = with_large_contexts().await;
    let page = || fixture.router.clone().oneshot(Call::new("GET", "/v1/contexts?limit=1000").sign());
    let mut unsent = Vec::new();
    let refused = loop {
        let Ok(response) = page().await;
        if response.status() != StatusCode::OK {
            break response;
        }
        unsent.push(response);
        let sum: u64 = unsent.iter().map(|response| response.body().size_hint().lower()).sum();
        assert_eq!(held(&fixture), i64::try_from(sum).expect("a few bytes"));
        assert!(sum <= 32 << 20, "{sum} bytes of {} answers", unsent.len());
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(unsent.len() >= 7, "{} pages of 4 MiB had room", unsent.len());
    let small = fixture.send(Call::new("GET", "/v1/contexts?limit=1").sign()).await;
    assert_eq!(small.status, StatusCode::OK, "a small one needs none");
    drop(unsent);
    assert_eq!((held(&fixture), page().await.expect("an answer").status()), (0, StatusCode::OK));
}

#[tokio::test]
async fn a_page_of_an_export_has_room_until_it_is_sent_and_without_room_the_export_ends_early_or_is_refused() {
    const EXPORT: &str = "/v1/contexts/export";
    const ALL: ByteSize = ByteSize::new(32 << 20);
    let fixture = with_large_contexts().await;
    let export = || fixture.router.clone().oneshot(Call::new("GET", EXPORT).sign());
    let mut unsent = Vec::new();
    let refused = loop {
        let Ok(response) = export().await;
        if response.status() != StatusCode::OK {
            break response;
        }
        unsent.push(response);
        assert!(held(&fixture) > 3 << 20 && held(&fixture) <= 32 << 20, "{} bytes", held(&fixture));
    };
    assert_eq!((refused.status(), unsent.len()), (StatusCode::SERVICE_UNAVAILABLE, 8));
    drop(unsent);
    assert_eq!(held(&fixture), 0);

    // The connection keeps the first page, and something else has the rest of the room.
    store_large(&fixture, 60).await;
    let Ok(response) = export().await;
    let (mut body, first, mut unsent) = (response.into_body(), held(&fixture), Vec::<Bytes>::new());
    while unsent.iter().map(Bytes::len).sum::<usize>() < usize::try_from(first).expect("a few bytes") {
        let part = body.frame().await.expect("more").expect("a part").into_data().expect("data");
        unsent.push(part);
    }
    let rest = ALL.bytes() - u64::try_from(first).expect("a few bytes");
    let rest = fixture.shared.bytes_in_flight.reserve(rest, ALL).expect("room");
    assert!(body.frame().await.expect("no last line yet").is_err());
    assert!(body.frame().await.is_none());
    drop((rest, body));
    assert_eq!(held(&fixture), first, "the connection has it still");
    let page = String::from_utf8(unsent.concat()).expect("UTF-8");
    drop(unsent);
    assert_eq!(held(&fixture), 0);

    // It goes on after the last line that came.
    let lines: Vec<ExportedContext> = page.lines().map(|line| serde_json::from_str(line).expect("a context")).collect();
    let (others, _) = exported(&fixture, format!("{EXPORT}?after={}", lines[lines.len() - 1].id)).await;
    assert_eq!((lines.len() + others.len(), held(&fixture)), (130, 0));
    assert_eq!(exported(&fixture, EXPORT.to_owned()).await.0, [lines, others].concat());
}

/// A connection over which a page was asked for; the kernel takes little of it before it is read.
async fn asking(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
    let mut stream = socket.connect(address).await.expect("a listener");
    let request = Call::new("GET", "/v1/contexts?limit=1000").sign();
    let header =
        |(name, value): (_, &HeaderValue)| format!("{name}: {}\r\n", value.to_str().expect("a printable header"));
    let headers: String = request.headers().iter().map(header).collect();
    let head = format!("GET {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n", request.uri());
    stream.write_all(head.as_bytes()).await.expect("a connection");
    stream
}

#[tokio::test]
async fn a_client_that_stops_reading_keeps_the_room_of_its_answer() {
    let fixture = with_large_contexts().await;
    let listener = listener::bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let open = IntGauge::new("open", "open").expect("a gauge");
    let router = fixture.router.clone();
    let server = listener::serve(vec![listener], router, Limits::PROTOCOL, open, CancellationToken::new());
    let _server = AbortOnDropHandle::new(tokio::spawn(server));

    let mut first = asking(address).await;
    eventually("the first answer", || held(&fixture) > 0).await;
    let bytes = held(&fixture);
    assert!(bytes > 3 << 20, "a page of {bytes} bytes");
    let second = asking(address).await;
    eventually("the second answer", || held(&fixture) == 2 * bytes).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(held(&fixture), 2 * bytes, "both answers are here, whatever the connections took of them");

    let mut answer = Vec::new();
    first.read_to_end(&mut answer).await.expect("the whole answer");
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let length = format!("content-length: {bytes}\r\n");
    assert!(String::from_utf8_lossy(&answer[..head]).contains(&length), "its length was announced");
    let page: ContextList = serde_json::from_slice(&answer[head..]).expect("a page");
    assert!(page.contexts.len() > 60 && answer.len() - head == usize::try_from(bytes).expect("a few bytes"));
    eventually("room of the first", || held(&fixture) == bytes).await;
    drop(second);
    eventually("room of the second", || held(&fixture) == 0).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_takes_room_as_it_arrives() {
    let fixture = fixture().await;
    let first = tokio::spawn(send(fixture.router.clone(), unending(1)));
    eventually("room for the first", || held(&fixture) == i64::from(ONE)).await;
    let chunked = |begin| {
        let mut request = unending(begin);
        request.headers_mut().remove(header::CONTENT_LENGTH);
        request
    };
    let second = tokio::spawn(send(fixture.router.clone(), chunked(1_500)));
    eventually("room for what has come", || held(&fixture) == i64::from(ONE) + 1_500).await;
    overloaded(&fixture, chunked(600)).await;
    assert_eq!(held(&fixture), i64::from(ONE) + 1_500);
    first.abort();
    second.abort();
    eventually("the end of both", || held(&fixture) == 0).await;
}

#[tokio::test]
async fn a_body_in_pieces_is_the_same_body() {
    let fixture = fixture().await;
    let id = Uuid::from_u128(1);
    let line = format!(r#"{{"id":"{id}","text":"a","level":"long_term","version":1,"created_at":5,"updated_at":5}}"#);
    let call = || {
        let call = Call { body: line.clone().into_bytes(), ..Call::new("POST", "/v1/contexts/import") };
        call.header("content-type", "application/jsonl")
    };
    for told in [true, false] {
        let mut request = call().sign();
        let pieces: Vec<_> = line.as_bytes().chunks(7).map(|piece| Ok::<_, Infallible>(piece.to_vec())).collect();
        *request.body_mut() = Body::from_stream(stream::iter(pieces));
        if !told {
            request.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let imported: Imported = fixture.send(request).await.json();
        assert_eq!(imported.imported + imported.unchanged, 1, "{imported:?}");
    }
    let mut other = call().sign();
    *other.body_mut() = Body::from(vec![b'x'; line.len()]);
    refused(&fixture, other, Code::DigestMismatch).await;
    assert_eq!(held(&fixture), 0);
}
