//! Test commands side by side: what each suite says stands together, and all of it is counted.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use super::count::{Count, is_closing, is_opening};

/// Commands that follow one another, whatever becomes of those before.
pub type Lane = Vec<Command>;

/// Runs the lanes at the same time, shows what they print suite by suite, and adds up the closing lines. True if all commands went well.
pub fn side_by_side(lanes: Vec<Lane>, shown: &Mutex<impl Write + Send>) -> Result<(Count, bool)> {
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(|| follow(lane, shown))).collect();
        running.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
    });
    let mut all = (Count::default(), true);
    for outcome in outcomes {
        let (count, success) = outcome?;
        all = (all.0 + count, all.1 && success);
    }
    Ok(all)
}

fn follow(lane: Lane, shown: &Mutex<impl Write + Send>) -> Result<(Count, bool)> {
    let mut all = (Count::default(), true);
    for mut command in lane {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().context("failed to start cargo; is it in PATH?")?;
        let (count, success) = run(child, shown)?;
        all = (all.0 + count, all.1 && success);
    }
    Ok(all)
}

fn run(mut child: Child, shown: &Mutex<impl Write + Send>) -> Result<(Count, bool)> {
    let page = Mutex::new(Page { lines: Vec::new(), is_open: false, count: Count::default(), shown });
    let locked = || page.lock().unwrap_or_else(PoisonError::into_inner);
    let (said, noted) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let writer = scope.spawn(|| each_line(noted, |line| locked().note(line)));
        each_line(said, |line| locked().say(line))?;
        writer.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
    })?;
    let success = child.wait()?.success();
    let mut page = page.into_inner().unwrap_or_else(PoisonError::into_inner);
    page.turn()?;
    Ok((page.count, success))
}

fn each_line(pipe: Option<impl Read>, mut act: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
        act(&line?)?;
    }
    Ok(())
}

/// What a command printed of the suite that it is at, and what was counted so far.
struct Page<'s, W> {
    lines: Vec<u8>,
    is_open: bool,
    count: Count,
    shown: &'s Mutex<W>,
}

impl<W: Write> Page<'_, W> {
    /// A line of the standard output: libtest's.
    fn say(&mut self, line: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(line);
        self.count.read(&text);
        self.is_open = !is_closing(&text) && (self.is_open || is_opening(&text));
        self.add(line)
    }

    /// A line of the standard error: cargo's, or a test's.
    fn note(&mut self, line: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_start();
        if text.starts_with("Running ") || text.starts_with("Doc-tests ") {
            // Shown at once, behind what is left of the one before: whoever ends a run that hangs sees where it is.
            self.is_open = false;
            self.add(line)?;
            self.is_open = true;
            return Ok(());
        }
        self.add(line)
    }

    fn add(&mut self, line: &[u8]) -> Result<()> {
        self.lines.extend(line);
        self.lines.push(b'\n');
        if self.is_open { Ok(()) } else { self.turn() }
    }

    /// Shows what was collected.
    fn turn(&mut self) -> Result<()> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.write_all(&self.lines)?;
        shown.flush()?;
        self.lines.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn stream(lanes: Vec<Lane>) -> (Count, bool, String) {
        let shown = Mutex::new(Vec::new());
        let (count, success) = side_by_side(lanes, &shown).expect("the shell runs everywhere");
        let shown = shown.into_inner().expect("nobody panicked");
        (count, success, String::from_utf8(shown).expect("text"))
    }

    #[test]
    fn a_test_program_that_crashed_is_a_failure_of_the_last_line_too() {
        let lines =
            "echo 'running 2 tests'; echo 'test result: ok. 2 passed; 0 failed'; echo 'running 1 test'; exit 101";
        let (count, success, shown) = stream(vec![vec![shell(lines)]]);
        assert_eq!(count, Count { passed: 2, unfinished: 1, ..Count::default() });
        assert!(count.complaint(success, None).is_some_and(|said| said.contains("1 test programs")));
        assert!(shown.ends_with("running 1 test\n"), "{shown}");
    }

    #[test]
    fn a_failing_command_is_noticed_and_holds_up_none_after_it() {
        let failing = shell("echo 'test result: ok. 1 passed; 0 failed'; exit 1");
        let (count, success, shown) = stream(vec![vec![failing, shell("echo 'test result: ok. 2 passed'")]]);
        assert_eq!((count.passed, success), (3, false));
        assert_eq!(shown, "test result: ok. 1 passed; 0 failed\ntest result: ok. 2 passed\n");
    }

    #[test]
    fn suites_that_run_at_the_same_time_are_shown_one_by_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let gate = folder.path().join("gate").display().to_string();
        // The first one begins, and goes on when the other one is over.
        let first = format!(
            "echo 'running 1 test'; while ! test -e {gate}; do sleep 0.01; done; \
             echo 'test one ... ok'; echo 'test result: ok. 1 passed'"
        );
        let other =
            format!("echo 'running 1 test'; echo 'test other ... ok'; echo 'test result: ok. 1 passed'; touch {gate}");
        let (count, success, shown) = stream(vec![vec![shell(&first)], vec![shell(&other)]]);
        assert_eq!((count, success), (Count { passed: 2, ..Count::default() }, true));
        let [a, b] = ["test other ... ok\ntest result: ok. 1 passed\n", "test one ... ok\ntest result: ok. 1 passed\n"];
        assert!(shown.find(a) < shown.find(b) && shown.contains(a), "{shown}");
        assert!(!shown.contains("ok. 1 passed\ntest one"), "{shown}");
    }

    #[test]
    fn a_suite_is_named_when_it_begins() {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let folder = tempfile::tempdir().expect("a folder");
        let gate = folder.path().join("gate");
        let script =
            format!("echo '     Running tests/a.rs (a)' >&2; while ! test -e {}; do sleep 0.01; done", gate.display());
        let run = thread::spawn({
            let shown = Arc::clone(&shown);
            move || side_by_side(vec![vec![shell(&script)]], &shown).expect("the shell runs everywhere")
        });
        while shown.lock().expect("nobody panicked").is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(*shown.lock().expect("nobody panicked"), b"     Running tests/a.rs (a)\n");
        std::fs::write(gate, "").expect("written");
        assert!(run.join().expect("it ends").1);
    }
}
