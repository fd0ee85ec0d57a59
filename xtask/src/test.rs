//! `cargo xtask test`: every test of the project, and a last line that counts them. Before them, generated files are compared
//! with what the code makes, and the dev cluster is started and given the images: the suites run on the real parts.

use std::io::{BufRead as _, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, anyhow};

use crate::build::Release;
use crate::cluster::{self, ClusterArgs, Target};
use crate::paths::Home;
use crate::{cert_manager, demo, generate, images, real, schemathesis};

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    pub filter: Option<String>,
}

/// Sums of libtest's closing lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are marked as ignored, or left out because something that they need is not there.
    pub ignored: u64,
    /// Test programs that began and never came to their closing line: they crashed, or were killed.
    pub unfinished: u64,
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
    let mut cargo = release.cargo("test");
    cargo.arg("--no-fail-fast").env("CONTEXT_MANAGER_TEST_PROMTOOL", cluster::promtool(&home)?);
    cargo.env("CONTEXT_MANAGER_TEST_KUBECTL", cluster.kubectl().get_program());
    cargo.env("CONTEXT_MANAGER_TEST_HELM", cluster.helm().get_program());
    if let Some(kubeconfig) = cluster.kubeconfig() {
        cargo.env("CONTEXT_MANAGER_TEST_KUBECONFIG", kubeconfig);
    }
    if let Some(filter) = &args.filter {
        cargo.arg(filter);
    }
    let optional = [
        (schemathesis::VARIABLE, &[schemathesis::TEST][..], schemathesis::program(&home)),
        (cert_manager::VARIABLE, cert_manager::TESTS, cert_manager::folder()),
    ];
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut left_out = real::left_out(is_set);
    for (variable, tests, found) in optional {
        match found {
            Ok(found) => drop(cargo.env(variable, found)),
            Err(reason) => left_out.extend(tests.iter().map(|test| (*test, anyhow!("{reason:#}")))),
        }
    }
    if !left_out.is_empty() {
        cargo.arg("--").args(left_out.iter().flat_map(|(test, _)| ["--skip", *test]));
    }
    let (mut count, success) = stream(&mut cargo, &mut std::io::stdout())?;
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

/// Runs a test command, shows what it prints as it comes, and adds up its closing lines.
fn stream(command: &mut Command, shown: &mut impl Write) -> Result<(Count, bool)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("failed to start cargo; is it in PATH?")?;
    let mut count = Count::default();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            count.add(&String::from_utf8_lossy(&line));
        }
    }
    Ok((count, child.wait()?.success()))
}

impl Count {
    /// Adds a line such as `running 4 tests` or `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines count
    /// nothing.
    fn add(&mut self, line: &str) {
        if is_opening(line) {
            self.unfinished += 1;
            return;
        }
        let Some((_, figures)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        self.unfinished = self.unfinished.saturating_sub(1);
        for figure in figures.split("; ") {
            let Some((number, what)) = figure.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Why the run is no success, if it is none.
    fn complaint(&self, success: bool, filter: Option<&str>) -> Option<String> {
        let Self { passed, failed, ignored, unfinished } = *self;
        match (unfinished, failed, filter) {
            (1.., _, _) => {
                Some(format!("{unfinished} test programs ended before their tests did; each counts as a failure"))
            }
            (0, 1.., _) => Some(format!("{failed} tests failed")),
            (0, 0, _) if !success => {
                Some("cargo failed, so tests are missing in this count; its message stands above".to_owned())
            }
            (0, 0, Some(filter)) if passed == 0 && ignored > 0 => {
                Some(format!("every test with {filter:?} in its name was left out"))
            }
            (0, 0, Some(filter)) if passed == 0 => Some(format!("no test has {filter:?} in its name")),
            (0, 0, None) if passed == 0 => Some("no test ran".to_owned()),
            (0, 0, _) => None,
        }
    }
}

/// Whether this is libtest's first line, such as `running 1 test`.
fn is_opening(line: &str) -> bool {
    let words = line.strip_prefix("running ").and_then(|rest| rest.split_once(' '));
    words.is_some_and(|(number, what)| number.parse::<u64>().is_ok() && matches!(what, "test" | "tests"))
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

    #[test]
    fn closing_lines_are_added_up_and_nothing_else() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test 5 passed; 5 failed",
            "running late with 9 tests",
        ] {
            count.add(line);
        }
        assert_eq!(count, Count { passed: 5, failed: 4, ignored: 1, unfinished: 0 });
    }

    #[test]
    fn a_test_program_that_crashed_is_a_failure_of_the_last_line_too() {
        let mut shown = Vec::new();
        let mut command = Command::new("sh");
        let lines =
            "echo 'running 2 tests'; echo 'test result: ok. 2 passed; 0 failed'; echo 'running 1 test'; exit 101";
        let (count, success) = stream(command.args(["-c", lines]), &mut shown).expect("the shell runs everywhere");
        assert_eq!(count, Count { passed: 2, unfinished: 1, ..Count::default() });
        assert!(count.complaint(success, None).is_some_and(|said| said.contains("1 test programs")));
    }

    #[test]
    fn success_needs_a_test_that_passed_and_none_that_did_not() {
        let count = |passed, failed| Count { passed, failed, ..Count::default() };
        assert_eq!(count(3, 0).complaint(true, Some("x")), None);
        assert_eq!(count(3, 1).complaint(true, None).as_deref(), Some("1 tests failed"));
        assert_eq!(count(0, 0).complaint(true, Some("x")).as_deref(), Some("no test has \"x\" in its name"));
        assert!(count(0, 0).complaint(true, None).is_some());
        let skipped = Count { ignored: 1, ..Count::default() };
        assert_eq!(
            skipped.complaint(true, Some("x")).as_deref(),
            Some("every test with \"x\" in its name was left out"),
            "what was left out proves nothing"
        );
        assert!(count(3, 0).complaint(false, None).is_some(), "a crate did not compile");
    }

    #[test]
    fn a_failing_test_command_is_noticed() {
        let mut shown = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 1"]);
        let (count, success) = stream(&mut command, &mut shown).expect("the shell runs everywhere");
        assert_eq!((count.passed, success), (1, false));
        assert_eq!(shown, b"test result: ok. 1 passed; 0 failed\n");
    }
}
