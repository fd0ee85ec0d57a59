//! What a person sees: numbered steps, the commands as they would be typed, what they printed, and how long it took.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{AGENTS, Args, SYSTEM};
use crate::cluster::Target;
use crate::progress::human;

/// Steps of a whole run, without those that only some runs have.
const STEPS: usize = 13;

/// The steps so far.
pub struct Screen {
    started: Instant,
    total: usize,
    number: usize,
    times: Vec<(String, Duration)>,
    skipped: Vec<String>,
}

impl Screen {
    pub fn new(args: &Args) -> Self {
        let total = STEPS - usize::from(args.keep);
        Self { started: Instant::now(), total, number: 0, times: Vec::new(), skipped: Vec::new() }
    }

    /// Announces a step, does it, and notes its time.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.number += 1;
        println!("\n==> {} of {}: {title}", self.number, self.total);
        self.timed(title, work)
    }

    /// A step that most runs do not have, and that has no number.
    pub fn extra_step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n==> {title}");
        self.timed(title, work)
    }

    /// Says that a step and those that build on it are left out, and why.
    pub fn skip(&mut self, title: &str, reason: &str) {
        self.number += 1;
        println!("\n==> {} of {}: {title}\nNOT DONE: {reason}", self.number, self.total);
        self.skipped.push(title.to_owned());
        self.number += 1;
    }

    /// The step under way or done last.
    pub fn current(&self) -> &str {
        self.times.last().map_or("before the first step", |(title, _)| title)
    }

    /// How long each step took, and all of them.
    pub fn summary(&self) {
        println!("\n==> All of it happened. How long it took:");
        for (title, time) in &self.times {
            println!("{:>12}  {title}", human(*time));
        }
        println!("{:>12}  in all", human(self.started.elapsed()));
        for title in &self.skipped {
            println!("    NOT DONE  {title}");
        }
    }

    fn timed<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        self.times.push((title.to_owned(), Duration::ZERO));
        let done = work().with_context(|| format!("the step {title:?} failed"))?;
        if let Some((_, time)) = self.times.last_mut() {
            *time = started.elapsed();
        }
        Ok(done)
    }
}

/// Shows a command before it runs.
pub fn command<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) {
    let words: Vec<_> = arguments.into_iter().map(|word| quoted(&word.as_ref().to_string_lossy())).collect();
    println!("$ {program} {}", words.join(" "));
}

/// Shows what a command printed.
pub fn output(text: &str) {
    for line in text.trim_end().lines() {
        println!("  {line}");
    }
}

/// States a fact that was checked just now.
pub fn checked(fact: &str) {
    println!("✓ {fact}");
}

/// Explains what follows.
pub fn note(text: &str) {
    println!("# {text}");
}

/// What to try when everything is left running.
pub fn next_steps(target: Target) -> String {
    let environment = match target {
        Target::Dev => {
            "eval \"$(cargo xtask cluster env)\"          # this shell's kubectl and helm now use the cluster\n  "
        }
        Target::Current => "",
    };
    format!(
        "\nEverything is still running. What to try:\n  {environment}\
         kubectl -n {AGENTS} exec deployment/agent -c agent -- /context-manager-example-agent ask --question 'What is it for?'\n  \
         kubectl -n {AGENTS} get contextmanager memory -o yaml\n  \
         kubectl -n {AGENTS} get pod -l app=agent -o yaml\n  \
         kubectl -n {AGENTS} logs deployment/agent -c context-manager\n  \
         kubectl -n {SYSTEM} logs deployment/context-manager-controller\n  \
         cargo xtask demo --clean                     # removes all of it"
    )
}

/// The word as a shell would need it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_words_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("--for=condition=Ready"), "--for=condition=Ready");
        assert_eq!(quoted("What's it?"), r"'What'\''s it?'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn an_error_names_its_step() {
        let args = clap_args(&[]);
        let mut screen = Screen::new(&args);
        let error = screen.step("Install", || anyhow::bail!("no helm") as Result<()>).expect_err("it failed");
        assert_eq!(format!("{error:#}"), "the step \"Install\" failed: no helm");
        assert_eq!(screen.current(), "Install");
    }

    fn clap_args(more: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            args: Args,
        }
        <Command as clap::Parser>::try_parse_from([&["demo"], more].concat()).expect("valid").args
    }
}
