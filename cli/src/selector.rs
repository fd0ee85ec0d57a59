//! Label selectors, as the API server reads them: which namespaces a webhook is asked about.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// The parts of a selector that labels do not meet, in words.
pub(crate) fn unmet(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> Vec<String> {
    let LabelSelector { match_labels, match_expressions } = selector;
    let pairs = match_labels.iter().flatten();
    let pair =
        pairs.filter(|(key, value)| labels.get(*key) != Some(value)).map(|(key, value)| format!("{key}={value}"));
    let expressions = match_expressions.iter().flatten();
    let expression = expressions.filter(|expression| !meets(expression, labels)).map(words);
    pair.chain(expression).collect()
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
}
