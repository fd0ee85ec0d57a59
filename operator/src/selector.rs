//! Label selectors, as the API server reads them: which namespaces a webhook is asked about. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// The label that every namespace has with its own name.
pub const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// The parts of a selector that labels do not meet, in words.
///
/// ```
/// use context_manager_operator::selector::{NAMESPACE, unmet};
///
/// let selector = serde_json::json!({"matchLabels": {NAMESPACE: "team"}});
/// let selector = serde_json::from_value(selector)?;
/// assert_eq!(unmet(&selector, &[(NAMESPACE.to_owned(), "other".to_owned())].into()), ["kubernetes.io/metadata.name=team"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[must_use]
pub fn unmet(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Vec<String> {
    let LabelSelector { match_labels, match_expressions } = selector;
    let pairs = match_labels.iter().flatten();
    let pair =
        pairs.filter(|(key, value)| labels.get(*key) != Some(value)).map(|(key, value)| format!("{key}={value}"));
    let expressions = match_expressions.iter().flatten();
    let expression = expressions.filter(|expression| !meets(expression, labels)).map(words);
    pair.chain(expression).collect()
}

/// Whether a selector leaves out a namespace by its name, whatever other labels that has.
pub(crate) fn leaves_out(selector: &LabelSelector, namespace: &str) -> bool {
    let mut named = selector.clone();
    named.match_labels.get_or_insert_default().retain(|key, _| key == NAMESPACE);
    named.match_expressions.get_or_insert_default().retain(|expression| expression.key == NAMESPACE);
    !unmet(&named, &[(NAMESPACE.to_owned(), namespace.to_owned())].into()).is_empty()
}

fn meets(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let LabelSelectorRequirement { key, operator, values } = requirement;
    let listed = |value: &String| values.iter().flatten().any(|listed| listed == value);
    match (operator.as_str(), labels.get(key)) {
        ("In", value) => value.is_some_and(listed),
        ("NotIn", value) => !value.is_some_and(listed),
        ("Exists", value) => value.is_some(),
        ("DoesNotExist", value) => value.is_none(),
        // The API server has no others.
        _ => false,
    }
}

fn words(LabelSelectorRequirement { key, operator, values }: &LabelSelectorRequirement) -> String {
    match values.as_deref() {
        Some(values) if !values.is_empty() => format!("{key} {operator} {}", values.join(", ")),
        Some(_) | None => format!("{key} {operator}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(selector: serde_json::Value, labels: &[(&str, &str)]) -> Vec<String> {
        let selector = serde_json::from_value(selector).expect("a selector");
        unmet(&selector, &labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_operator_is_read_as_the_api_server_reads_it() {
        let one = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        for (selector, labels, met) in [
            (one("In", &["1", "2"]), &[("a", "2")][..], true),
            (one("In", &["1"]), &[], false),
            (one("NotIn", &["1"]), &[], true),
            (one("NotIn", &["1"]), &[("a", "1")], false),
            (one("Exists", &[]), &[("a", "")], true),
            (one("DoesNotExist", &[]), &[("a", "")], false),
            (json!({}), &[], true),
            (json!({"matchLabels": {"a": "1"}}), &[("a", "1")], true),
            (json!({"matchLabels": {"a": "1"}}), &[("a", "2")], false),
        ] {
            assert_eq!(ask(selector.clone(), labels).is_empty(), met, "{selector} {labels:?}");
        }
    }

    #[test]
    fn what_is_not_met_is_named() {
        let selector = json!({"matchExpressions": [{"key": "name", "operator": "NotIn", "values": ["kube-system"]}]});
        assert_eq!(ask(selector, &[("name", "kube-system")]), ["name NotIn kube-system"]);
    }

    #[test]
    fn a_namespace_is_left_out_by_its_name_alone() {
        let expression =
            |operator: &str, values: &[&str]| json!({"key": NAMESPACE, "operator": operator, "values": values});
        let asks = json!({"key": "contextmanager.dev/inject", "operator": "In", "values": ["true"]});
        let of = |expressions: &[&serde_json::Value]| json!({"matchExpressions": expressions});
        let (excluded, watched) = (expression("NotIn", &["home", "closed"]), expression("In", &["team", "closed"]));
        for (selector, namespace, out) in [
            (of(&[&excluded, &asks]), "home", true),
            (of(&[&excluded, &asks]), "team", false),
            (of(&[&excluded, &watched]), "closed", true),
            (of(&[&excluded, &watched]), "other", true),
            (of(&[&excluded, &watched]), "team", false),
            (of(&[&asks]), "home", false),
            (json!({"matchLabels": {NAMESPACE: "team", "suite": "one"}}), "team", false),
            (json!({"matchLabels": {NAMESPACE: "team", "suite": "one"}}), "other", true),
            (json!({}), "team", false),
        ] {
            let read = serde_json::from_value(selector.clone()).expect("a selector");
            assert_eq!(leaves_out(&read, namespace), out, "{namespace} {selector}");
        }
    }
}
