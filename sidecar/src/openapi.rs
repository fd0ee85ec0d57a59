//! The protocol as an OpenAPI 3.1 document, made from the handlers: parameters and bodies are those of their extractors, schemas
//! those of the protocol's types, bounds those of the validation, problems those of [`Code`].
//!
//! Owns everything in the document that is the same for all operations. What differs stands beside the routes.

mod bounds;
mod description;
mod extract;
mod problems;

#[cfg(test)]
mod tests;

use aide::{
    generate,
    openapi::{Info, License, OpenApi, Server},
};
use context_manager_protocol::config::Protocol;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::routes;

#[cfg(doc)]
use context_manager_protocol::problem::Code;
pub use description::Description;

const SUMMARY: &str = "A memory for AI agents: store contexts, and retrieve them within a token budget.";
const DETAILS: &str = "\
Every request is signed by HTTP Message Signatures (RFC 9421) with `hmac-sha256`; docs/protocol.md says how, and docs/errors.md \
what each code of a problem document means. Bodies are JSON or MessagePack with the same fields. Lengths that are named in bytes \
are those of UTF-8; `maxLength` is their bound in characters.";
const SIGNATURE: &str = "Of RFC 9421: one signature with `hmac-sha256` over the components of `Signature-Input`.";
const SIGNATURE_INPUT: &str = "\
Of RFC 9421: covers at least `\"@method\"`, `\"@path\"`, `\"@query\"` and `\"content-digest\"`, with the parameters `created`, \
`nonce` (16 to 64 characters, new for every request) and `keyid`.";
const CONTENT_DIGEST: &str = "Of RFC 9530: `sha-256` of the body, of the empty body if there is none.";

/// The document as text, with a line feed at its end.
///
/// # Panics
/// Never: a JSON value can be written as text.
#[must_use]
pub fn document() -> String {
    let mut text = serde_json::to_string_pretty(&build()).expect("a JSON value is written without errors");
    text.push('\n');
    text
}

fn build() -> Value {
    generate::in_context(|context| context.schema = SchemaGenerator::new(settings()));
    let mut api = OpenApi {
        info: Info {
            title: "Context Manager".to_owned(),
            summary: Some(SUMMARY.to_owned()),
            description: Some(DETAILS.to_owned()),
            license: Some(License {
                name: "Apache-2.0".to_owned(),
                identifier: Some("Apache-2.0".to_owned()),
                ..License::default()
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Info::default()
        },
        servers: vec![Server {
            url: format!("http://127.0.0.1:{}", Protocol::default().port),
            description: Some("The sidecar in the agent's own pod.".to_owned()),
            ..Server::default()
        }],
        ..OpenApi::default()
    };
    let _ = routes::described().finish_api(&mut api);
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    secure(&mut document);
    bounds::apply(&mut document);
    problems::apply(&mut document);
    document
}

/// Schemas of JSON Schema 2020-12, which is what OpenAPI 3.1 has; the library's default is an older draft.
fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "#/components/schemas/".into();
        settings.meta_schema = None;
    })
}

/// Says that every request is signed. The three headers are needed together.
fn secure(document: &mut Value) {
    let header = |name: &str, description: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": description});
    document["components"]["securitySchemes"] = json!({
        "contentDigest": header("Content-Digest", CONTENT_DIGEST),
        "signatureInput": header("Signature-Input", SIGNATURE_INPUT),
        "signature": header("Signature", SIGNATURE),
    });
    document["security"] = json!([{"contentDigest": [], "signatureInput": [], "signature": []}]);
}
