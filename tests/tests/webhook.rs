//! The webhook, called by a real API server over real TLS: what becomes of pods.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use context_manager_tests::{
    cluster::{self, Namespace, eventually, refusal},
    objects::{INJECT, annotated, asking, labelled, pod},
    webhook::{Options, Registration, Webhook, dead_address, sidecar_image},
};
use k8s_openapi::api::{
    admissionregistration::v1::{
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
    },
    core::v1::{ConfigMap, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const SIDECAR: &str = "context-manager";

/// The names of the init containers.
fn init_containers(pod: &Pod) -> Vec<&str> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.map(|container| container.name.as_str()).collect()
}

fn injected(pod: &Pod) -> bool {
    init_containers(pod) == [SIDECAR]
}

/// What the API server has, as JSON.
async fn stored(namespace: &Namespace, pod: &Value) -> Result<Value> {
    let made: Pod = namespace.make(pod).await?;
    let name = made.metadata.name.context("a pod has a name")?;
    Ok(json!(namespace.api::<Pod>().get(&name).await?))
}

fn named<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().find(|item| item["name"] == name).with_context(|| format!("no {name:?} in {list}"))
}

#[tokio::test]
async fn a_pod_that_asks_gets_sidecar_volumes_and_environment_and_keeps_the_rest() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "inject", &[]).await?;
    namespace.make_resource("memory", json!({"sidecar": {"protocolPort": 9000}})).await?;
    let mut wanted = asking("asks");
    wanted["spec"]["containers"][0]["env"] = json!([{"name": "MINE", "value": "1"}]);
    wanted["spec"]["initContainers"] = json!([{"name": "prepare", "image": "localhost/agent:1"}]);
    let found = stored(&namespace, &wanted).await?;

    let first = &found["spec"]["initContainers"][0];
    ensure!(first["name"] == SIDECAR && first["restartPolicy"] == "Always", "{first}");
    ensure!(first["image"] == sidecar_image() && first["startupProbe"].is_object(), "{first}");
    ensure!(found["spec"]["initContainers"][1]["name"] == "prepare", "{found}");
    let env = |key| named(&first["env"], key).map(|entry| entry["value"].clone());
    ensure!(env("CONTEXT_MANAGER_TENANT")? == namespace.name && env("CONTEXT_MANAGER_AGENT")? == "asks");
    let agent = named(&found["spec"]["containers"], "agent")?;
    ensure!(named(&agent["env"], "MINE")?["value"] == "1");
    ensure!(named(&agent["env"], "CONTEXT_MANAGER_URL")?["value"] == "http://127.0.0.1:9000", "{agent}");
    ensure!(named(&agent["volumeMounts"], "context-manager-keys")?["readOnly"] == true);
    let keys = named(&found["spec"]["volumes"], "context-manager-keys")?;
    ensure!(keys["secret"]["secretName"] == "memory-context-keys", "{keys}");
    ensure!(found["metadata"]["labels"]["contextmanager.dev/context-manager"] == "memory");
    ensure!(found["metadata"]["annotations"]["contextmanager.dev/injected-hash"].is_string());
    Ok(())
}

