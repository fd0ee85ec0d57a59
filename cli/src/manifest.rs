//! Files with Kubernetes objects, in YAML or JSON.

use std::{io::Read as _, path::Path};

use kube::api::DynamicObject;
use serde_json::Value;

use crate::error::Error;

/// The objects of a file, or of the standard input for `-`; lists are taken apart.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>, Error> {
    let (file, read) = if path == Path::new("-") {
        let mut text = String::new();
        ("standard input".to_owned(), std::io::stdin().read_to_string(&mut text).map(|_| text))
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    let text = read.map_err(|error| Error::Input { file: file.clone(), what: error.to_string() })?;
    parse(&text).map_err(|what| Error::Input { file, what })
}

/// The objects of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, like_kubectl())
        .map_err(|error| format!("it is neither YAML nor JSON: {error}"))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        flatten(document, &mut objects)?;
    }
    if objects.is_empty() {
        return Err("it has no object; write at least one with apiVersion and kind".to_owned());
    }
    Ok(objects)
}

/// As `kubectl` reads YAML: `0400` is octal. How many documents and nodes there are, and how long comments are, the text itself bounds; how
/// deep it is and what its aliases are made into stay bounded.
fn like_kubectl() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_documents: usize::MAX,
        max_nodes: usize::MAX,
        max_events: usize::MAX,
        max_total_scalar_bytes: usize::MAX,
        enforce_alias_anchor_ratio: false,
    };
    serde_saphyr::options!(legacy_octal_numbers: true, emit_comments: false, budget: budget)
}

fn flatten(document: Value, objects: &mut Vec<Value>) -> Result<(), String> {
    let text = |key: &str| document.get(key).and_then(Value::as_str);
    let place = objects.len() + 1;
    let (Some(_), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err(format!("object {place} has no apiVersion or no kind, so it is no Kubernetes object"));
    };
    match document.get("items") {
        Some(Value::Array(items)) if kind.ends_with("List") => {
            items.iter().cloned().try_for_each(|item| flatten(item, objects))
        }
        _ => {
            objects.push(document);
            Ok(())
        }
    }
}

/// An object as the webhook's view of `ContextManager`s wants it; nothing if it is none.
pub(crate) fn resource(object: &Value) -> Option<Result<DynamicObject, String>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "ContextManager" || !text("apiVersion").starts_with("contextmanager.dev/") {
        return None;
    }
    // A file may leave `spec` out, or say `spec:` alone.
    Some(serde_json::from_value(object.clone()).map_err(|error| format!("a ContextManager cannot be read: {error}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::answer::yaml;

    #[test]
    fn documents_and_lists_are_taken_apart_in_their_order() {
        let text = "apiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        let kinds: Vec<_> = parse(text).unwrap().iter().map(|object| object["kind"].clone()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn numbers_are_those_that_kubectl_reads_and_are_written_as_such() {
        let text = "# With the line ends of Windows.\r\napiVersion: v1\r\nkind: Pod\r\nmetadata: {annotations: {mode: \"0400\"}}\r\nspec:\r\n  secret: # The owner's alone.\r\n    defaultMode: 0400\r\n  configMap: {defaultMode: 0o755}\r\n  priority: 0\r\n  share: 0.5\r\n";
        let object = &parse(text).unwrap()[0];
        let spec = serde_json::json!({"secret": {"defaultMode": 0o400}, "configMap": {"defaultMode": 0o755}, "priority": 0, "share": 0.5});
        assert_eq!(object["spec"], spec);
        assert_eq!(object["metadata"]["annotations"]["mode"], "0400");
        assert_eq!(&parse(&yaml(object).unwrap()).unwrap()[0], object);
    }

    #[test]
    fn a_bundle_may_have_many_documents_and_aliases_and_long_comments() {
        let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
        text += &"# A line of a licence.\n".repeat(100);
        text += "- {apiVersion: v1, kind: Pod}\n";
        let metadata = "metadata: {labels: &all {team: a}, annotations: *all }";
        text += &format!("---\napiVersion: v1\nkind: ConfigMap\n{metadata}\n").repeat(2_000);
        let objects = parse(&text).unwrap();
        assert_eq!(objects.len(), 2_001);
        assert_eq!(objects[2_000]["metadata"]["annotations"]["team"], "a");
    }

    #[test]
    fn json_is_read_too() {
        assert_eq!(parse("{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}").unwrap()[0]["kind"], "Pod");
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        for (text, part) in
            [("", "no object"), ("a: [", "neither YAML nor JSON"), ("apiVersion: v1\nkind: A\n---\nx: 1\n", "object 2")]
        {
            let said = parse(text).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_word_in_quotes_stays_a_word() {
        let object = &parse("{apiVersion: v1, kind: Pod, metadata: {annotations: {a: \"true\", b: 'no'}}}").unwrap()[0];
        assert_eq!(object["metadata"]["annotations"], serde_json::json!({"a": "true", "b": "no"}));
    }
}
