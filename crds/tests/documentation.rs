//! The page about the resource against its schema.

use serde_json::Value;

/// The fields below `schema` that have no further ones. References and the entries of a list count as such.
fn fields(schema: &Value, path: &str, found: &mut Vec<String>) {
    let below = |schema: &Value, path: &str, found: &mut Vec<String>| {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            fields(field, &format!("{path}{name}"), found);
        }
    };
    if schema["items"]["properties"].is_object() {
        found.push(path.to_owned());
        below(&schema["items"], &format!("{path}[]."), found);
    } else if path.is_empty() {
        below(schema, "", found);
    } else if schema["properties"].is_object() && !path.ends_with("Ref") {
        below(schema, &format!("{path}."), found);
    } else {
        found.push(path.to_owned());
    }
}

#[test]
fn every_field_is_documented() {
    let page = include_str!("../../docs/resource.md");
    let definition = serde_json::to_value(context_manager_crds::crd()).expect("a definition is JSON");
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut all = Vec::new();
    fields(spec, "", &mut all);
    assert!(all.len() > 100, "{all:?}");
    for field in all {
        assert!(page.contains(&format!("\n| `{field}` |")), "docs/resource.md has no row for spec.{field}");
    }
}
