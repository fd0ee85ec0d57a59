//! `completion`: scripts for shells, and the answers that kubectl wants of a plugin.
//!
//! Shells complete `kubectl-context …` by a script of their own. For `kubectl context …` kubectl calls a program named
//! `kubectl_complete-context` with the words so far; it prints candidates, and at the end a directive, as Cobra does.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::answer::{Answer, Exit};

/// The words of kubectl's question begin with this program's own arguments.
const SCRIPT: &str = "#!/usr/bin/env sh\n# Save as kubectl_complete-context beside kubectl-context, and make it executable.\nexec kubectl-context __complete -- \"$@\"\n";
/// Cobra's directive: no file names.
const NO_FILES: &str = ":4";
/// Cobra's directive: as the shell likes, that is file names.
const DEFAULT: &str = ":0";

/// Arguments of `completion`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// For whom
    #[arg(value_enum)]
    shell: Target,
}

/// Who completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// A script named kubectl_complete-context, by which kubectl completes `kubectl context`
    Kubectl,
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// The words so far; the last one is unfinished.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Words {
    #[arg(last = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Writes the script.
pub(crate) fn run(args: Args) -> Answer {
    let shell = match args.shell {
        Target::Kubectl => return Answer::new(SCRIPT, Exit::Fine),
        Target::Bash => Shell::Bash,
        Target::Elvish => Shell::Elvish,
        Target::Fish => Shell::Fish,
        Target::Powershell => Shell::PowerShell,
        Target::Zsh => Shell::Zsh,
    };
    let mut script = Vec::new();
    let mut command = crate::Args::command().bin_name("kubectl-context");
    clap_complete::generate(shell, &mut command, "kubectl-context", &mut script);
    Answer::new(String::from_utf8_lossy(&script), Exit::Fine)
}

/// Answers kubectl.
pub(crate) fn complete(Words { words }: &Words) -> Answer {
    let root = crate::Args::command();
    let (unfinished, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut here = &root;
    for word in before {
        here = here.find_subcommand(word).unwrap_or(here);
    }
    let previous = before.last().map(String::as_str).unwrap_or_default();
    let (candidates, directive) = match values(&root, here, previous) {
        Some(values) if values.is_empty() => (values, DEFAULT),
        Some(values) => (values, NO_FILES),
        None if unfinished.starts_with('-') => (flags(&root, here), NO_FILES),
        None => (subcommands(here), NO_FILES),
    };
    let fitting = candidates.into_iter().filter(|candidate| candidate.starts_with(unfinished));
    Answer::new(fitting.chain([directive.to_owned()]).map(|line| line + "\n").collect::<String>(), Exit::Fine)
}

/// The values that a flag takes, if the word before is one; none of them when anything goes.
fn values(root: &Command, here: &Command, previous: &str) -> Option<Vec<String>> {
    let named = |arg: &&clap::Arg| {
        let long = arg.get_long().is_some_and(|long| previous.strip_prefix("--") == Some(long));
        let short = arg.get_short().is_some_and(|short| previous.strip_prefix('-') == Some(short.to_string().as_str()));
        (long || short) && arg.get_action().takes_values()
    };
    let arg = here.get_arguments().chain(root.get_arguments()).find(named)?;
    Some(arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect())
}

fn flags(root: &Command, here: &Command) -> Vec<String> {
    let all = here.get_arguments().chain(root.get_arguments());
    let mut flags: Vec<_> =
        all.filter(|arg| !arg.is_hide_set()).filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    flags.sort();
    flags.dedup();
    flags
}

fn subcommands(here: &Command) -> Vec<String> {
    let positional = here.get_positionals().flat_map(clap::Arg::get_possible_values);
    let values = positional.map(|value| value.get_name().to_owned());
    let commands =
        here.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| command.get_name().to_owned());
    commands.chain(values).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str]) -> Vec<String> {
        let words = Words { words: words.iter().map(|word| (*word).to_owned()).collect() };
        complete(&words).text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn kubectl_is_told_subcommands_flags_and_values() {
        assert_eq!(ask(&["ex"]), ["explain", "export", ":4"]);
        assert_eq!(ask(&["rotate", "k"]), ["keys", ":4"]);
        assert_eq!(ask(&["completion", "z"]), ["zsh", ":4"]);
        assert_eq!(ask(&["check", "--before-i"]), ["--before-install", ":4"]);
        assert_eq!(ask(&["status", "-o", ""]), ["table", "json", "yaml", ":4"]);
        assert_eq!(ask(&["inject", "--file", ""]), [":0"], "file names are the shell's");
        assert!(!ask(&[""]).contains(&"__complete".to_owned()));
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_subcommands() {
        for shell in [Target::Bash, Target::Elvish, Target::Fish, Target::Powershell, Target::Zsh] {
            let script = run(Args { shell }).text;
            assert!(script.contains("explain") && script.contains("before-install"), "{shell:?}");
        }
        assert!(run(Args { shell: Target::Kubectl }).text.starts_with("#!"));
    }
}
