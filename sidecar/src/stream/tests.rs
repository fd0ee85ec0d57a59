use std::sync::Arc;

use axum::{body::Bytes, http::header};
use context_manager_protocol::{codec::Format, config::SidecarConfig, keyring::KeyRing, size::ByteSize};
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    ending::Ending,
    metered::Metered,
    translate::{Asked, Received, read},
};
use crate::{
    bytes_in_flight::{BytesInFlight, Full},
    live::Live,
    metrics::Metrics,
    testing::key,
};

const ID: &str = "0193a5b0-0000-7000-8000-000000000007";
const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

fn asked(format: Format, frame: &Value) -> Asked {
    match read(format, &Bytes::from(format.encode(frame))) {
        Received::Asked(asked) => *asked,
        Received::Heartbeat(_) => unreachable!("{frame} is no heartbeat"),
    }
}

#[tokio::test]
async fn every_frame_stands_for_a_request_to_a_route() {
    let message = json!({"text": "a"});
    let table = [
        (json!({"type": "ContextStore", "message": message}), "POST /v1/contexts".to_owned()),
        (json!({"type": "ContextStoreBatch", "message": message}), "POST /v1/contexts/batch".to_owned()),
        (json!({"type": "ContextRequest", "message": message}), "POST /v1/contexts/search".to_owned()),
        (json!({"type": "ContextUpdate", "context": ID, "message": message}), format!("PATCH /v1/contexts/{ID}")),
        (json!({"type": "ContextDelete", "context": ID}), format!("DELETE /v1/contexts/{ID}")),
        (json!({"type": "ContextDelete", "message": message}), "POST /v1/contexts/delete".to_owned()),
        (
            json!({"type": "GetContext", "context": ID, "parameters": {"as_of": 5}}),
            format!("GET /v1/contexts/{ID}?as_of=5"),
        ),
        (
            json!({"type": "ListContexts", "parameters": {"session": "a&b=ü", "limit": 3, "cursor": null}}),
            "GET /v1/contexts?session=a%26b%3D%C3%BC&limit=3".to_owned(),
        ),
        (json!({"type": "ClearSession", "parameters": {"session": "s"}}), "DELETE /v1/contexts?session=s".to_owned()),
        (json!({"type": "GetStats"}), "GET /v1/contexts/stats".to_owned()),
    ];
    for (mut frame, expected) in table {
        frame["id"] = json!("i");
        for format in FORMATS {
            let request = asked(format, &frame).request.expect("a good frame");
            assert_eq!(format!("{} {}", request.method(), request.uri()), expected);
            assert_eq!(request.headers()[header::ACCEPT], format.media_type());
            let typed = request.headers().get(header::CONTENT_TYPE).is_some();
            let body = request.into_body().collect().await.expect("a whole body").to_bytes();
            assert_eq!(typed, frame.get("message").is_some());
            assert_eq!(body, if typed { format.encode(&message) } else { Vec::new() });
        }
    }
}

#[test]
fn what_stands_in_headers_is_put_there() {
    let frame = json!({"id": 1, "type": "ContextStore", "message": {}, "idempotency_key": "k", "request_id": "r",
        "traceparent": "00-1", "tracestate": "a=b"});
    for format in FORMATS {
        let request = asked(format, &frame).request.expect("a good frame");
        for (name, value) in
            [("idempotency-key", "k"), ("x-request-id", "r"), ("traceparent", "00-1"), ("tracestate", "a=b")]
        {
            assert_eq!(request.headers()[name], value);
        }
    }
}

#[test]
fn a_heartbeat_with_an_id_is_a_question_and_without_one_an_answer() {
    for format in FORMATS {
        let id = |frame: &Value| match read(format, &Bytes::from(format.encode(frame))) {
            Received::Heartbeat(id) => id,
            Received::Asked(_) => unreachable!("{frame} is a heartbeat"),
        };
        assert!(id(&json!({"id": 1, "type": "Heartbeat"})).is_some());
        assert!(id(&json!({"type": "Heartbeat", "message": {"sequence": 2}})).is_none());
    }
}

