//! Every rule of the schema has its twin here, and both refuse the same objects.

use context_manager_test_crds::{BrokenChange, BrokenSpec, broken_changes, broken_specs};
use serde_json::{Value, json};

use super::{validate, validate_update};
use crate::{ContextManager, ContextManagerSpec, crd, crd_yaml, rules};

fn problems(name: &str, spec: &Value) -> Vec<String> {
    let spec = serde_json::from_value(spec.clone()).expect("a spec of the right types");
    validate(&ContextManager::new(name, spec)).iter().map(ToString::to_string).collect()
}

fn schema() -> Value {
    serde_json::to_value(crd()).expect("a definition is JSON")
}

/// Calls `visit` with every schema below `spec` and its path.
fn walk(schema: &Value, path: &[String], visit: &mut impl FnMut(&[String], &Value)) {
    visit(path, schema);
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(property, &[path, std::slice::from_ref(name)].concat(), visit);
    }
}

fn spec_schema() -> Value {
    schema()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

#[test]
fn the_generated_file_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/contextmanagers.contextmanager.dev.yaml");
    let file = std::fs::read_to_string(path).expect("the generated file");
    assert!(file == crd_yaml(), "run `cargo run -p context-manager-crds --bin crdgen {path}`");
}

#[test]
fn a_broken_spec_is_refused_with_the_message_of_its_rule() {
    for BrokenSpec { case, name, spec, message } in broken_specs() {
        let found = problems(&name, &spec);
        assert!(found.iter().any(|problem| problem.contains(message)), "{case}: {found:?} lacks {message:?}");
    }
}

#[test]
fn a_broken_change_is_refused_with_the_message_of_its_rule() {
    for BrokenChange { case, old, new, message } in broken_changes() {
        for spec in [&old, &new] {
            assert_eq!(problems("memory", spec), Vec::<String>::new(), "{case}: each end alone is valid");
        }
        let read = |spec: Value| serde_json::from_value(spec).expect("a spec of the right types");
        let (old, new) = (read(old), read(new));
        let found = validate_update(&old, &new);
        assert!(found.iter().any(|problem| problem.to_string().contains(message)), "{case}: {found:?}");
        assert_eq!(validate_update(&old, &old), [], "{case}: no change is a change that is allowed");
    }
}

#[test]
fn every_rule_of_the_schema_has_a_broken_example() {
    let specs = broken_specs();
    let changes = broken_changes();
    let examples: Vec<_> =
        specs.iter().map(|broken| broken.message).chain(changes.iter().map(|broken| broken.message)).collect();
    let mut seen = 0;
    let root = schema()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    walk(&root, &[], &mut |path, schema| {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let message = rule["message"].as_str().expect("a message");
            assert!(examples.contains(&message), "{path:?}: nothing breaks the rule {message:?}");
            seen += 1;
        }
    });
    assert!(seen >= 30, "only {seen} rules were found in the schema");
}

#[test]
fn every_bound_of_the_schema_has_its_twin() {
    let mut bounds = 0;
    walk(&spec_schema(), &[], &mut |path, schema| {
        // What the types refuse does not come this far.
        if schema["x-kubernetes-int-or-string"] == true {
            return;
        }
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let whole = schema["type"] == "integer";
        for (bound, step) in [(number("minimum"), -1.0), (number("maximum"), 1.0)] {
            let Some(bound) = bound else { continue };
            bounds += 1;
            #[expect(clippy::cast_possible_truncation, reason = "bounds of integers are small whole numbers")]
            let outside = if whole { json!((bound + step) as i64) } else { json!(bound + step) };
            let mut nested = path.iter().rev().fold(outside, |value, key| json!({ key: value }));
            if let Some(qdrant) = nested.pointer_mut("/vectorStore/qdrant") {
                qdrant["url"] = json!("https://qdrant.example.com");
            }
            if let Some(tracing) = nested.pointer_mut("/observability/tracing") {
                tracing["otlpEndpoint"] = json!("http://otel-collector:4318");
            }
            if let Some(snapshots) = nested.pointer_mut("/vectorStore/managed/snapshots") {
                snapshots["storage"] = json!({"volume": {"size": "1Gi"}});
            }
            let found = problems("memory", &nested);
            let last = path.last().expect("a field");
            assert!(found.iter().any(|problem| problem.contains(last.as_str())), "{nested} is accepted: {found:?}");
        }
    });
    assert!(bounds >= 40, "only {bounds} bounds were found in the schema");
}