#[tokio::test]
async fn the_sidecar_has_no_token_where_the_agent_has_one() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "token", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let found = stored(&namespace, &asking("asks")).await?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        mounts
            .into_iter()
            .filter(|mount| mount["mountPath"] == token)
            .map(|mount| mount["name"].clone())
            .collect::<Vec<_>>()
    };
    let agent = mounted(&found["spec"]["containers"][0]);
    ensure!(agent.len() == 1 && agent[0].as_str().is_some_and(|name| name.starts_with("kube-api-access")), "{agent:?}");
    let sidecar = mounted(&found["spec"]["initContainers"][0]);
    ensure!(sidecar == ["context-manager-no-token"], "{sidecar:?}");
    let empty = named(&found["spec"]["volumes"], "context-manager-no-token")?;
    ensure!(empty["emptyDir"].is_object(), "{empty}");
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_enforces_restricted_admits_the_injected_pod() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let namespace = webhook.namespace(&client, "restricted", &enforce).await?;
    namespace.make_resource("memory", json!({})).await?;
    ensure!(injected(&namespace.try_pod(&asking("asks")).await?));
    let mut careless = asking("careless");
    careless["spec"]["containers"][0]["securityContext"] = Value::Null;
    let said = refusal(namespace.try_pod(&careless).await)?;
    // It is the agent's own container that is at fault, and not the sidecar.
    ensure!(said.contains("PodSecurity") && said.contains("\"agent\"") && !said.contains(SIDECAR), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_asks_for_what_is_not_there_is_refused_with_the_candidates() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "missing", &[]).await?;
    let none = refusal(namespace.try_pod(&asking("asks")).await)?;
    ensure!(none.contains("has no ContextManager") && none.contains(&namespace.name), "{none}");
    namespace.make_resource("beta", json!({})).await?;
    // Resource and pod may be applied in one go: the first pod after the resource already gets it.
    ensure!(injected(&namespace.try_pod(&asking("asks")).await?));
    namespace.make_resource("alpha", json!({})).await?;
    let several =
        eventually("the second resource", PATIENCE, || async { refusal(namespace.try_pod(&asking("asks")).await) });
    let several = several.await?;
    ensure!(several.contains("\"alpha\" or \"beta\"") && several.contains("contextmanager.dev/name"), "{several}");
    let unknown = annotated(asking("asks"), "contextmanager.dev/name", "gamma");
    let unknown = refusal(namespace.try_pod(&unknown).await)?;
    ensure!(unknown.contains("\"gamma\"") && unknown.contains("\"alpha\" or \"beta\""), "{unknown}");
    let chosen = namespace.try_pod(&annotated(asking("asks"), "contextmanager.dev/name", "alpha")).await?;
    ensure!(chosen.metadata.labels.unwrap_or_default()["contextmanager.dev/context-manager"] == "alpha");
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_asks_without_a_resource_gets_its_pods_with_a_warning_and_an_event() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "warned", &[(INJECT, "true")]).await?;
    let request = http::Request::post(format!("/api/v1/namespaces/{}/pods", namespace.name))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&pod("plain"))?.into())?;
    let answer = client.send(request).await?;
    ensure!(answer.status().as_u16() == 201, "{}", answer.status());
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect();
    ensure!(
        warnings
            .iter()
            .any(|warning| warning.contains("no sidecar injected") && warning.contains("has no ContextManager")),
        "{warnings:?}"
    );
    ensure!(!injected(&namespace.api::<Pod>().get("plain").await?));
    let event = first_event(&namespace, "InjectionSkipped").await?;
    ensure!(event.note.as_deref().is_some_and(|note| note.contains("has no ContextManager")), "{event:?}");
    // The resource itself may say that such pods are refused.
    namespace.make_resource("alpha", json!({"injection": {"onMissing": "Deny"}})).await?;
    namespace.make_resource("beta", json!({})).await?;
    eventually("the refusal", PATIENCE, || async { refusal(namespace.try_pod(&pod("strict")).await) }).await?;
    Ok(())
}

/// The first event of that reason.
async fn first_event(namespace: &Namespace, reason: &str) -> Result<Event> {
    eventually(reason, PATIENCE, || async {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
        found.with_context(|| format!("there are {reasons:?}"))
    })
    .await
}

#[tokio::test]
async fn events_go_to_the_workload_and_a_dry_run_leaves_none() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "events", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let owner: ConfigMap = namespace.make(&json!({"metadata": {"name": "workload"}})).await?;
    let child = |name: &str| {
        let mut pod = asking(name);
        let uid = owner.metadata.uid.clone();
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "workload", "uid": uid, "controller": true}]);
        pod
    };
    ensure!(injected(&namespace.try_pod(&child("tried")).await?));
    let _: Pod = namespace.make(&child("made")).await?;
    let event = first_event(&namespace, "Injected").await?;
    let regarding = event.regarding.context("an event is about something")?;
    ensure!(
        regarding.kind.as_deref() == Some("ConfigMap") && regarding.name.as_deref() == Some("workload"),
        "{regarding:?}"
    );
    // Events are published in order, so that an event of the dry run would have been there before.
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let ours: Vec<_> = events.iter().filter(|event| event.reason.as_deref() == Some("Injected")).collect();
    ensure!(ours.len() == 1, "{ours:?}");
    let series = ours[0].series.as_ref().map_or(1, |series| series.count);
    ensure!(series == 1 && ours[0].deprecated_count.unwrap_or(1) == 1, "{ours:?}");
    Ok(())
}

/// Cluster-wide objects of a test, deleted at its end.
struct Policy {
    client: Client,
    name: String,
}

/// Policies run before webhooks, and once more after a webhook has changed the object, but only those that ran before. So this
/// one runs both times, and does something the second time.
const LATE: &str = "object.metadata.?labels[?'contextmanager.dev/context-manager'].hasValue() ? \
    [JSONPatch{op: 'add', path: '/metadata/labels/late', value: 'true'}, \
     JSONPatch{op: 'add', path: '/spec/containers/-', value: Object.spec.containers{name: 'late', image: 'localhost/late:1'}}] : []";

