//! The sidecar's metrics: scraped through the API server, checked by promtool, and compared with what happened.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::answers::Said;
use super::kube::{Kube, wait_for};
use super::{AGENTS, agent, screen};
use crate::paths::Home;
use crate::{cluster, command};

const PORT: u16 = 7420;
/// What is shown of all that is scraped.
const SHOWN: [&str; 9] = [
    "context_manager_build_info",
    "context_manager_contexts{level=\"long_term\"}",
    "context_manager_requests_total{outcome=\"ok\",route=\"search\"}",
    "context_manager_requests_total{outcome=\"ok\",route=\"store_batch\"}",
    "context_manager_retrieve_duration_seconds_",
    "context_manager_store_duration_seconds_",
    "context_manager_tokens_returned_total{level=\"long_term\"}",
    "context_manager_resident_memory_bytes",
    "context_manager_vector_store_disk_bytes",
];

/// Scrapes the agent's sidecar and checks the figures.
pub fn scrape(kube: &Kube, home: &Home, said: &Said) -> Result<()> {
    let path = format!("/api/v1/namespaces/{AGENTS}/pods/{}:{PORT}/proxy/metrics", agent::pod(kube)?);
    let wanted = [
        ("context_manager_contexts{level=\"long_term\"}", said.remembered),
        // The sidecar of this pod served one run of the agent.
        ("context_manager_requests_total{outcome=\"ok\",route=\"search\"}", said.answers.len()),
    ];
    let text = wait_for("figures that agree with what happened", Duration::from_secs(30), || {
        let text = kube.ask(&["get", "--raw", &path])?;
        for (name, least) in wanted {
            let found = value(&text, name).with_context(|| format!("there is no {name}"))?;
            if found < f64::from(u32::try_from(least)?) {
                bail!("{name} is {found}, not {least}");
            }
        }
        Ok(Some(text))
    })?;
    screen::command("kubectl", ["get", "--raw", &path]);
    let is_shown = |line: &&str| SHOWN.iter().any(|name| line.starts_with(name)) && !line.contains("_bucket{");
    screen::output(&text.lines().filter(is_shown).collect::<Vec<_>>().join("\n"));
    println!("  … {} lines in all", text.lines().count());
    println!("$ kubectl get --raw … | promtool check metrics");
    let complaints =
        command::output_with_input(Command::new(cluster::promtool(home)?).args(["check", "metrics"]), &text)?;
    if !complaints.trim().is_empty() {
        bail!("promtool complains: {complaints}");
    }
    screen::checked("promtool has nothing to complain about, and the figures agree with what happened");
    Ok(())
}

/// The value of a series.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_that_of_the_whole_series_name() {
        let text = "# HELP a b\na_total{x=\"1\"} 7\na_total 9\n";
        assert_eq!(value(text, "a_total"), Some(9.0));
        assert_eq!(value(text, "a_total{x=\"1\"}"), Some(7.0));
        assert_eq!(value(text, "a"), None);
    }
}
