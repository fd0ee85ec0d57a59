//! `rotate`: asks the operator for a new key, or the webhook for a new CA, and follows what becomes of it.
//!
//! Nothing is made here: an annotation asks, and the operator does the steps (`docs/rotation.md`).

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

use std::time::Duration;

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    answer::{Answer, Exit, Output},
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
    status::summary,
    table::pairs,
};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `rotate`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Follow the rotation until the new key signs, or the new CA does
    #[arg(long, global = true)]
    wait: bool,
    /// How long to follow it, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// What is rotated.
#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// The key that the agents of a ContextManager sign with
    Keys {
        /// Name of the ContextManager
        name: String,
    },
    /// The CA of the webhook's certificates
    Ca {
        /// Name of its Secret; that of the installed webhook when absent
        #[arg(long, value_name = "NAME")]
        secret: Option<String>,
    },
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    what: String,
    request: String,
    /// What signed before.
    before: String,
    /// What signs now; only known after waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<String>,
    state: String,
}

/// Asks, and follows if asked to.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    let patience = args.wait.then(|| Duration::from_secs(args.timeout));
    match &args.what {
        What::Keys { name } => keys(cluster, name, patience, output).await,
        What::Ca { secret } => authority(cluster, secret.clone(), patience, output).await,
    }
}

async fn keys(cluster: &Cluster, name: &str, patience: Option<Duration>, output: Output) -> Result<Answer, Error> {
    let found = cluster.resource(name).await?;
    refuse_what_cannot_be_done(&found)?;
    let before = active(&found).ok_or_else(|| {
        Error::Refused(format!(
            "{name:?} has no key yet; look at `kubectl context status {name} -n {}`",
            cluster.namespace
        ))
    })?;
    let request = request();
    let annotate = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: request}}}));
    let api = cluster.resources_of(&cluster.namespace);
    let right = "patch contextmanagers.contextmanager.dev";
    call("ask for a new key", right, api.patch(name, &PatchParams::default(), &annotate)).await?;
    let asked = Rotated {
        what: format!("keys of {}/{name}", cluster.namespace),
        request,
        before,
        now: None,
        state: "Requested".to_owned(),
    };
    let Some(patience) = patience else { return answer(&asked, Exit::Fine, output) };
    let (started, mut said) = (Instant::now(), String::new());
    loop {
        let found = cluster.resource(name).await?;
        let now = active(&found).unwrap_or_default();
        let (holds, reason, message) = condition(&found);
        if said != message {
            eprintln!("{reason}: {message}");
            said.clone_from(&message);
        }
        if now != asked.before && holds {
            return answer(&Rotated { now: Some(now), state: reason, ..asked }, Exit::Fine, output);
        }
        if started.elapsed() > patience {
            let note = format!(
                "it goes on, and the operator needs nobody who waits; the condition KeysRotated says: {message}"
            );
            let late = Rotated { now: Some(now), state: reason, ..asked };
            return Ok(answer(&late, Exit::Problems, output)?.noting(vec![note]));
        }
        sleep(LOOK).await;
    }
}

/// What the operator would only answer by an event or a condition.
fn refuse_what_cannot_be_done(found: &DynamicObject) -> Result<(), Error> {
    let name = found.name_any();
    if found.data.pointer("/spec/auth/secretPolicy").and_then(Value::as_str) == Some("UseExisting") {
        let secret = found.data.pointer("/spec/auth/secretRef/name").and_then(Value::as_str).unwrap_or_default();
        return Err(Error::Refused(format!(
            "the keys of {name:?} are your own: write a new active key to the Secret {secret:?}, and it is rotated like this one"
        )));
    }
    if found.data.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true) {
        return Err(Error::Refused(format!(
            "{name:?} is suspended, so no key would be made; set spec.suspend: false first"
        )));
    }
    Ok(())
}

fn active(found: &DynamicObject) -> Option<String> {
    summary(found).status.keys.map(|keys| keys.active)
}

/// What `KeysRotated` says.
fn condition(found: &DynamicObject) -> (bool, String, String) {
    let status = summary(found).status;
    let said = status.conditions.into_iter().find(|condition| condition.type_ == "KeysRotated");
    said.map_or_else(
        || (false, "NotSeen".to_owned(), "the controller has not said anything yet; does it run?".to_owned()),
        |said| (said.status == "True", said.reason, said.message),
    )
}