impl Policy {
    /// A policy that changes each pod which has been injected, so that the API server calls the webhook once more.
    async fn after_injection(client: &Client, namespace: &str) -> Result<Self> {
        let policy = serde_json::from_value(json!({
            "metadata": {"name": namespace},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                },
                "matchConditions": [{
                    "name": "not-late-yet",
                    "expression": "!object.metadata.?labels[?'late'].hasValue()",
                }],
                "mutations": [{
                    "patchType": "JSONPatch",
                    "jsonPatch": {"expression": LATE},
                }],
            },
        }))?;
        Api::<MutatingAdmissionPolicy>::all(client.clone()).create(&PostParams::default(), &policy).await?;
        let made = Self { client: client.clone(), name: namespace.to_owned() };
        let binding =
            serde_json::from_value(json!({"metadata": {"name": namespace}, "spec": {"policyName": namespace}}))?;
        Api::<MutatingAdmissionPolicyBinding>::all(client.clone()).create(&PostParams::default(), &binding).await?;
        Ok(made)
    }

    async fn delete(self) -> Result<()> {
        let gone = DeleteParams::default();
        Api::<MutatingAdmissionPolicyBinding>::all(self.client.clone()).delete(&self.name, &gone).await?;
        Api::<MutatingAdmissionPolicy>::all(self.client).delete(&self.name, &gone).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_pod_that_is_changed_after_injection_is_completed_and_never_injected_twice() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "reinvoke", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let policy = Policy::after_injection(&client, &namespace.name).await?;
    let outcome = eventually("the late container", PATIENCE, || async {
        let found = json!(namespace.try_pod(&asking("asks")).await?);
        named(&found["spec"]["containers"], "late").cloned().map(|late| (found, late))
    })
    .await;
    policy.delete().await?;
    let (found, late) = outcome?;
    ensure!(found["spec"]["initContainers"].as_array().map(Vec::len) == Some(1), "{}", found["spec"]);
    let names: Vec<_> =
        found["spec"]["volumes"].as_array().into_iter().flatten().map(|volume| &volume["name"]).collect();
    let ours =
        names.iter().filter(|name| name.as_str().is_some_and(|name| name.starts_with("context-manager-"))).count();
    ensure!(ours == 4, "{names:?}");
    for container in [&found["spec"]["containers"][0], &late] {
        let urls = container["env"].as_array().into_iter().flatten();
        let urls = urls.filter(|entry| entry["name"] == "CONTEXT_MANAGER_URL").count();
        ensure!(urls == 1, "the webhook was not called again, or too often: {container}");
    }
    Ok(())
}

