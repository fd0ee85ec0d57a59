//! The workflows of the forge: they cannot run on a developer's machine, so what can be known without running them is checked.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{cluster, command, paths, tool};

/// What actionlint says about a workflow; nothing is praise.
fn complaints(workflow: &str) -> Result<String> {
    let program = tool::built_by_go("github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12")?;
    let mut linter = Command::new(program)
        .args(["-no-color", "-oneline", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    linter.stdin.take().context("its input")?.write_all(workflow.as_bytes())?;
    let output = linter.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() == said.is_empty(), "actionlint ended with {} and said {said:?}", output.status);
    Ok(said)
}

/// The actions of a workflow that are not named by a commit. A tag can be moved to other code.
fn movable(workflow: &str) -> Vec<&str> {
    let uses = workflow.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "));
    let is_commit = |uses: &&str| {
        let commit = uses.split_once('@').and_then(|(_, rest)| rest.split(' ').next());
        commit.is_some_and(|commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    // What is in this repository is of the same commit.
    uses.filter(|uses| !uses.starts_with("./") && !is_commit(uses)).collect()
}

/// The pipes of a workflow whose first part may fail unnoticed: only a shell that is named comes with `pipefail`.
fn leaky(workflow: &str) -> Vec<&str> {
    if workflow.contains("\n  run:\n") && workflow.contains("\n    shell: bash\n") {
        return Vec::new();
    }
    workflow.lines().filter(|line| !line.trim().starts_with('#') && line.contains(" | ")).collect()
}

#[test]
fn the_workflows_are_valid_and_use_actions_by_commit() -> Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(paths::repository().join(".github/workflows"))? {
        let path = entry?.path();
        let workflow = fs::read_to_string(&path)?;
        let said = complaints(&workflow)?;
        ensure!(said.is_empty(), "{}: {said}", path.display());
        ensure!(movable(&workflow).is_empty(), "{}: {:?}", path.display(), movable(&workflow));
        ensure!(leaky(&workflow).is_empty(), "{} has no `shell: bash`: {:?}", path.display(), leaky(&workflow));
        seen += 1;
    }
    ensure!(seen >= 2, "only {seen} workflows were found");
    Ok(())
}

/// The jobs of a workflow that run before one of them, from the nearest on.
fn before<'a>(workflow: &'a serde_json::Value, job: &'a str) -> Vec<&'a str> {
    let needs = |job: &str| workflow["jobs"][job]["needs"].as_str();
    std::iter::successors(needs(job), |job| needs(job)).collect()
}

#[test]
fn nothing_is_released_before_the_tests_have_passed() -> Result<()> {
    let read = |name: &str| -> Result<serde_json::Value> {
        let text = fs::read_to_string(paths::repository().join(".github/workflows").join(name))?;
        Ok(serde_saphyr::from_str(&text)?)
    };
    let release = read("release.yml")?;
    let jobs = release["jobs"].as_object().context("jobs")?;
    for job in jobs.keys().filter(|job| *job != "test") {
        ensure!(before(&release, job).contains(&"test"), "the job {job} does not wait for the tests");
    }
    ensure!(release["jobs"]["test"]["uses"] == "./.github/workflows/ci.yml", "{}", release["jobs"]["test"]);
    let ci = read("ci.yml")?;
    ensure!(ci["on"].get("workflow_call").is_some(), "ci.yml cannot be called: {}", ci["on"]);
    Ok(())
}

/// The release's own words, as far as they need no registry.
#[test]
fn the_packaged_chart_takes_the_images_of_its_release() -> Result<()> {
    let release = fs::read_to_string(paths::repository().join(".github/workflows/release.yml"))?;
    let release: serde_json::Value = serde_saphyr::from_str(&release)?;
    let steps = release["jobs"]["release"]["steps"].as_array().context("steps")?;
    let step = steps.iter().find(|step| step["name"] == "The chart").context("the step")?;
    let (script, _) =
        step["run"].as_str().and_then(|run| run.split_once("helm push")).context("it pushes the chart")?;
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("release"))?;
    let helm = cluster::helm_program(&paths::Home::find()?)?;
    let copied =
        Command::new("cp").args(["-r", "charts"]).arg(folder.path()).current_dir(paths::repository()).status()?;
    ensure!(copied.success(), "cp ended with {copied}");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        helm.parent().map(std::path::Path::to_owned).into_iter().chain(std::env::split_paths(&path)),
    )?;
    let version = env!("CARGO_PKG_VERSION");
    let mut shell = Command::new("bash");
    shell.args(["-eo", "pipefail", "-c", script]).current_dir(folder.path()).env("PATH", path);
    shell.env("IMAGE_PREFIX", "registry.example.com/team").env("VERSION", format!("v{version}"));
    let done = shell.status()?;
    ensure!(done.success(), "the step ended with {done}");
    let package = folder.path().join(format!("release/context-manager-{version}.tgz"));
    let mut template = Command::new(&helm);
    template.arg("template").arg("memory").arg(package).args([
        "--kube-version",
        cluster::KUBERNETES,
        "--set",
        "crds.install=false",
    ]);
    let rendered = command::output(&mut template)?;
    let names = ["context-manager-operator:", "context-manager-sidecar:"];
    let images: Vec<_> = rendered.lines().filter(|line| names.iter().any(|name| line.contains(name))).collect();
    let ours = |line: &&&str| line.contains("registry.example.com/team/context-manager-");
    ensure!(images.len() >= 4 && images.iter().all(|line| ours(&line)), "{images:?}");
    Ok(())
}

#[test]
fn a_mistake_in_a_workflow_is_found() -> Result<()> {
    let release = fs::read_to_string(paths::repository().join(".github/workflows/release.yml"))?;
    let said = complaints(&release.replace("needs: images", "needs: imagse"))?;
    ensure!(said.contains("imagse"), "{said:?}");
    ensure!(movable("    - uses: actions/checkout@v7\n") == ["actions/checkout@v7"]);
    let unnamed = release.replace("    shell: bash\n", "");
    ensure!(leaky(&unnamed).iter().any(|line| line.contains("tee archives")), "{:?}", leaky(&unnamed));
    Ok(())
}
