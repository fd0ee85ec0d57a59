//! kubectl and helm as the demo uses them: shown when a person would type the command, silent when the demo only looks.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::screen;
use crate::cluster::ClusterHandle;
use crate::{command, paths};

/// Pause between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A cluster, and how to talk to it.
pub struct Kube {
    /// The cluster itself.
    pub cluster: ClusterHandle,
}

impl Kube {
    pub const fn new(cluster: ClusterHandle) -> Self {
        Self { cluster }
    }

    /// Shows a kubectl command, runs it, and shows what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let said = self.run_quietly(arguments)?;
        screen::output(&said);
        Ok(said)
    }

    /// Shows a kubectl command and runs it; its output is for the caller to show.
    pub fn run_quietly(&self, arguments: &[&str]) -> Result<String> {
        screen::command("kubectl", arguments);
        self.ask(arguments)
    }

    /// Shows and runs `kubectl apply -f -` with a manifest made for this run, which is shown too.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        screen::command("kubectl", ["apply", "-f", "-"]);
        screen::output(manifest);
        let mut kubectl = self.cluster.kubectl();
        let said = command::output_with_input(kubectl.args(["apply", "-f", "-"]), manifest)?;
        screen::output(&said);
        Ok(())
    }

    /// Applies a file of the repository; `change` says how the file is edited on the way, as a shell would do it.
    pub fn apply_file(&self, file: &str, change: &Change) -> Result<()> {
        let Change { filter, text } = change;
        let mut kubectl = self.cluster.kubectl();
        let said = match text {
            None => {
                screen::command("kubectl", ["apply", "-f", file]);
                command::output(kubectl.current_dir(paths::repository()).args(["apply", "-f", file]))?
            }
            Some(text) => {
                println!("$ {filter} {file} | kubectl apply -f -");
                command::output_with_input(kubectl.args(["apply", "-f", "-"]), text)?
            }
        };
        screen::output(&said);
        Ok(())
    }

    /// Shows a helm command, runs it in the repository, and shows what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        screen::command("helm", arguments);
        let said = command::output(self.cluster.helm().current_dir(paths::repository()).args(arguments))?;
        screen::output(&said);
        Ok(said)
    }

    /// Runs kubectl without showing it.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.cluster.kubectl().current_dir(paths::repository()).args(arguments))
    }

    /// Reads an object, or a list of them, without showing it.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.ask(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&said).with_context(|| format!("kubectl printed something else than JSON: {arguments:?}"))
    }

    /// Whether an object exists. An API server that does not know its kind answers that as well.
    pub fn exists(&self, kind: &str, name: &str) -> Result<bool> {
        let found = self.ask(&["get", kind, name, "--ignore-not-found", "-o", "name"]);
        match found {
            Ok(name) => Ok(!name.trim().is_empty()),
            Err(error) if error.to_string().contains("doesn't have a resource type") => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How a file is changed before it is applied.
pub struct Change {
    /// The command that a person would put before the file's name.
    pub filter: String,
    /// What comes of it; nothing when the file is applied as it is.
    pub text: Option<String>,
}

/// Looks until `look` finds something; a look that fails counts as one that found nothing, and its error is told in the end.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let found = look();
        if let Ok(Some(found)) = found {
            return Ok(found);
        }
        if started.elapsed() >= patience {
            found.with_context(|| format!("waited {} s for {what}", patience.as_secs()))?;
            bail!("waited {} s for {what}, in vain", patience.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The text at a JSON pointer; the error names the place.
pub fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("the object has no text at {pointer}"))
}

/// The items of a list or array at a JSON pointer; none when it is absent.
pub fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_what_was_found_or_with_the_last_error() {
        let mut looks = 0;
        let found = wait_for("three looks", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.expect("found"), 3);
        let error = wait_for("it", Duration::ZERO, || bail!("refused") as Result<Option<()>>).expect_err("never there");
        assert_eq!(format!("{error:#}"), "waited 0 s for it: refused");
    }
}