/// What `docs/injection.md` promises, row by row.
#[tokio::test]
async fn the_truth_table_holds_through_the_api_servers_own_conditions() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let mut wrong = Vec::new();
    for label in [None, Some("true"), Some("false"), Some("perhaps")] {
        let labels: Vec<_> = label.map(|value| (INJECT, value)).into_iter().collect();
        let namespace = webhook.namespace(&client, "table", &labels).await?;
        namespace.make_resource("memory", json!({})).await?;
        for annotation in [None, Some("true"), Some("false"), Some("yes")] {
            for own in [None, Some("true"), Some("false"), Some("yes")] {
                let mut asked = pod("asks");
                if let Some(value) = annotation {
                    asked = annotated(asked, INJECT, value);
                }
                if let Some(value) = own {
                    asked = labelled(asked, INJECT, value);
                }
                let expected = match annotation.or(own) {
                    Some("true") => "injected",
                    Some("false") => "plain",
                    Some(_) => "refused",
                    None if label == Some("true") => "injected",
                    None => "plain",
                };
                let seen = match namespace.try_pod(&asked).await {
                    Ok(pod) if injected(&pod) => "injected",
                    Ok(_) => "plain",
                    Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(INJECT) => "refused",
                    Err(error) => bail!("namespace {label:?}, annotation {annotation:?}, label {own:?}: {error}"),
                };
                if seen != expected {
                    wrong.push(format!(
                        "namespace {label:?}, annotation {annotation:?}, label {own:?}: {seen}, not {expected}"
                    ));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn without_a_webhook_only_pods_that_ask_are_blocked() -> Result<()> {
    let client = cluster::client().await?;
    let scope = format!("suite-down-{}", std::process::id());
    let registration = Registration::create(&client, &[&scope], dead_address()?).await?;
    let quiet = registration.namespace(&client, "down", &[]).await?;
    let asks = registration.namespace(&client, "down", &[(INJECT, "true")]).await?;
    let blocked = async |namespace: &Namespace, pod: Value, entry: &str| {
        eventually("the block", PATIENCE, || async {
            let said = refusal(namespace.try_pod(&pod).await)?;
            let by_us = said.contains(&format!("failed calling webhook \"{entry}\""));
            by_us.then_some(()).ok_or_else(|| anyhow!("it says {said}"))
        })
        .await
    };
    blocked(&quiet, asking("asks"), "pods.contextmanager.dev").await?;
    blocked(&quiet, labelled(pod("asks"), INJECT, "true"), "pods.contextmanager.dev").await?;
    blocked(&asks, pod("plain"), "namespaces.contextmanager.dev").await?;
    // All others are made, and not only tried.
    let _: Pod = quiet.make(&pod("plain")).await?;
    let _: Pod = quiet.make(&annotated(pod("opted-out"), INJECT, "false")).await?;
    let _: Pod = asks.make(&annotated(pod("opted-out"), INJECT, "false")).await?;
    let _: ConfigMap = asks.make(&json!({"metadata": {"name": "anything"}})).await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_comes_back_injects_again() -> Result<()> {
    let mut webhook = Webhook::start(Options::default()).await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "back", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    ensure!(injected(&namespace.try_pod(&asking("asks")).await?));
    webhook.stop();
    let said = refusal(namespace.try_pod(&asking("asks")).await)?;
    ensure!(said.contains("connection refused"), "{said}");
    webhook.restart().await?;
    ensure!(injected(&namespace.try_pod(&asking("asks")).await?));
    Ok(())
}

#[tokio::test]
async fn an_overwritten_trust_bundle_is_repaired_and_nothing_else_is_touched() -> Result<()> {
    let webhook = Webhook::start(Options::default()).await?;
    let client = cluster::client().await?;
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let name = webhook.configuration();
    let before = api.get(name).await?;
    let mut spoiled = before.clone();
    for entry in spoiled.webhooks.iter_mut().flatten() {
        entry.client_config.ca_bundle = None;
        entry.timeout_seconds = Some(7);
    }
    api.replace(name, &PostParams::default(), &spoiled).await?;
    let repaired = eventually("the repair", PATIENCE, || async {
        let found = api.get(name).await?;
        let whole = found.webhooks.iter().flatten().all(|entry| entry.client_config.ca_bundle.is_some());
        whole.then_some(found).context("the bundle is missing")
    })
    .await?;
    for (entry, old) in repaired.webhooks.iter().flatten().zip(before.webhooks.iter().flatten()) {
        ensure!(entry.client_config.ca_bundle == old.client_config.ca_bundle, "another CA is trusted");
        ensure!(entry.timeout_seconds == Some(7), "a field that is not the operator's was set back");
    }
    let managers = repaired.metadata.managed_fields.unwrap_or_default();
    let ours = managers.iter().find(|entry| entry.manager.as_deref() == Some("context-manager/pki"));
    let fields = json!(ours.context("the operator has no fields")?.fields_v1).to_string();
    ensure!(
        fields.contains("f:caBundle") && !fields.contains("f:rules") && !fields.contains("f:failurePolicy"),
        "{fields}"
    );
    Ok(())
}

#[tokio::test]
async fn authorities_change_under_load_and_no_pod_is_refused() -> Result<()> {
    let lifetimes = context_manager_operator::pki::Lifetimes {
        authority: Duration::from_secs(8),
        renew_before: Duration::from_secs(5),
        leaf: Duration::from_secs(3),
        grace: Duration::from_secs(1),
    };
    let webhook = Webhook::start(Options { lifetimes, ..Options::default() }).await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "rotate", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let bundle = async || -> Result<_> {
        let found = api.get(webhook.configuration()).await?;
        let first =
            found.webhooks.and_then(|webhooks| webhooks.into_iter().next()).context("the webhook is registered")?;
        Ok(first.client_config.ca_bundle.context("it is trusted")?.0)
    };
    let (mut bundles, mut admitted) = (vec![bundle().await?], 0);
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(12) {
        ensure!(injected(&namespace.try_pod(&asking("asks")).await?), "admitted without a sidecar");
        admitted += 1;
        let now = bundle().await?;
        if bundles.last() != Some(&now) {
            bundles.push(now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(bundles.len() >= 4, "only {} bundles were published", bundles.len());
    ensure!(admitted > 100, "only {admitted} pods were tried");
    Ok(())
}