async fn authority(
    cluster: &Cluster,
    secret: Option<String>,
    patience: Option<Duration>,
    output: Output,
) -> Result<Answer, Error> {
    let secret = if let Some(secret) = secret {
        secret
    } else {
        let webhooks = operator::deployments(cluster, Component::Webhook).await?;
        let webhook = operator::only(&webhooks)?;
        if let Some((issuer, secret)) = webhook.and_then(operator::issuer_of) {
            return Err(Error::Refused(foreign(&issuer, &secret, &cluster.operator_namespace)));
        }
        operator::authority_of(webhook)
    };
    let api = cluster.of::<Secret>(&cluster.operator_namespace);
    let missing = || Error::Missing {
        what: format!("the Secret {secret:?} of namespace {:?}", cluster.operator_namespace),
        remedy: "name the CA's Secret by --secret, and its namespace by --operator-namespace".to_owned(),
    };
    let read = async || -> Result<Secret, Error> {
        let found =
            call("read the CA's Secret", "get secrets in the operator's namespace", api.get_opt(&secret)).await?;
        found.ok_or_else(missing)
    };
    let before = signing(&read().await?)?;
    let request = request();
    let annotate = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: request}}}));
    let right = "patch secrets in the operator's namespace";
    call("ask for a new CA", right, api.patch(&secret, &PatchParams::default(), &annotate)).await?;
    let asked = Rotated {
        what: format!("CA of Secret {}/{secret}", cluster.operator_namespace),
        request,
        before,
        now: None,
        state: "Requested".to_owned(),
    };
    let Some(patience) = patience else { return answer(&asked, Exit::Fine, output) };
    let (started, mut said) = (Instant::now(), "");
    loop {
        let found = read().await?;
        let now = signing(&found)?;
        if now != asked.before {
            return answer(&Rotated { now: Some(now), state: "Signing".to_owned(), ..asked }, Exit::Fine, output);
        }
        let published = found.data.is_some_and(|data| data.contains_key("next.crt"));
        let state = if published {
            "Published: the new CA is trusted, and signs after the grace period"
        } else {
            "Requested: a webhook makes it at its next look"
        };
        if said != state {
            eprintln!("{state}");
            said = state;
        }
        if started.elapsed() > patience {
            let note = "it goes on, and the webhook needs nobody who waits".to_owned();
            let state = if published { "Published" } else { "Requested" };
            let late = Rotated { now: Some(now), state: state.to_owned(), ..asked };
            return Ok(answer(&late, Exit::Problems, output)?.noting(vec![note]));
        }
        sleep(LOOK).await;
    }
}

/// Why the webhook makes no CA, and who does.
fn foreign(issuer: &str, secret: &str, namespace: &str) -> String {
    let remedy = if issuer == "cert-manager" {
        format!(
            "cert-manager does: `cmctl renew --namespace {namespace} <its Certificate>`, which writes the Secret {secret:?}"
        )
    } else {
        format!(
            "write tls.crt, tls.key and ca.crt anew to the Secret {namespace}/{secret}, and it is rotated without a refused pod"
        )
    };
    format!("the webhook's certificate has the issuer {issuer:?}, so the webhook makes no CA; {remedy}")
}

/// The fingerprint of the CA that signs; nothing else of the Secret leaves this function.
fn signing(secret: &Secret) -> Result<String, Error> {
    let pem =
        secret.data.as_ref().and_then(|data| data.get("tls.crt")).map(|bytes| bytes.0.clone()).unwrap_or_default();
    let certificate = crate::trust::bundle(&pem).into_iter().next().ok_or_else(|| {
        Error::Refused(format!("the Secret {:?} holds no CA under tls.crt; is it the webhook's?", secret.name_any()))
    })?;
    Ok(crate::trust::fingerprint(&certificate))
}

/// Each value asks once, so it is the time.
fn request() -> String {
    Timestamp::now().to_string()
}

fn answer(rotated: &Rotated, exit: Exit, output: Output) -> Result<Answer, Error> {
    let text = output.write(rotated, |Rotated { what, request, before, now, state }| {
        let mut rows = vec![("Rotation", what.clone()), ("Request", request.clone()), ("Before", before.clone())];
        rows.extend(now.clone().map(|now| ("Now", now)));
        rows.push(("State", state.clone()));
        pairs(&rows)
    })?;
    Ok(Answer::new(text, exit))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn resource(spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "metadata": {"name": "memory"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn what_the_operator_would_not_do_is_refused_with_the_remedy() {
        let refusal = |spec| refuse_what_cannot_be_done(&resource(&spec)).map_err(|error| error.to_string());
        assert_eq!(refusal(json!({})), Ok(()));
        let own = refusal(json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine", "key": "k"}}}));
        assert!(own.unwrap_err().contains("write a new active key to the Secret \"mine\""));
        assert!(refusal(json!({"suspend": true})).unwrap_err().contains("spec.suspend: false"));
    }

    #[test]
    fn a_ca_of_another_issuer_is_left_to_it() {
        let said = foreign("existing", "mine", "system");
        assert!(said.contains("\"existing\"") && said.contains("the Secret system/mine"), "{said}");
        assert!(foreign("cert-manager", "made", "system").contains("cmctl renew --namespace system"));
    }

    #[test]
    fn without_a_condition_the_controller_is_asked_after() {
        let (holds, reason, message) = condition(&resource(&json!({})));
        assert!(!holds && reason == "NotSeen" && message.contains("does it run"));
    }
}
