//! `check`: whether Context Manager can be installed here, works as it should, or can be uninstalled.
//!
//! Every check is a finding of its own. One that cannot be made, most often for want of a right, says so and spoils nothing. Nothing is written:
//! the pod that proves injection is a dry run.

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

pub(crate) mod definition;
mod finding;
mod namespaces;
mod nodes;
mod probe;
mod programs;
mod resources;
mod rights;
mod uninstall;
mod webhook;

use std::fmt::Write as _;

use finding::{Finding, Findings, Level};

use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::Cluster,
    error::Error,
    operator,
    table::table,
};

/// Arguments of `check`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Check what an installation needs, also if one is there
    #[arg(long, conflicts_with = "installed")]
    before_install: bool,
    /// Check what an installation has, also if none is found
    #[arg(long)]
    installed: bool,
    /// Check what would wait for the operator, or be lost, if it were uninstalled
    #[arg(long, conflicts_with_all = ["before_install", "installed"])]
    before_uninstall: bool,
    /// Name of the MutatingWebhookConfiguration; all of Context Manager's when absent
    #[arg(long, value_name = "NAME")]
    webhook_configuration: Option<String>,
}

/// Checks.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let mut findings = Findings::default();
    // Without an API server nothing else can be said.
    nodes::api_server(cluster, &mut findings).await?;
    if args.before_uninstall {
        uninstall::check(cluster, &mut findings).await;
    } else {
        before_or_after(cluster, args, &mut findings).await;
    }
    let exit = Exit::unless(Health::all(findings.0.iter().map(|finding| finding.level != Level::Problem)));
    let text = output.write(&findings.0, |findings| page(findings))?;
    Ok(Answer::new(text, exit))
}

/// Before the installation, or after it.
async fn before_or_after(cluster: &Cluster, args: &Args, findings: &mut Findings) {
    nodes::nodes(cluster, findings).await;
    let registrations = operator::registrations(cluster).await.map(|mut all| {
        if let Some(name) = &args.webhook_configuration {
            all.retain(|found| found.metadata.name.as_ref() == Some(name));
        }
        all
    });
    let there = registrations.as_ref().is_ok_and(|found| !found.is_empty());
    if !args.before_install && (args.installed || there) {
        definition::check(cluster, findings).await;
        programs::check(cluster, findings).await;
        rights::of_operator(cluster, findings).await;
        webhook::check(cluster, registrations, findings).await;
        let visible = cluster.visible().await;
        namespaces::check(cluster, &visible, findings).await;
        resources::check(&visible, findings);
        probe::check(cluster, &visible, findings).await;
        rights::of_caller(cluster, findings).await;
    } else {
        rights::to_install(cluster, findings).await;
        definition::before(cluster, findings).await;
        namespaces::before(cluster, findings).await;
    }
}

fn page(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|Finding { level, check, message, .. }| [level.word().to_owned(), check.to_string(), message.clone()])
        .collect();
    let mut text = table(["", "CHECK", "FOUND"], &rows);
    let remedies: Vec<_> =
        findings.iter().filter_map(|finding| Some((finding.check, finding.remedy.as_ref()?))).collect();
    // Writing to a String cannot fail.
    if !remedies.is_empty() {
        text.push_str("\nWhat to do:\n");
    }
    for (check, remedy) in remedies {
        let _ = writeln!(text, "  {check}: {remedy}");
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings, unknown) = (count(Level::Problem), count(Level::Warning), count(Level::Unknown));
    let fine = count(Level::Fine);
    let _ = writeln!(text, "\nProblems: {problems}, warnings: {warnings}, not known: {unknown}, fine: {fine}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_line_for_each_finding_and_the_remedies_below() {
        let mut findings = Findings::default();
        findings.fine("nodes", "3 nodes");
        findings.problem("webhook", "none", "install the chart");
        let text = page(&findings.0);
        assert!(text.contains("ok        nodes     3 nodes\n"), "{text}");
        assert!(text.contains("  webhook: install the chart\n"), "{text}");
        assert!(text.ends_with("Problems: 1, warnings: 0, not known: 0, fine: 1\n"), "{text}");
    }
}
