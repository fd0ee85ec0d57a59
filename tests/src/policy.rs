//! Admission policies of a namespace, which refuse there what the operator does, by an expression or by a webhook that does not answer, or
//! rewrite it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    },
    api::apps::v1::StatefulSet,
    api::core::v1::ConfigMap,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Namespace, clean_up, eventually},
    objects::rendered_in,
    webhook::dead_address,
};

/// How long the API server may take to know a new policy.
const KNOWN: Duration = Duration::from_secs(30);
/// The object by which it is seen whether a policy is in force: always refused.
const PROBE: &str = "policy-probe";
/// What stands before images that come from a mirror.
pub const MIRROR: &str = "mirror.example/";
/// What the examples call a policy and its binding.
const EXAMPLE: &str = "context-manager-example";

/// A policy; it ends when dropped.
pub struct Policy {
    name: String,
}

impl Policy {
    /// Refuses these operations on these resources of a namespace, such as `DELETE` of `secrets`, with status 422.
    ///
    /// # Errors
    /// When it does not come into force.
    pub async fn refuse(namespace: &Namespace, operations: &[&str], resources: &[&str]) -> Result<Self> {
        let expression = format!(
            "request.name != '{PROBE}' && !(request.operation in {} && request.resource.resource in {})",
            json!(operations),
            json!(resources)
        );
        Self::by_expression(namespace, &expression, &rules(), ("Invalid", 422)).await
    }

    /// Refuses every eviction in a namespace, with the status 403 of a policy whose reason is `Forbidden`.
    ///
    /// # Errors
    /// When it does not come into force.
    pub async fn forbid_evictions(namespace: &Namespace) -> Result<Self> {
        let rule = json!({
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps", "pods/eviction"],
        });
        let expression = format!("request.name != '{PROBE}' && request.resource.resource != 'pods'");
        Self::by_expression(namespace, &expression, &json!([rule]), ("Forbidden", 403)).await
    }

