//! Several operators in a cluster, and several namespaces of one operator: who serves what, and who may use what.

use anyhow::{Context as _, Result, ensure};
use context_manager_operator::{
    controller::{self, Clients, Settings},
    pki,
};
use context_manager_protocol::names;
use context_manager_tests::{
    background::Background,
    cluster::{self, Namespace, eventually, refusal},
    objects::{annotated, asking},
    operator::{self, HOME, Operator, PATIENCE, provision, wait_for},
    webhook::{Options, Webhook},
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::json;

const CLASS: &str = "blue";

/// Starts a controller and waits until it leads.
async fn start(settings: Settings) -> Result<Background> {
    let admin = settings.admin_address;
    let controller = Background::start("another controller", move |_, shutdown| async move {
        Ok(controller::run(Clients::new(cluster::config().await?)?, settings, shutdown).await?)
    });
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    eventually("the lease", PATIENCE, || async {
        ensure!(!controller.ended(), "the controller ended");
        let metrics = http.get(format!("http://{admin}/metrics")).send().await?.text().await?;
        ensure!(operator::leads(&metrics), "it waits for the lease");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    Ok(controller)
}

fn of_class(webhook: &Webhook) -> Result<Settings> {
    Ok(Settings {
        class: CLASS.to_owned(),
        lease: format!("context-manager-controller-{CLASS}"),
        authority: pki::client::Settings::new(HOME, format!("context-manager-client-ca-{CLASS}")),
        ..operator::settings(webhook)?
    })
}

/// Who wrote an object.
fn writers(object: &impl kube::Resource) -> Vec<String> {
    object.meta().managed_fields.iter().flatten().filter_map(|entry| entry.manager.clone()).collect()
}

async fn is_written_by(namespace: &Namespace, name: &str, ours: impl Fn(&str) -> bool) -> Result<()> {
    let config = namespace.api::<ConfigMap>().get(&names::config_map(name)).await?;
    let keys = namespace.api::<Secret>().get(&names::keys_secret(name)).await?;
    let tls = namespace.api::<Secret>().get(&names::tls_secret(name)).await?;
    let resource = namespace.api::<context_manager_crds::ContextManager>().get(name).await?;
    let mut writers = [writers(&config), writers(&keys), writers(&tls), writers(&resource)].concat();
    // What was applied by the test itself.
    writers.retain(|writer| writer.starts_with("context-manager-"));
    ensure!(writers.len() >= 4 && writers.iter().all(|writer| ours(writer)), "{name} is written by {writers:?}");
    Ok(())
}

/// Which resource's sidecars a pod has.
fn sidecars(pod: &Pod) -> (Option<&String>, usize) {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    (pod.labels().get(names::INJECTED), containers.filter(|container| container.name == names::CONTAINER).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_serve_each_its_own_class() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let beside = Some(operator.webhook.configuration().to_owned());
    let webhook = Webhook::start(Options { class: CLASS.to_owned(), beside, ..Options::default() }).await?;
    let controller = start(of_class(&webhook)?).await?;
    let namespace = operator.namespace(&client, "classes", &[]).await?;
    provision(&namespace, "red", json!({})).await?;
    provision(&namespace, CLASS, json!({"controllerClassName": CLASS})).await?;
    is_written_by(&namespace, "red", |writer| !writer.ends_with("-blue")).await?;
    is_written_by(&namespace, CLASS, |writer| writer.ends_with("-blue")).await?;

    // Both webhooks are asked about each pod, and one of them injects.
    for name in ["red", CLASS] {
        let pod = namespace.try_pod(&annotated(asking("agent"), names::NAME, name)).await?;
        ensure!(sidecars(&pod) == (Some(&name.to_owned()), 1), "{:?}", sidecars(&pod));
    }
    let metrics = webhook.admin_page("/metrics").await?;
    ensure!(metrics.contains(r#"decision="skip",reason="OtherClass""#), "{metrics}");
    let said = refusal(namespace.try_pod(&asking("agent")).await)?;
    ensure!(said.contains("\"blue\" or \"red\""), "{said}");

    // What belongs to the other class stays as it is, when its operator is away.
    controller.stop()?;
    let configs = namespace.api::<ConfigMap>();
    let [of_red, of_blue] = ["red", CLASS].map(names::config_map);
    for _ in 0..2 {
        for name in [&of_blue, &of_red] {
            match configs.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() && name == &of_blue => {}
                deleted => drop(deleted?),
            }
        }
        eventually("the configuration of red", PATIENCE, || configs.get(&of_red)).await?;
    }
    let left = configs.get_opt(&of_blue).await?;
    ensure!(left.is_none(), "the other operator wrote {left:?}");
    let _controller = start(of_class(&webhook)?).await?;
    eventually("the configuration of blue", PATIENCE, || configs.get(&of_blue)).await?;
    wait_for(&namespace, CLASS, "Ready", "True", None).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_of_a_class_that_nobody_serves_gets_nothing() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "orphan", &[]).await?;
    namespace.make_resource("orphan", json!({"controllerClassName": "nobody"})).await?;
    let said = namespace.try_pod(&annotated(asking("agent"), names::NAME, "orphan")).await?;
    ensure!(sidecars(&said) == (None, 0), "{said:?}");
    // What is made later is served, so the earlier one was seen.
    provision(&namespace, "memory", json!({})).await?;
    let orphan = namespace.api::<context_manager_crds::ContextManager>().get("orphan").await?;
    ensure!(!operator::was_seen(&orphan) && orphan.finalizers().is_empty(), "{orphan:?}");
    let secret = namespace.api::<Secret>().get_opt(&names::keys_secret("orphan")).await?;
    ensure!(secret.is_none(), "it has keys");
    namespace.api::<Secret>().get_opt(&names::keys_secret("memory")).await?.context("the other has none")?;
    Ok(())
}
