//! The rights that the chart gives the webhook are those that it needs: all that it does goes well with them, and something fails without
//! any one of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::{INJECT, asking, pod},
    rights::{Right, Rules, User, needed},
    webhook::{CA, Options, Webhook},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    batch::v1::{CronJob, Job},
    core::v1::{Namespace as NamespaceObject, Pod, Secret},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// How long a step may take. Nothing waits for the next look, which comes later.
const STEP: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_mins(10);
/// Lives at the same time.
const ABREAST: usize = 4;
const OTHER: &str = "localhost/another-sidecar:1";

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// What a pod's sidecar is made of, if it has one.
async fn image(namespace: &Namespace, pod: &Value) -> Result<Option<String>> {
    let made: Pod = namespace.try_pod(pod).await?;
    Ok(made.spec.and_then(|spec| spec.init_containers?.into_iter().next()?.image))
}

/// A workload's pods, which no node takes.
fn template() -> Value {
    let asks = asking("x");
    json!({"metadata": {"labels": {"app": "agent"}, "annotations": asks["metadata"]["annotations"]}, "spec": asks["spec"]})
}

/// Waits for an event on a workload, as often as that.
async fn event(namespace: &Namespace, kind: &str, times: i32) -> Result<()> {
    eventually(&format!("{times} events on a {kind}"), STEP, || async {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        // Those of Kubernetes itself are about something else.
        let ours = |event: &Event| event.reason.as_deref() == Some("Injected");
        let on =
            |event: &Event| ours(event) && event.regarding.as_ref().and_then(|on| on.kind.as_deref()) == Some(kind);
        let counted = |event: &Event| event.series.as_ref().map_or(1, |series| series.count);
        let found = events.iter().filter(|event| on(event)).map(counted).max().unwrap_or_default();
        ensure!(found >= times, "{found}");
        Ok(())
    })
    .await
}

/// Events are put on what a person made: the `Deployment` above a `ReplicaSet`, the `CronJob` above a Job.
async fn tells(namespace: &Namespace) -> Result<()> {
    let deployment = json!({
        "metadata": {"name": "agent"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "agent"}}, "template": template()},
    });
    namespace.make::<Deployment>(&deployment).await?;
    // The second of two events of a kind counts the first one up.
    event(namespace, "Deployment", 2).await?;
    let mut once = template();
    once["spec"]["restartPolicy"] = json!("Never");
    let never = json!({"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": once}}});
    let above: CronJob = namespace.make(&json!({"metadata": {"name": "nightly"}, "spec": never})).await?;
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": above.metadata.uid, "controller": true}]);
    let job = json!({"metadata": {"name": "nightly-1", "ownerReferences": owner}, "spec": {"template": once}});
    namespace.make::<Job>(&job).await?;
    event(namespace, "CronJob", 1).await
}

/// A rotation of the CA, which begins when `caBundle` is lost.
async fn renews(client: &Client, webhook: &Webhook) -> Result<()> {
    let ask = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: "now"}}}));
    webhook.home().api::<Secret>().patch(CA, &PatchParams::default(), &ask).await?;
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let mut spoiled = api.get(webhook.configuration()).await?;
    for entry in spoiled.webhooks.iter_mut().flatten() {
        entry.client_config.ca_bundle = None;
    }
    api.replace(webhook.configuration(), &PostParams::default(), &spoiled).await?;
    eventually("both CAs in each bundle", STEP, || async {
        let found = api.get(webhook.configuration()).await?;
        for entry in found.webhooks.iter().flatten() {
            let bundle = entry.client_config.ca_bundle.as_ref().context("there is none")?;
            let count = String::from_utf8_lossy(&bundle.0).matches("BEGIN CERTIFICATE").count();
            ensure!(count == 2, "there are {count}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// All that a webhook does, in a namespace with a resource that it knows from its start.
async fn life(client: &Client, webhook: &Webhook, known: &Namespace) -> Result<()> {
    webhook.adopt(client, known).await?;
    let labels = Patch::Merge(json!({"metadata": {"labels": {INJECT: "true"}}}));
    let namespaces = Api::<NamespaceObject>::all(client.clone());
    namespaces.patch(&known.name, &PatchParams::default(), &labels).await?;
    eventually("the label of the namespace", STEP, || async {
        image(known, &pod("plain")).await?.context("no sidecar was injected")
    })
    .await?;
    let change = Patch::Merge(json!({"spec": {"sidecar": {"image": OTHER}}}));
    known.api::<ContextManager>().patch("memory", &PatchParams::default(), &change).await?;
    eventually("the other image", STEP, || async {
        let found = image(known, &asking("asks")).await?;
        ensure!(found.as_deref() == Some(OTHER), "{found:?}");
        Ok(())
    })
    .await?;
    tells(known).await?;
    renews(client, webhook).await
}

/// What somebody may do for a webhook to live by.
struct Trial {
    outcome: Result<()>,
    used: std::collections::BTreeSet<Right>,
}

/// Runs a webhook with what is left of the chart's rules. One that may not watch namespaces is one whose watch is interrupted, and then has
/// to ask for a namespace that is younger.
async fn trial(less: impl FnOnce(Rules) -> Rules, watches: bool) -> Result<Trial> {
    let client = cluster::client().await?;
    let home = Namespace::create(&client, "webhook", &[]).await?;
    let known = Namespace::create(&client, "known", &[]).await?;
    known.make_resource("memory", json!({})).await?;
    let user = User::create(&client, &home.name, &less(chart(&home.name)?)).await?;
    let lived = async {
        let webhook = Webhook::start_as(&user, home, Options { poll: POLL, ..Options::default() }).await?;
        if watches { life(&client, &webhook, &known).await } else { Ok(()) }
    };
    let outcome = lived.await;
    Ok(Trial { outcome, used: user.used() })
}

fn chart(configuration: &str) -> Result<Rules> {
    let mut rules = Rules::of("webhook", configuration)?;
    for named in rules.home.iter_mut().filter_map(|rule| rule.resource_names.as_mut()) {
        *named = vec![CA.to_owned()];
    }
    Ok(rules)
}

/// Fails unless something fails without a right that was asked for.
async fn is_needed(given: Right) -> Result<()> {
    let watch = right("", "namespaces", "watch");
    let trial = if given == right("", "namespaces", "get") {
        trial(|rules| rules.without_right(&watch).without_right(&given), false).await?
    } else {
        trial(|rules| rules.without_right(&given), true).await?
    };
    let error = needed(&format!("{given:?}"), trial.outcome)?;
    ensure!(trial.used.contains(&given), "{given:?} was not asked for, but: {error:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhooks_rights_suffice_and_each_of_them_is_needed() -> Result<()> {
    cluster::install_definition(&cluster::client().await?).await?;
    let rules = chart("any")?;
    let whole = trial(|rules| rules, true).await?;
    whole.outcome.context("with all that the chart gives")?;
    rules.suffice(&whole.used)?;
    let watch = right("", "namespaces", "watch");
    let interrupted = trial(|rules| rules.without_right(&watch), false).await?;
    interrupted.outcome.context("with a watch of namespaces that is interrupted")?;
    let given = rules.rights();
    ensure!(given.len() > 12, "these rights alone: {given:?}");
    stream::iter(given).map(is_needed).buffer_unordered(ABREAST).try_collect().await
}
