//! Frames of the WebSocket: the envelope is read without its message, and what is cut out of it is the message, byte by byte.

use context_manager_protocol::{
    codec::Format,
    stream::{self, AnswerFrame, AnswerKind, Heartbeat, RequestFrame},
};
use serde::de::IgnoredAny;
use serde_json::Value;

/// Text frames.
pub fn json(data: &[u8]) {
    request(Format::Json, data);
    answer(Format::Json, data);
}

/// Binary frames.
pub fn message_pack(data: &[u8]) {
    request(Format::MessagePack, data);
    answer(Format::MessagePack, data);
}

fn request(format: Format, data: &[u8]) {
    let Ok(frame) = RequestFrame::open(format, data) else {
        // Its id may be there nevertheless, and comes back in the answer.
        if let Some(id) = stream::id_of(format, data) {
            let written = format.encode(&id);
            assert_eq!(format.decode(&written), Ok(id));
        }
        return;
    };
    if let Some(id) = &frame.id {
        assert_eq!(stream::id_of(format, data).as_ref(), Some(id));
    }
    let whole = format.decode::<RequestFrame<IgnoredAny>>(data).expect("what was opened decodes as a whole");
    assert_eq!(whole.message.is_some(), frame.message.is_some(), "the message was dropped on the way");
    let Some(message) = frame.message else { return };
    assert!(format.decode::<IgnoredAny>(message).is_ok(), "what was cut out is no value");
    // The same request with that message, written by a client of ours.
    let Ok(value) = format.decode::<Value>(message) else { return };
    let request = RequestFrame { message: Some(value), ..RequestFrame::new(7, frame.kind, None) };
    let written = format.encode(&request);
    let again = RequestFrame::open(format, &written).expect("a client's frame opens");
    let expected = request.message.filter(|message| !message.is_null()).map(|message| format.encode(&message));
    assert_eq!((again.kind, again.message.map(<[u8]>::to_vec)), (frame.kind, expected));
}

fn answer(format: Format, data: &[u8]) {
    drop(format.decode::<AnswerFrame<Value>>(data));
    drop(format.decode::<Heartbeat>(data));
    // Any message at all in an envelope of the sidecar's.
    let Ok(message) = format.decode::<Value>(data) else { return };
    let head = AnswerFrame { status: Some(200), ..AnswerFrame::new(Some(7.into()), AnswerKind::Context) };
    let frame = head.encode(format, &format.encode(&message));
    let read = format.decode::<AnswerFrame<Value>>(&frame).expect("the sidecar's frame decodes");
    assert_eq!((read.id, read.kind, read.status), (head.id, head.kind, head.status));
    if format == Format::MessagePack {
        // Numbers in JSON are read to within one unit in the last place.
        assert_eq!(read.message, Some(message).filter(|message| !message.is_null()));
    }
}
