//! Messages in both formats: what decodes can be written, and what was written decodes to what it came from.

use context_manager_protocol::{
    codec::Format,
    message::{
        Acknowledgment, AcknowledgmentBatch, Cleared, Context, ContextDelete, ContextList, ContextRequest,
        ContextResponse, ContextStore, ContextStoreBatch, ContextUpdate, ExportEnd, ExportedContext, Imported, Stats,
    },
    problem::Problem,
};
use serde::{Serialize, de::DeserializeOwned};

/// Every message as JSON.
pub fn json(data: &[u8]) {
    every_message(Format::Json, data);
}

/// Every message as `MessagePack`.
pub fn message_pack(data: &[u8]) {
    every_message(Format::MessagePack, data);
}

/// The lines of an export, as an import reads them.
pub fn export_lines(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        message::<ExportedContext>(Format::Json, line);
        message::<ExportEnd>(Format::Json, line);
    }
}

fn every_message(format: Format, data: &[u8]) {
    message::<ContextStore>(format, data);
    message::<ContextStoreBatch>(format, data);
    message::<ContextRequest>(format, data);
    message::<ContextUpdate>(format, data);
    message::<ContextDelete>(format, data);
    message::<ExportedContext>(format, data);
    // What a client gets from its sidecar.
    message::<Acknowledgment>(format, data);
    message::<AcknowledgmentBatch>(format, data);
    message::<Context>(format, data);
    message::<ContextList>(format, data);
    message::<ContextResponse>(format, data);
    message::<Cleared>(format, data);
    message::<Imported>(format, data);
    message::<Stats>(format, data);
    message::<Problem>(format, data);
}

/// The first writing may drop what means nothing (spaces, an explicit `null`); from then on nothing may change. Floating-point numbers
/// in JSON are read to within one unit in the last place, so that there only the length of the way is checked.
fn message<T: DeserializeOwned + Serialize>(format: Format, data: &[u8]) {
    let Ok(decoded) = format.decode::<T>(data) else { return };
    let written = format.encode(&decoded);
    let again = format.decode::<T>(&written).expect("what was written decodes");
    if format == Format::MessagePack {
        assert_eq!(written, format.encode(&again), "a message changes on its way");
    }
}
