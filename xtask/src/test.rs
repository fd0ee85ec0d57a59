//! `cargo xtask test`: every test of the project, and a last line that counts them. Before them, generated files are compared
//! with what the code makes, and the dev cluster is started and given the images: the suites run on the real parts.

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow};

use self::lanes::Lanes;
use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use crate::{cert_manager, demo, generate, images, real, schemathesis};

mod count;
mod lanes;
mod stream;

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    pub filter: Option<String>,
}

/// Runs the tests and counts them. No test at all is a failure: a suite that runs nothing proves nothing.
pub fn run(args: &Args) -> Result<ExitCode> {
    let home = Home::find()?;
    let target = ClusterArgs { cluster: Target::Dev, image_prefix: "localhost".to_owned() };
    // The suites and a demo would see each other's webhook and controller. And a run of another checkout must be over before
    // the programs become this one's.
    let _lock = home.lock("installation")?;
    let release = Release::new(&home)?;
    let cluster = cluster::ensure(&target)?;
    demo::check_absent(&cluster)?;
    // The suites start the programs themselves, on this machine and as pods.
    let mut archives = images::build(&target)?;
    archives.extend(images::of_suites(&target)?);
    cluster::load_images(&cluster, &archives)?;
    // An upgrade needs another image to go to.
    let sidecar = target.image("context-manager-sidecar");
    cluster.name_image(&sidecar, &format!("{sidecar}-next"))?;
    if generate::check_by(&release)? != ExitCode::SUCCESS {
        return Ok(ExitCode::FAILURE);
    }
    let cargo = || release.cargo("test");
    let built =
        cargo().arg("--no-run").stdin(Stdio::null()).status().context("failed to start cargo; is it in PATH?")?;
    let mut environment: Vec<(&str, OsString)> = vec![
        ("CONTEXT_MANAGER_TEST_PROMTOOL", cluster::promtool(&home)?.into()),
        ("CONTEXT_MANAGER_TEST_KUBECTL", cluster.kubectl().get_program().to_owned()),
        ("CONTEXT_MANAGER_TEST_HELM", cluster.helm().get_program().to_owned()),
    ];
    environment.extend(cluster.kubeconfig().map(|kubeconfig| ("CONTEXT_MANAGER_TEST_KUBECONFIG", kubeconfig.into())));
    let optional = [
        (schemathesis::VARIABLE, &[schemathesis::TEST][..], schemathesis::program(&home)),
        (cert_manager::VARIABLE, cert_manager::TESTS, cert_manager::folder()),
    ];
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut left_out = real::left_out(is_set);
    for (variable, tests, found) in optional {
        match found {
            Ok(found) => environment.push((variable, found.into())),
            Err(reason) => left_out.extend(tests.iter().map(|test| (*test, anyhow!("{reason:#}")))),
        }
    }
    let select = |selected: &[String]| {
        let mut cargo = cargo();
        cargo.args(selected).arg("--no-fail-fast").args(&args.filter).arg("--");
        cargo.args(left_out.iter().flat_map(|(test, _)| ["--skip", *test])).envs(environment.clone());
        cargo
    };
    let mut lanes = Vec::new();
    if built.success() {
        let Lanes { cluster, beside } = Lanes::of_workspace()?;
        lanes = vec![vec![select(&cluster)], vec![select(&beside), select(&["--doc".to_owned()])]];
    }
    let (mut count, success) = stream::side_by_side(lanes, &Mutex::new(std::io::stdout()))?;
    let success = success && built.success();
    // Those that were not asked for are not missing.
    left_out.retain(|(test, _)| args.filter.as_deref().is_none_or(|filter| test.contains(filter)));
    for (test, reason) in left_out {
        count.ignored += 1;
        println!("skipped {test}: {reason:#}");
    }
    let complaint = count.complaint(success, args.filter.as_deref());
    if let Some(complaint) = &complaint {
        eprintln!("error: {complaint}");
    }
    println!("{}", qdrant_used(is_set));
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed + count.unfinished, count.ignored);
    Ok(if complaint.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On which Qdrant the suites of the store ran; each of the variables brings a real one.
fn qdrant_used(is_set: impl Fn(&str) -> bool) -> String {
    let server = |name| {
        if is_set(name) { format!("the real server of {name}") } else { format!("tests/qdrant, as {name} is not set") }
    };
    let contract = server("CONTEXT_MANAGER_TEST_QDRANT_URL");
    let nodes = if is_set(real::QDRANT) { "started" } else { "not started" };
    format!("Qdrant: contract on {contract}; outages on {}; nodes of a managed one: {nodes}", server(real::QDRANT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_which_server_the_suites_ran_on() {
        let without = qdrant_used(|_| false);
        assert_eq!(without.matches("tests/qdrant, as CONTEXT_MANAGER_TEST_QDRANT_").count(), 2, "{without}");
        let one = qdrant_used(|name| name.ends_with("_URL"));
        assert!(one.contains("contract on the real server of CONTEXT_MANAGER_TEST_QDRANT_URL; "), "{one}");
        assert!(one.contains("outages on tests/qdrant"), "{one}");
    }
}
