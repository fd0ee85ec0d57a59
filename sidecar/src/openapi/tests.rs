//! The document against the router and the types.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use context_manager_protocol::{message::ContextStore, problem::Code};
use serde_json::Value;

use super::build;
use crate::{
    metrics::{Label as _, Route},
    testing::{Call, Fixture},
};

const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "options", "trace"];

/// The paths of a router; axum tells them only in its debug form.
fn routed(router: &axum::Router) -> BTreeSet<String> {
    let debug = format!("{router:?}");
    let paths = debug.split('"').filter(|piece| piece.len() > 1 && piece.starts_with('/'));
    // A fallback is a route of its own for axum.
    paths.filter(|path| !path.contains("__private__axum")).map(str::to_owned).collect()
}

fn paths(document: &Value) -> BTreeSet<String> {
    document["paths"].as_object().expect("paths").keys().cloned().collect()
}

fn operations(document: &Value) -> Vec<&Value> {
    let paths = document["paths"].as_object().expect("paths").values();
    paths.flat_map(|path| METHODS.iter().filter_map(|method| path.get(*method))).collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_and_the_other_way_round() {
    let (fixture, document) = (Fixture::new().await, build());
    assert!(routed(&fixture.router).len() > 5, "axum's debug form has changed: {:?}", fixture.router);
    assert_eq!(paths(&document), routed(&fixture.router));
    let paths = document["paths"].as_object().expect("paths").iter();
    // The stream answers for its methods itself.
    for (path, item) in paths.filter(|(path, _)| *path != crate::routes::path::STREAM) {
        let uri = path.replace("{id}", "0191e7f0-0000-7000-8000-000000000001");
        let answer = fixture.send(Call::new("PROPFIND", uri).sign()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = answer.header("allow").split(',').filter(|method| *method != "HEAD").map(str::to_lowercase);
        let described = METHODS.iter().filter(|method| item.get(**method).is_some()).map(|method| (*method).to_owned());
        assert_eq!(allowed.collect::<BTreeSet<_>>(), described.collect::<BTreeSet<_>>(), "{path}");
    }
}

#[test]
fn every_operation_has_the_name_that_metrics_and_audit_give_it() {
    let document = build();
    let ids: BTreeSet<&str> =
        operations(&document).iter().map(|operation| operation["operationId"].as_str().expect("an id")).collect();
    let routes = Route::ALL.iter().map(|route| route.as_str()).filter(|route| *route != Route::Unknown.as_str());
    assert_eq!(ids, routes.collect());
}

#[test]
fn every_code_that_an_operation_can_answer_is_described_once() {
    let document = build();
    let shared = document["components"]["responses"].as_object().expect("responses");
    let described: BTreeSet<&str> = shared
        .values()
        .filter_map(|response| {
            response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
                .as_array()
        })
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // Two are the answers to requests for no operation, and one is of operations that embed without being able to wait.
    let elsewhere = [Code::RouteUnknown, Code::MethodNotAllowed, Code::EmbeddingUnavailable];
    let all: BTreeSet<&str> =
        Code::ALL.iter().filter(|code| !elsewhere.contains(code)).map(|code| code.as_str()).collect();
    assert_eq!(described, all);
}

#[test]
fn examples_are_messages() {
    let document = build();
    let example = |path: &str, method: &str| {
        document["paths"][path][method]["requestBody"]["content"]["application/json"]["example"].clone()
    };
    let stored = serde_json::from_value::<ContextStore>(example("/v1/contexts", "post")).expect("a message");
    assert!(stored.metadata.contains_key("topic"));
    for operation in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"];
        assert!(content.is_null() || content["example"].is_object(), "{}", operation["operationId"]);
    }
}

#[test]
fn every_field_of_every_message_is_documented() {
    let (document, page) = (build(), include_str!("../../../docs/protocol.md"));
    let section = |name: &str| {
        let rest = page.split(&format!("\n### `{name}`\n")).nth(1);
        rest.and_then(|rest| rest.split("\n##").next()).unwrap_or_default()
    };
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    // Problem documents have a page of their own.
    for (name, schema) in schemas.iter().filter(|(name, _)| *name != "Problem") {
        let sections = match name.as_str() {
            "Retrieved" => [section("Retrieved"), section("Context")],
            "RefusedLine" => [section("Imported"); 2],
            "ExportEnd" => [section("ExportedContext"); 2],
            "Range" => [section("Filter"); 2],
            name => [section(name); 2],
        };
        for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| format!("`{field}`")) {
            assert!(sections.iter().any(|text| text.contains(&field)), "docs/protocol.md lacks {field} of {name}");
        }
    }
}

#[test]
fn nothing_is_referred_to_that_is_not_there() {
    let document = build();
    let text = document.to_string();
    let references = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next());
    let mut count = 0;
    for pointer in references {
        count += 1;
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    assert!(count > 100, "{count} references");
}
