use axum::{body::Bytes, http::header};
use context_manager_protocol::codec::Format;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::translate::{Asked, Received, read};

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
