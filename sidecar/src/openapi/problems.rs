//! The problems that an operation may answer, and the headers of every answer.

use std::collections::BTreeMap;

use context_manager_protocol::{
    codec::Format,
    problem::{Code, MEDIA_TYPE, Problem},
};
use schemars::{JsonSchema as _, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::description::CODES;
use crate::{layers::request_id, refusal::CHALLENGE};

/// What every operation may answer: these come from the layers around the handlers, and from what all handlers need.
const EVERYWHERE: &[Code] = &[
    Code::SignatureMissing,
    Code::SignatureMalformed,
    Code::KeyUnknown,
    Code::SignatureInvalid,
    Code::DigestMismatch,
    Code::TimestampOutsideWindow,
    Code::TimestampBeforeStart,
    Code::NonceReplayed,
    Code::AccessDenied,
    Code::BodyMalformed,
    Code::BodyTooLarge,
    Code::NonceStoreFull,
    Code::Overloaded,
    Code::StoreUnavailable,
    Code::StoreRefused,
    Code::ShuttingDown,
    Code::Internal,
    Code::DeadlineExceeded,
];

/// Completes every operation.
pub(super) fn apply(document: &mut Value) {
    add_schemas(document);
    document["components"]["headers"] = headers();
    document["components"]["parameters"] = json!({"requestId": {
        "name": request_id::HEADER.as_str(),
        "in": "header",
        "description": format!("An id for the log: up to {} letters, digits, `.`, `_` and `-`. Another one is replaced.", request_id::MAX_BYTES),
        "schema": {"type": "string"},
    }});
    let mut shared = Map::new();
    for operation in operations(document) {
        let codes = codes(operation);
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        if let Value::Array(parameters) = parameters {
            parameters.push(json!({"$ref": "#/components/parameters/requestId"}));
        }
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        for answer in responses.values_mut() {
            answer["headers"][request_id::HEADER.as_str()] = json!({"$ref": "#/components/headers/requestId"});
        }
        for (status, codes) in by_status(&codes) {
            let name = component(status, &codes);
            responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
            shared.entry(name).or_insert_with(|| response(status, &codes));
        }
        responses.sort_keys();
    }
    shared.sort_keys();
    document["components"]["responses"] = shared.into();
}

/// Every operation of the document.
pub(super) fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut).filter_map(Value::as_object_mut)
}

/// The operation's own codes and those of all, in the order of the documentation.
fn codes(operation: &mut Map<String, Value>) -> Vec<Code> {
    let own = operation.remove(CODES).unwrap_or_default();
    let named = |code: &Code| own.as_array().is_some_and(|own| own.iter().any(|own| own == code.as_str()));
    let codes: Vec<Code> = Code::ALL.iter().copied().filter(|code| EVERYWHERE.contains(code) || named(code)).collect();
    operation.insert(CODES.to_owned(), codes.iter().map(|code| code.as_str()).collect());
    codes
}

fn by_status(codes: &[Code]) -> BTreeMap<u16, Vec<Code>> {
    let mut statuses: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        statuses.entry(code.status()).or_default().push(*code);
    }
    statuses
}

/// The name of the shared description of these problems. Those that come from the layers are many, and the same everywhere.
fn component(status: u16, codes: &[Code]) -> String {
    if codes.iter().all(|code| EVERYWHERE.contains(code)) {
        return status.to_string();
    }
    codes.iter().fold(status.to_string(), |name, code| format!("{name}.{}", code.as_str()))
}

fn response(status: u16, codes: &[Code]) -> Value {
    let lines = codes.iter().map(|code| format!("- `{}`: {}", code.as_str(), code.title()));
    let slugs: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let schema = json!({"schema": {"allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {"type": "object", "properties": {"status": {"const": status}, "code": {"enum": slugs}}},
    ]}});
    let mut headers = json!({request_id::HEADER.as_str(): {"$ref": "#/components/headers/requestId"}});
    match status {
        401 => headers["WWW-Authenticate"] = json!({"$ref": "#/components/headers/challenge"}),
        503 => headers["Retry-After"] = json!({"$ref": "#/components/headers/retryAfter"}),
        _ => {}
    }
    json!({
        "description": lines.collect::<Vec<_>>().join("\n"),
        "headers": headers,
        "content": {MEDIA_TYPE: schema, Format::MessagePack.media_type(): schema},
    })
}

fn headers() -> Value {
    json!({
        "requestId": {
            "description": "The request's id, as in the log and in a problem document.",
            "required": true,
            "schema": {"type": "string", "pattern": request_id::PATTERN},
        },
        "retryAfter": {
            "description": "Seconds after which the request may be sent again, with a new nonce.",
            "required": true,
            "schema": {"type": "integer", "minimum": 1},
        },
        "challenge": {
            "description": "How a request must be signed.",
            "required": true,
            "schema": {"type": "string", "const": CHALLENGE},
        },
        "location": {
            "description": "The path of the new context, with the parameters that name its memory if it is not the agent's own.",
            "required": true,
            "schema": {"type": "string", "format": "uri-reference"},
        },
    })
}

/// Problem documents are the answer of no handler, so their schemas come in here.
fn add_schemas(document: &mut Value) {
    let mut generator = SchemaGenerator::new(super::settings());
    let problem = Problem::json_schema(&mut generator);
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in generator.take_definitions(true) {
        schemas[name] = schema;
    }
    schemas["Problem"] = problem.to_value();
    if let Value::Object(schemas) = schemas {
        schemas.sort_keys();
    }
}
