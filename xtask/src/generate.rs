//! `cargo xtask generate`: the files that are made from code, and the check that they are what the code would make.
//!
//! Generated files are committed, so that a change of them is seen in review and the chart can be installed from a checkout.

#[cfg(test)]
mod chart;
#[cfg(test)]
mod health;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use similar::TextDiff;

use crate::build::Release;
use crate::paths::Home;
use crate::{command, paths};

/// Where the definition of the resource lies: with its types, and where helm and kustomize can reach it.
const DEFINITIONS: [&str; 3] = [
    "crds/crds/contextmanagers.contextmanager.dev.yaml",
    "charts/context-manager/files/crds/contextmanagers.contextmanager.dev.yaml",
    "deploy/kustomize/base/crds.yaml",
];
/// Where the description of the protocol lies.
const OPENAPI: &str = "docs/openapi.json";
/// Differing lines shown of one file; who wants all of them runs the command.
const MOST_LINES: usize = 40;

/// The command line of `cargo xtask generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write nothing; fail if a file is not what would be written
    #[arg(long)]
    check: bool,
}

/// A generated file.
struct Generated {
    /// Relative to the repository.
    path: &'static str,
    content: String,
}

/// Runs `cargo xtask generate`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let release = Release::new(&Home::find()?)?;
    // The handlers that the protocol's description is made from are in the sidecar, so the programs must be there.
    release.binaries()?;
    let files = generate(&release)?;
    if args.check { check(paths::repository(), &files) } else { write(paths::repository(), &files) }
}

/// The check alone, by programs that are built already.
pub fn check_by(release: &Release) -> Result<ExitCode> {
    check(paths::repository(), &generate(release)?)
}

fn generate(release: &Release) -> Result<Vec<Generated>> {
    let mut files = definitions(&mut Command::new(release.binary("crdgen")))?;
    files.push(description(Command::new(release.binary("context-manager-sidecar")).arg("openapi"))?);
    Ok(files)
}

fn definitions(crdgen: &mut Command) -> Result<Vec<Generated>> {
    let definition = command::output(crdgen)?;
    if !definition.contains("kind: CustomResourceDefinition") {
        bail!("crdgen printed something else than a CustomResourceDefinition");
    }
    Ok(DEFINITIONS.map(|path| Generated { path, content: definition.clone() }).into())
}

fn description(sidecar: &mut Command) -> Result<Generated> {
    let content = command::output(sidecar)?;
    if !content.contains("\"openapi\": \"3.1") {
        bail!("the sidecar printed something else than an OpenAPI document");
    }
    Ok(Generated { path: OPENAPI, content })
}

fn write(root: &Path, files: &[Generated]) -> Result<ExitCode> {
    for Generated { path, content } in files {
        let file = root.join(path);
        if read(&file)?.as_ref() == Some(content) {
            println!("unchanged {path}");
            continue;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, content).with_context(|| format!("failed to write {}", file.display()))?;
        println!("written   {path}");
    }
    Ok(ExitCode::SUCCESS)
}

fn check(root: &Path, files: &[Generated]) -> Result<ExitCode> {
    let mut outdated = 0;
    for Generated { path, content } in files {
        match read(&root.join(path))? {
            Some(found) if found == *content => {}
            Some(found) => {
                outdated += 1;
                eprintln!("error: {path} is out of date:\n{}", difference(&found, content));
            }
            None => {
                outdated += 1;
                eprintln!("error: {path} is missing");
            }
        }
    }
    if outdated > 0 {
        eprintln!("run `cargo xtask generate` and commit what it writes");
        return Ok(ExitCode::FAILURE);
    }
    println!("generated files: {} checked, all up to date", files.len());
    Ok(ExitCode::SUCCESS)
}

/// The content of a file; nothing if it does not exist.
fn read(file: &PathBuf) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", file.display())),
    }
}

/// The lines that differ, as a unified diff from what is there to what should be.
pub fn difference(found: &str, wanted: &str) -> String {
    let diff = TextDiff::from_lines(found, wanted).unified_diff().context_radius(1).to_string();
    let lines: Vec<&str> = diff.lines().collect();
    let shown = lines[..lines.len().min(MOST_LINES)].join("\n");
    match lines.len().saturating_sub(MOST_LINES) {
        0 => shown,
        more => format!("{shown}\n… and {more} more lines"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &str) -> Vec<Generated> {
        vec![Generated { path: "folder/file.yaml", content: content.to_owned() }]
    }

    #[test]
    fn what_was_written_is_up_to_date_until_the_code_makes_something_else() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let checked = |content| check(root.path(), &files(content)).expect("the check runs");
        assert_eq!(checked("one\n"), ExitCode::FAILURE, "a missing file is out of date");
        write(root.path(), &files("one\n")).expect("written");
        assert_eq!(checked("one\n"), ExitCode::SUCCESS);
        assert_eq!(checked("two\n"), ExitCode::FAILURE);
        assert_eq!(fs::read_to_string(root.path().join("folder/file.yaml")).expect("readable"), "one\n");
    }

    #[test]
    fn output_that_is_something_else_is_refused_and_never_written() {
        assert!(definitions(Command::new("echo").arg("warning: nothing to do")).is_err());
        assert!(description(Command::new("echo").arg("warning: nothing to do")).is_err());
    }

    #[test]
    fn a_long_difference_is_cut_and_says_so() {
        let many = "another line\n".repeat(100);
        let shown = difference("", &many);
        assert_eq!(shown.lines().count(), MOST_LINES + 1);
        assert!(shown.ends_with("more lines"), "{shown}");
        assert!(difference("a\nb\n", "a\nc\n").contains("-b\n+c"));
    }
}
