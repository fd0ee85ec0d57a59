//! Whether the user's pages have every name that the controller and the webhook show. The names are read from the sources: what has not
//! happened yet is neither in a registry nor in a status.

use std::{collections::BTreeSet, fs, path::Path};

const METRICS: &str = include_str!("../../docs/metrics.md");
const RESOURCE: &str = include_str!("../../docs/resource.md");
const INJECTION: &str = include_str!("../../docs/injection.md");

/// What stands before a reason of a condition, or of an event.
const BEFORE_REASONS: [&str; 10] = [
    "Good(",
    "Trouble::stalled(",
    "Trouble::passing(",
    ".or_refused(",
    "waits(",
    "done(",
    "reason: ",
    ".tell(plan, ",
    ".warn(plan, ",
    ".warn_about(metadata, ",
];

/// The sources below a folder of this crate, without their tests.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
            if path.is_dir() {
                folders.extend((!is_test).then_some(path));
            } else if !is_test {
                let text = fs::read_to_string(&path).expect("a source");
                found.extend(text.split("mod tests {").next().map(str::to_owned));
            }
        }
    }
    found
}

/// A text in quotes at the beginning, if it is one word in `CamelCase`.
fn reason(rest: &str) -> Option<&str> {
    let (word, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_reason = word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_reason.then_some(word)
}

#[test]
fn every_metric_is_in_the_page_about_metrics() {
    let is_name = |text: &&str| {
        let rest = text.strip_prefix("context_manager_").unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let sources = [sources("controller"), sources("webhook")].concat();
    let names: BTreeSet<_> = sources.iter().flat_map(|text| text.split('"').filter(is_name)).collect();
    assert!(names.len() > 30, "only these names were found: {names:?}");
    for name in names {
        assert!(METRICS.contains(&format!("\n| `{name}` |")), "docs/metrics.md has no row for {name}");
    }
}

#[test]
fn every_condition_and_event_is_in_the_page_about_the_resource() {
    let (_, page) = RESOURCE.split_once("\n## Status\n").expect("docs/resource.md has a chapter on the status");
    let sources = sources("controller");
    let mut reasons = BTreeSet::new();
    for text in &sources {
        for before in BEFORE_REASONS {
            reasons.extend(text.split(before).skip(1).filter_map(reason));
        }
    }
    assert!(reasons.len() > 80, "only these reasons were found: {reasons:?}");
    let missing: Vec<_> = reasons.into_iter().filter(|reason| !page.contains(&format!("`{reason}`"))).collect();
    assert!(missing.is_empty(), "docs/resource.md lacks {missing:?}");
}

#[test]
fn every_reason_of_a_decision_is_in_the_page_about_injection() {
    let (_, page) = INJECTION.split_once("\n## Reasons\n").expect("docs/injection.md has a chapter on reasons");
    let words = include_str!("inject/reason.rs").split(" => ").skip(1).filter_map(reason);
    let reasons: Vec<_> = words.collect();
    assert!(reasons.len() > 20, "only these reasons were found: {reasons:?}");
    for reason in reasons {
        assert!(page.contains(&format!("`{reason}`")), "docs/injection.md lacks {reason}");
    }
}
