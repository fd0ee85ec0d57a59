//! `report`: a support bundle, as one `tar.gz`.
//!
//! What is in it is chosen field by field ([`redact`]): of Secrets the names of keys and their lengths, of agents' containers the names, of
//! memory nothing. Before anything is written, every file is searched for credentials in URLs ([`mod@urls`]) and for the values of the Secrets
//! that were read, and for nothing else they are kept ([`redact::Scrubber`]).

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

mod archive;
mod collect;
mod events;
mod redact;
mod urls;

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    answer::{Answer, Exit, Output},
    cluster::Cluster,
    error::Error,
    table::pairs,
};

use collect::Collector;

/// Arguments of `report`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write it; `context-manager-report-TIME.tar.gz` here when absent
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most lines of each container's log
    #[arg(long, value_name = "LINES", default_value_t = 1000)]
    log_lines: i64,
    /// All namespaces with a ContextManager instead of the one
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// The files of the bundle by their paths.
pub(crate) type Files = BTreeMap<String, String>;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    file: PathBuf,
    files: usize,
    bytes: u64,
    /// Secret values that were found in a file and taken out of it. It should be none.
    scrubbed: usize,
    not_read: Vec<String>,
}

/// Collects, redacts and writes.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let mut collector = Collector::new(cluster, args.log_lines);
    collector.installation().await?;
    let (namespaces, less) = namespaces(cluster, args).await?;
    for namespace in namespaces {
        collector.namespace(&namespace).await;
    }
    let (mut files, secrets, not_read) = collector.finish();
    let scrubbed = files.values_mut().map(|text| secrets.scrub(text)).sum();
    // Logs, pages and messages may quote a URL that somebody wrote with a password.
    for text in files.values_mut() {
        *text = urls::without_credentials(text);
    }
    let now = Timestamp::now();
    let name = format!("context-manager-report-{}", now.strftime("%Y%m%d-%H%M%S"));
    let file = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let bytes = archive::write(&file, &name, &files, now)?;
    let written = Written { file, files: files.len(), bytes, scrubbed, not_read };
    let text = output.write(&written, |Written { file, files, bytes, scrubbed, not_read }| {
        let mut rows = vec![
            ("Report", file.display().to_string()),
            ("Holds", format!("{files} files, {bytes} bytes")),
            ("Secrets", format!("names and lengths alone; values taken out of other files: {scrubbed}")),
        ];
        rows.extend(not_read.iter().map(|what| ("Not read", what.clone())));
        pairs(&rows)
    })?;
    let note = "look through it before you send it: names of namespaces, pods, images and hosts are in it".to_owned();
    Ok(Answer::new(text, Exit::Fine).noting(less.into_iter().chain([note]).collect()))
}

/// The namespaces, and what is to be said of them.
async fn namespaces(cluster: &Cluster, args: &Args) -> Result<(Vec<String>, Option<String>), Error> {
    if !args.all_namespaces {
        return Ok((vec![cluster.namespace.clone()], None));
    }
    let visible = cluster.visible().await?;
    let note = visible.note();
    let mut names: Vec<_> = visible.found.into_iter().filter_map(|resource| resource.metadata.namespace).collect();
    names.sort();
    names.dedup();
    Ok((names, note))
}
