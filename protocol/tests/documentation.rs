//! Pages of the documentation against the types that they describe.

use std::collections::BTreeSet;

use context_manager_protocol::config::SidecarConfig;

/// The keys of a configuration, also those that stand in a comment.
fn keys(toml: &str) -> BTreeSet<String> {
    let (mut keys, mut table) = (BTreeSet::new(), "");
    for line in toml.lines().map(|line| line.trim_start_matches("# ")) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap_or_default();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|character| character.is_ascii_lowercase() || character == '_')
        {
            keys.insert(if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    keys
}

#[test]
fn the_page_about_the_sidecar_says_of_every_key_whether_a_pod_can_have_it() {
    let page = include_str!("../../docs/sidecar.md");
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    // Access rules are an array of tables, which is one key.
    let shown = blocks.filter(|block| !block.contains("[[")).flat_map(keys);
    let written = keys(&SidecarConfig::embedded("memory").to_toml());
    let all: BTreeSet<String> = shown.chain(written).collect();
    assert!(all.contains("gc.interval") && all.contains("store.qdrant.url"), "{all:?}");
    for key in all {
        assert!(page.contains(&format!("\n| `{key}` |")), "docs/sidecar.md has no row for {key}");
    }
}
