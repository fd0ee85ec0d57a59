//! Argo CD's health check of the resource, run by the interpreter that Argo CD itself uses (gopher-lua), on objects as the
//! operator leaves them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{command, paths, tool};

const HEALTH: &str = "deploy/argocd/health.lua";

/// The interpreter, built once by Go.
fn interpreter() -> Result<PathBuf> {
    tool::built_by_go("github.com/yuin/gopher-lua/cmd/glua", "v1.1.1")
}

/// A JSON value as a Lua expression.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(entries) => format!("{{{}}}", entries.iter().map(lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            fields.iter().fold("{".to_owned(), |mut text, (name, value)| {
                let _ = write!(text, "[{name:?}] = {}, ", lua(value));
                text
            }) + "}"
        }
    }
}

/// Status and message that the check gives for an object.
fn health(interpreter: &Path, object: &Value) -> Result<(String, String)> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("run.lua");
    let check = paths::repository().join(HEALTH);
    let text =
        format!("obj = {}\nlocal said = dofile({check:?})\nprint(said.status)\nprint(said.message)\n", lua(object));
    std::fs::write(&script, text)?;
    let said = command::output(Command::new(interpreter).arg(script))?;
    let (status, message) = said.trim_end().split_once('\n').context("a status and a message")?;
    Ok((status.to_owned(), message.to_owned()))
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": format!("about {reason}")})
}

fn object(observed: i64, conditions: &[Value]) -> Value {
    json!({
        "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
        "metadata": {"name": "memory", "generation": 2},
        "spec": {},
        "status": {"observedGeneration": observed, "conditions": conditions},
    })
}

#[test]
fn argo_cd_sees_what_the_conditions_say() -> Result<()> {
    let interpreter = interpreter()?;
    let ready = condition("Ready", "True", "Provisioned");
    let waiting = condition("Ready", "False", "WebhookMissing");
    let mut suspended = object(2, slice::from_ref(&ready));
    suspended["spec"]["suspend"] = json!(true);
    let mut deleted = object(2, slice::from_ref(&ready));
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut new = object(2, &[]);
    new["status"] = Value::Null;
    let stalled = [condition("Ready", "False", "SecretNotFound"), condition("Stalled", "True", "SecretNotFound")];
    for (case, object, status, message) in [
        ("new", new, "Progressing", "not looked at it"),
        ("ready", object(2, slice::from_ref(&ready)), "Healthy", "about Provisioned"),
        ("ready, of an earlier generation", object(1, &[ready]), "Progressing", "this generation"),
        (
            "waiting",
            object(2, &[waiting, condition("Reconciling", "True", "x")]),
            "Progressing",
            "WebhookMissing: about",
        ),
        ("needs a person", object(2, &stalled), "Degraded", "SecretNotFound: about SecretNotFound"),
        ("needs a person, before the last change", object(1, &stalled), "Progressing", "this generation"),
        ("suspended", suspended, "Suspended", "spec.suspend"),
        ("being deleted", deleted, "Progressing", "deleted"),
    ] {
        let (found, said) = health(&interpreter, &object)?;
        assert_eq!(found, status, "{case}: {said}");
        assert!(said.contains(message), "{case}: {said}");
    }
    Ok(())
}