#[test]
fn a_negative_amount_is_refused_by_the_schema_as_by_the_types() {
    let mut amounts = 0;
    walk(&spec_schema(), &[], &mut |path, schema| {
        if schema["x-kubernetes-int-or-string"] != true {
            return;
        }
        amounts += 1;
        assert_eq!(schema["minimum"], json!(0.0), "{path:?}");
        let negative = path.iter().rev().fold(json!(-1), |value, key| json!({ key: value }));
        let error = serde_json::from_value::<ContextManagerSpec>(negative).expect_err("a negative amount");
        assert!(error.to_string().contains("IntOrString"), "{path:?}: {error}");
    });
    assert!(amounts >= 10, "only {amounts} amounts were found in the schema");
}

#[test]
fn texts_about_machines_are_no_longer_than_labels_are() {
    let long = |length: usize| "x".repeat(length);
    for (scheduling, field) in [
        (json!({"nodeSelector": {"disk": long(64)}}), "nodeSelector"),
        (json!({"tolerations": [{"key": long(318)}]}), "key"),
        (json!({"tolerations": [{"value": long(64)}]}), "value"),
    ] {
        let found = problems("memory", &json!({"vectorStore": {"managed": {"scheduling": scheduling}}}));
        assert!(found.len() == 1 && found[0].contains(field), "{field}: {found:?}");
    }
    let longest =
        json!({"nodeSelector": {long(317): long(63)}, "tolerations": [{"key": long(317), "value": long(63)}]});
    let found = problems("memory", &json!({"vectorStore": {"managed": {"scheduling": longest}}}));
    assert_eq!(found, Vec::<String>::new());
    let spec = spec_schema();
    let schema = &spec["properties"]["vectorStore"]["properties"]["managed"]["properties"]["scheduling"];
    let (selector, toleration) =
        (&schema["properties"]["nodeSelector"], &schema["properties"]["tolerations"]["items"]["properties"]);
    let lengths =
        [&selector["additionalProperties"], &toleration["key"], &toleration["value"]].map(|text| &text["maxLength"]);
    assert_eq!(lengths, [&json!(63), &json!(317), &json!(63)]);
}

#[test]
fn the_schema_has_no_null_no_default_and_no_unsigned_integer() {
    walk(&spec_schema(), &[], &mut |path, schema| {
        assert!(schema.get("nullable").is_none(), "{path:?} is nullable");
        // The spec itself has one, so that a null in its place is taken for a whole one.
        assert!(path.is_empty() || schema.get("default").is_none(), "{path:?} has a default");
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        assert!(!format.starts_with("uint"), "{path:?} has the format {format}");
        assert!(!path.is_empty() && schema["description"].is_string() || path.is_empty(), "{path:?} is not described");
    });
}

#[test]
fn the_empty_spec_and_the_smallest_store_are_valid() {
    for spec in [json!({}), json!({"vectorStore": {"embedded": {}}})] {
        assert_eq!(problems("memory", &spec), Vec::<String>::new());
    }
    assert_eq!(problems(&"x".repeat(rules::MAX_NAME), &json!({})), Vec::<String>::new());
}

#[test]
fn what_is_absent_is_not_written() {
    let written = serde_json::to_value(ContextManager::new("memory", serde_json::from_str("{}").expect("a spec")));
    let expected = json!({
        "apiVersion": "contextmanager.dev/v1alpha1",
        "kind": "ContextManager",
        "metadata": {"name": "memory"},
        "spec": {},
    });
    assert_eq!(written.expect("JSON"), expected);
}
