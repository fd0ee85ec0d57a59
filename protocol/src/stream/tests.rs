use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::message::{ContextRequest, ContextStore};

const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

fn refused(frame: &Value) -> [DecodeError; 2] {
    FORMATS.map(|format| RequestFrame::open(format, &format.encode(frame)).expect_err("a bad frame"))
}

#[test]
fn the_message_is_cut_out_as_it_was_written() {
    let message = json!({"text": "a", "metadata": {"deep": [1, {"x": null}], "pi": 3.5}});
    for format in FORMATS {
        let written = format.encode(&message);
        for (id, rest) in
            [(json!(7), json!({})), (json!("seven"), json!({"idempotency_key": "k", "parameters": {"a": 1}}))]
        {
            let mut frame = json!({"message": message, "id": id, "type": "ContextStore"});
            frame.as_object_mut().expect("a map").extend(rest.as_object().expect("a map").clone());
            let bytes = format.encode(&frame);
            let opened = RequestFrame::open(format, &bytes).expect("a good frame");
            assert_eq!(opened.message, Some(written.as_slice()));
            assert_eq!(serde_json::to_value(&opened.id).expect("an id"), id);
        }
    }
}

#[test]
fn what_an_agent_writes_the_sidecar_reads() {
    let message: ContextRequest = serde_json::from_value(json!({"query": "blue"})).expect("a message");
    let frame = RequestFrame {
        context: Some(Uuid::from_u128(7)),
        traceparent: Some("00-1".to_owned()),
        ..RequestFrame::new(3, RequestKind::ContextRequest, Some(message.clone()))
    };
    for format in FORMATS {
        let bytes = format.encode(&frame);
        let opened = RequestFrame::open(format, &bytes).expect("a good frame");
        assert_eq!((opened.id, opened.context, opened.kind), (frame.id.clone(), frame.context, frame.kind));
        assert_eq!(format.decode::<ContextRequest>(opened.message.expect("a message")), Ok(message.clone()));
    }
}

#[test]
fn a_message_of_nothing_is_no_message() {
    for format in FORMATS {
        for frame in [json!({"id": 1, "type": "GetStats"}), json!({"id": 1, "type": "GetStats", "message": null})] {
            let bytes = format.encode(&frame);
            assert_eq!(RequestFrame::open(format, &bytes).expect("a good frame").message, None);
        }
    }
}

#[test]
fn a_bad_envelope_is_refused_by_its_field_and_its_id_is_still_read() {
    for (frame, field, reason) in [
        (json!({"id": 5, "type": "Store"}), "type", "unknown variant `Store`, expected one of `ContextStore`"),
        (json!({"id": 5}), ".", "missing field `type`"),
        (json!({"id": 5, "type": "GetStats", "mesage": {}}), "mesage", "unknown field `mesage`"),
        (json!({"id": 5, "type": "GetContext", "context": "no"}), "context", "UUID"),
        (json!({"id": 5, "type": "ListContexts", "parameters": [1]}), "parameters", "map"),
    ] {
        for (format, error) in FORMATS.into_iter().zip(refused(&frame)) {
            assert!(error.well_formed, "{error}");
            assert_eq!(error.path, field, "{error}");
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(id_of(format, &format.encode(&frame)), Some(CorrelationId::Number(5)));
        }
    }
    for id in [json!(-1), json!(""), json!("x".repeat(129)), json!({}), json!(1.5)] {
        for error in refused(&json!({"id": id, "type": "GetStats"})) {
            assert!(error.path == "id" && error.to_string().contains("1 to 128 bytes"), "{error}");
        }
    }
}

#[test]
fn an_answer_is_put_around_a_message_that_is_written_already() {
    for format in FORMATS {
        for id in [None, Some(CorrelationId::Number(1 << 40)), Some(CorrelationId::Text("a".to_owned()))] {
            let head = AnswerFrame {
                status: Some(201),
                request_id: Some("r".to_owned()),
                retry_after: Some(2),
                ..AnswerFrame::new(id.clone(), AnswerKind::Heartbeat)
            };
            let message = Heartbeat { sequence: 3, uptime_seconds: 45 };
            let bytes = head.encode(format, &format.encode(&message));
            let answer: AnswerFrame<Heartbeat> = format.decode(&bytes).expect("a good frame");
            assert_eq!((answer.id, answer.message), (id, Some(message)));
            assert_eq!((answer.status, answer.retry_after, answer.kind), (Some(201), Some(2), AnswerKind::Heartbeat));
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in FORMATS {
            let _ = RequestFrame::open(format, &bytes);
            let _ = id_of(format, &bytes);
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_is_refused(text in "\\PC{1,40}", cut in 1..20_usize) {
        let message: ContextStore = serde_json::from_value(json!({"text": text})).expect("a message");
        for format in FORMATS {
            let bytes = format.encode(&RequestFrame::new(1, RequestKind::ContextStore, Some(message.clone())));
            let opened = RequestFrame::open(format, &bytes).expect("a whole frame");
            prop_assert_eq!(format.decode::<ContextStore>(opened.message.expect("a message")), Ok(message.clone()));
            prop_assert!(RequestFrame::open(format, &bytes[..bytes.len() - cut.min(bytes.len())]).is_err());
        }
    }
}

/// A frame in a list would be answered without its id, or lose its message: neither has a name there.
#[test]
fn a_frame_in_a_list_is_refused() {
    refused(&json!([7, "ContextStore", null, {}, {"text": "a"}]));
}