    /// Refuses what the rules are about and the expression is not true of, with a reason and its status.
    async fn by_expression(
        namespace: &Namespace,
        expression: &str,
        rules: &Value,
        (reason, code): (&str, u16),
    ) -> Result<Self> {
        let client = cluster::client().await?;
        let name = format!("suite-{}-{:06x}", namespace.name, rand::random::<u32>() & 0xff_ffff);
        let validation =
            json!({"expression": expression, "message": "nothing of Context Manager here", "reason": reason});
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": rules},
                "validations": [validation],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": selector(namespace)},
            },
        });
        let made = Self { name };
        create::<ValidatingAdmissionPolicy>(&client, policy).await?;
        create::<ValidatingAdmissionPolicyBinding>(&client, binding).await?;
        in_force(namespace, code).await?;
        Ok(made)
    }

    /// Has the images of `StatefulSet`s of a namespace come from a [`MIRROR`], whatever is asked for.
    ///
    /// # Errors
    /// When it does not come into force.
    pub async fn mirror(namespace: &Namespace) -> Result<Self> {
        let client = cluster::client().await?;
        let name = format!("suite-{}-{:06x}", namespace.name, rand::random::<u32>() & 0xff_ffff);
        let image = "object.spec.template.spec.containers[0].image";
        let path = "/spec/template/spec/containers/0/image";
        let expression = format!("[JSONPatch{{op: 'replace', path: '{path}', value: '{MIRROR}' + {image}}}]");
        let rule = json!({
            "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["statefulsets"],
        });
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {"namespaceSelector": selector(namespace), "resourceRules": [rule]},
                "matchConditions": [{"name": "not-yet", "expression": format!("!{image}.startsWith('{MIRROR}')")}],
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": name},
        });
        let made = Self { name };
        create::<MutatingAdmissionPolicy>(&client, policy).await?;
        create::<MutatingAdmissionPolicyBinding>(&client, binding).await?;
        let labels = json!({"app": PROBE});
        let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": PROBE, "image": PROBE}]}});
        let probe = serde_json::from_value(json!({
            "metadata": {"name": PROBE},
            "spec": {"serviceName": PROBE, "selector": {"matchLabels": labels}, "template": pod},
        }))?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        eventually("the policy", KNOWN, || async {
            let made = json!(namespace.api::<StatefulSet>().create(&params, &probe).await?);
            let image = &made["spec"]["template"]["spec"]["containers"][0]["image"];
            ensure!(*image == format!("{MIRROR}{PROBE}"), "{image}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        Ok(made)
    }

    /// A policy and its binding, as a file of the repository has them. It comes into force a little later.
    ///
    /// # Errors
    /// When the API server refuses one of them.
    pub async fn of_file(file: &str) -> Result<Self> {
        let client = cluster::client().await?;
        let mut policy = rendered_in(file, "ValidatingAdmissionPolicy", EXAMPLE, None)?;
        let mut binding = rendered_in(file, "ValidatingAdmissionPolicyBinding", EXAMPLE, None)?;
        let name = format!("suite-{EXAMPLE}-{:06x}", rand::random::<u32>() & 0xff_ffff);
        for object in [&mut policy, &mut binding] {
            object["metadata"]["name"] = json!(name);
        }
        binding["spec"]["policyName"] = json!(name);
        let made = Self { name };
        create::<ValidatingAdmissionPolicy>(&client, policy).await?;
        create::<ValidatingAdmissionPolicyBinding>(&client, binding).await?;
        Ok(made)
    }

    /// Has the API server ask a webhook that nobody serves about every Secret, `ConfigMap` and pod of a namespace, so that writing one fails
    /// with status 500.
    ///
    /// # Errors
    /// When it does not come into force.
    pub async fn nobody_to_ask(namespace: &Namespace) -> Result<Self> {
        let client = cluster::client().await?;
        let name = format!("suite-{}-{:06x}", namespace.name, rand::random::<u32>() & 0xff_ffff);
        let webhook = json!({
            "name": "nobody.contextmanager.dev", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 2, "rules": rules(),
            "namespaceSelector": selector(namespace),
            "clientConfig": {"url": format!("https://{}/", dead_address()?)},
        });
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name}, "webhooks": [webhook],
        });
        let made = Self { name };
        create::<ValidatingWebhookConfiguration>(&client, configuration).await?;
        in_force(namespace, 500).await?;
        Ok(made)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let name = self.name.clone();
        clean_up(&format!("the policy {name}"), async move |client| {
            delete::<ValidatingAdmissionPolicyBinding>(&client, &name).await?;
            delete::<ValidatingAdmissionPolicy>(&client, &name).await?;
            delete::<MutatingAdmissionPolicyBinding>(&client, &name).await?;
            delete::<MutatingAdmissionPolicy>(&client, &name).await?;
            delete::<ValidatingWebhookConfiguration>(&client, &name).await
        });
    }
}

/// All that a policy may be about.
fn rules() -> Value {
    let operations = json!(["CREATE", "UPDATE", "DELETE"]);
    json!([
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": ["secrets", "configmaps", "pods"]},
        {"apiGroups": ["contextmanager.dev"], "apiVersions": ["*"], "operations": operations, "resources": ["contextmanagers"]},
    ])
}

fn selector(namespace: &Namespace) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace.name}})
}

/// Waits until the probe is refused with this status.
async fn in_force(namespace: &Namespace, code: u16) -> Result<()> {
    let probe = serde_json::from_value(json!({"metadata": {"name": PROBE}}))?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy", KNOWN, || async {
        match namespace.api::<ConfigMap>().create(&params, &probe).await {
            Err(kube::Error::Api(status)) if status.code == code => Ok(()),
            outcome => Err(anyhow::anyhow!("{outcome:?}")),
        }
    })
    .await
}

async fn create<K>(client: &Client, object: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object: K = serde_json::from_value(object).context("an object of the suite")?;
    Api::<K>::all(client.clone()).create(&PostParams::default(), &object).await?;
    Ok(())
}

async fn delete<K>(client: &Client, name: &str) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match Api::<K>::all(client.clone()).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        deleted => {
            deleted?;
            Ok(())
        }
    }
}