/// Both ends of a stream whose bodies are bounded, and the bound.
async fn metered(limit: u64) -> (WebSocketStream<Metered<DuplexStream>>, WebSocketStream<DuplexStream>, BytesInFlight) {
    let mut config = SidecarConfig::embedded("unused");
    config.protocol.max_bytes_in_flight = Some(ByteSize::new(limit));
    let live = Arc::new(Live::new(config, KeyRing::new(key("k1"))));
    let bytes = BytesInFlight::new(Metrics::new().requests.bytes_in_flight.clone());
    let (server, client) = tokio::io::duplex(1 << 20);
    let server = Metered::new(server, live, bytes.clone());
    (
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
        bytes,
    )
}

#[tokio::test]
async fn a_large_message_has_room_while_it_arrives_and_until_it_is_answered() {
    let (mut server, mut client, bytes) = metered(300 << 10).await;
    let large = 200 << 10;
    for _ in 0..3 {
        client.send(Message::Binary(vec![7; large].into())).await.expect("sent");
        let message = server.next().await.expect("a message").expect("a good one");
        let room = server.get_mut().message(message.len()).expect("room");
        assert!((large as u64..large as u64 + 1_024).contains(&room.bytes()), "{}", room.bytes());
        assert!(bytes.reserve(100 << 10, ByteSize::new(300 << 10)).is_err(), "the message has its room");
        drop(room);
        assert!(bytes.reserve(300 << 10, ByteSize::new(300 << 10)).is_ok(), "and gave it back");
    }
}

#[tokio::test]
async fn pings_and_pongs_take_no_room_however_many_come() {
    let limit = 300 << 10;
    let (mut server, mut client, bytes) = metered(limit).await;
    let others = bytes.reserve(limit, ByteSize::new(limit)).expect("room");
    for number in 0..2_000_usize {
        let content = Bytes::from(vec![7; number % 126]);
        let is_ping = number.is_multiple_of(2);
        client.send(if is_ping { Message::Ping(content) } else { Message::Pong(content) }).await.expect("sent");
        let Some(Ok(Message::Ping(content) | Message::Pong(content))) = server.next().await else {
            unreachable!("a control frame comes")
        };
        server.get_mut().control(content.len());
    }
    // A message after them has the room of its own bytes.
    drop(others);
    client.send(Message::Binary(vec![7; 200 << 10].into())).await.expect("sent");
    let message = server.next().await.expect("a message").expect("a good one");
    let room = server.get_mut().message(message.len()).expect("room");
    assert!((message.len() as u64..message.len() as u64 + 1_024).contains(&room.bytes()), "{}", room.bytes());
}

#[tokio::test]
async fn without_room_a_large_message_ends_the_stream_and_a_small_one_can_be_answered() {
    let (mut server, mut client, bytes) = metered(300 << 10).await;
    let limit = ByteSize::new(300 << 10);
    let others = bytes.reserve(limit.bytes(), limit).expect("room");
    client.send(Message::Binary(vec![7; 100].into())).await.expect("sent");
    let small = server.next().await.expect("a message").expect("a good one");
    assert_eq!(server.get_mut().message(small.len()).map(|room| room.bytes()), Err(Full(limit)));
    client.send(Message::Binary(vec![7; 100 << 10].into())).await.expect("sent");
    let error = server.next().await.expect("an end").expect_err("no room");
    assert_eq!(Ending::of(&error), Ending::Overloaded(Full(limit)));
    server.send(Message::Close(Ending::of(&error).frame())).await.expect("the agent can be told");
    let Some(Ok(Message::Close(Some(told)))) = client.next().await else { unreachable!("it is told") };
    assert_eq!(u16::from(told.code), 1013, "try again later");
    drop(server);
    drop(others);
    assert!(bytes.reserve(limit.bytes(), limit).is_ok(), "nothing is held any more");
}
