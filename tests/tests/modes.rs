//! The other ways in, on a real kubelet: a sidecar that is an ordinary container, and one without ports in a pod of the node's network.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    listening,
    objects::annotated,
    operator::{Operator, condition, provision, wait_for},
    pods::{self, START, container, finished, started},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

async fn classic_namespace(operator: &Operator, what: &str) -> Result<Namespace> {
    let client = cluster::client().await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let namespace = operator.namespace(&client, what, &enforce).await?;
    pods::make_document(&namespace).await?;
    provision(&namespace, "memory", json!({"sidecar": {"mode": "Classic"}})).await?;
    Ok(namespace)
}

#[tokio::test]
async fn an_agent_beside_a_slow_classic_sidecar_starts_when_it_is_ready_and_its_pod_ends_at_once() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = classic_namespace(&operator, "classic").await?;
    let mut pod = annotated(pods::agent("agent", pods::STAYING), names::SIDECAR_CPU_LIMIT, "20m");
    pod["spec"]["restartPolicy"] = json!("Always");
    namespace.make::<Pod>(&pod).await?;
    let pod = pods::ready(&namespace, "agent").await?;
    let spec = pod.spec.as_ref().context("a pod has a spec")?;
    ensure!(spec.init_containers.is_none() && spec.containers[0].name == names::CONTAINER, "{spec:?}");
    let begin = |name: &str| started(&container(&pod, name)?).map(|at| at.0.as_second());
    let (sidecar, agent) =
        (begin(names::CONTAINER).context("it started")?, begin("agent").context("the agent started")?);
    println!("the agent started {} s after its sidecar", agent - sidecar);
    ensure!(sidecar <= agent, "the agent started {} s before its sidecar", sidecar - agent);
    // Without a name kubectl takes the agent, not the first container. Whoever comes too early says that it tries again.
    let log = cluster::kubectl(&["logs", "-n", &namespace.name, "agent"]).await?;
    ensure!(log.contains("found 0 contexts") && log.contains("green") && !log.contains("attempt"), "{log}");
    let remembered: usize = pods::stats(&namespace, "agent").await?.contexts.values().sum();
    ensure!(remembered == 3, "{remembered} contexts");
    for name in ["agent", names::CONTAINER] {
        ensure!(container(&pod, name).context("a container")?.restart_count == 0, "{name} was restarted");
    }

    let asked = tokio::time::Instant::now();
    let last = pods::deleted(&namespace, "agent").await?;
    for name in ["agent", names::CONTAINER] {
        let (_, code) = container(&last, name).as_ref().and_then(finished).context("it ended")?;
        ensure!(code == 0, "{name} ended with {code}");
    }
    ensure!(asked.elapsed().as_secs() < 10, "the end took {:?}", asked.elapsed());
    Ok(())
}

fn job(name: &str, annotations: &Value) -> Value {
    let pod = pods::agent(name, pods::ENDING);
    let mut template = json!({"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]});
    for (key, value) in annotations.as_object().into_iter().flatten() {
        template["metadata"]["annotations"][key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template}})
}

#[tokio::test]
async fn a_job_is_refused_a_classic_sidecar_by_name_and_completes_with_a_native_one() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = classic_namespace(&operator, "classic-job").await?;
    namespace.make::<Job>(&job("stuck", &json!({}))).await?;
    eventually("the refusal", START, || async {
        let fields = "involvedObject.kind=Job,involvedObject.name=stuck,reason=FailedCreate";
        let events = namespace.api::<Event>().list(&ListParams::default().fields(fields)).await?;
        let said: Vec<_> = events.items.into_iter().filter_map(|event| event.message).collect();
        ensure!(said.iter().any(|said| said.contains("the Job would never complete")), "{said:?}");
        Ok(())
    })
    .await?;
    ensure!(namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty(), "a pod was made");
    namespace.make::<Job>(&job("reader", &json!({names::MODE: "Native"}))).await?;
    eventually("the job", START, || async {
        let status = namespace.api::<Job>().get("reader").await?.status.unwrap_or_default();
        ensure!(status.succeeded == Some(1), "{status:?}");
        Ok(())
    })
    .await
}

/// The example agent in a pod that shares the node's network, as another user than its sidecar.
fn host_pod(name: &str, arguments: &[&str]) -> Value {
    let mut pod = pods::agent(name, arguments);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["securityContext"]["fsGroup"] = json!(2_000);
    pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1_234);
    pod
}

/// A stranger on the same network that even has the keys, and asks at `url`.
fn stranger(name: &str, url: &str) -> Value {
    let mut pod = host_pod(name, &["stats"]);
    pod["metadata"]["annotations"] = json!({});
    let container = &mut pod["spec"]["containers"][0];
    container["env"] =
        json!([{"name": names::ENV_URL, "value": url}, {"name": names::ENV_KEYS, "value": "/keys/keys.json"}]);
    container["volumeMounts"] = json!([{"name": "keys", "mountPath": "/keys", "readOnly": true}]);
    pod["spec"]["volumes"] = json!([{"name": "keys", "secret": {"secretName": names::keys_secret("memory")}}]);
    pod
}

#[tokio::test]
async fn pods_of_the_nodes_network_have_sidecars_that_only_they_can_reach() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "host", &[]).await?;
    pods::make_document(&namespace).await?;
    provision(&namespace, "memory", json!({})).await?;
    namespace.make::<Pod>(&host_pod("one", pods::STAYING)).await?;
    // Of two on one node the second would find every port taken.
    namespace.make::<Pod>(&pods::classic(host_pod("two", pods::STAYING))).await?;
    for name in ["one", "two"] {
        let pod = pods::ready(&namespace, name).await?;
        let spec = pod.spec.as_ref().context("a pod has a spec")?;
        ensure!(spec.host_network == Some(true), "{name} has a network of its own");
        let process = pods::sidecar_process(&pod)?;
        let bound = listening::ports(process)?;
        ensure!(bound.is_empty(), "the sidecar of {name} listens on {bound:?}");
        ensure!(pods::restarts(&namespace, name).await? == 0, "the sidecar of {name} was restarted");
        let remembered: usize = pods::stats(&namespace, name).await?.contexts.values().sum();
        ensure!(remembered == 3, "{name} remembers {remembered} contexts");
        let ask = [names::PROGRAM, "ask", "/metrics"];
        let exec = ["exec", "-n", &namespace.name, name, "-c", names::CONTAINER, "--"];
        let metrics = cluster::kubectl(&[&exec[..], &ask[..]].concat()).await?;
        ensure!(metrics.contains("context_manager_ready 1"), "{metrics}");
    }

    let strangers = [
        ("by-socket", names::SOCKET_URL.to_owned()),
        ("by-port", format!("http://127.0.0.1:{}", names::DEFAULT_PROTOCOL_PORT)),
    ];
    for (name, url) in &strangers {
        namespace.make::<Pod>(&stranger(name, url)).await?;
    }
    for (name, _) in &strangers {
        eventually(&format!("the end of {name}"), START, || async {
            let pod = namespace.api::<Pod>().get(name).await?;
            let (_, code) = container(&pod, "agent").as_ref().and_then(finished).context("it still tries")?;
            ensure!(code == 1, "the stranger {name} ended with {code}");
            Ok(())
        })
        .await?;
        let log = pods::logs(&namespace, name, "agent").await?;
        ensure!(log.contains("the sidecar does not answer"), "{log}");
    }
    rotated(&namespace).await
}

/// A rotation does not wait for ever for pods that cannot be asked, and names them; their agents go on.
async fn rotated(namespace: &Namespace) -> Result<()> {
    let resources = namespace.api::<ContextManager>();
    let keys = async || {
        let found = resources.get("memory").await?;
        found.status.and_then(|status| status.keys).context("keys")
    };
    let before = keys().await?.active;
    let ask = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: "now"}}}));
    resources.patch("memory", &PatchParams::default(), &ask).await?;
    let waits = wait_for(namespace, "memory", "KeysRotated", "False", Some("Publishing")).await?;
    let said = condition(&waits, "KeysRotated").context("the condition")?.message;
    ensure!(said.contains("one (listens on no port), two (listens on no port)"), "{said}");
    let resource = wait_for(namespace, "memory", "KeysRotated", "True", Some("Overlap")).await?;
    let said = condition(&resource, "KeysRotated").context("the condition")?.message;
    ensure!(said.contains("without waiting longer for one, two"), "{said}");
    ensure!(keys().await?.active != before, "the same key signs");
    for name in ["one", "two"] {
        pods::nudge(namespace, name).await?;
        eventually("a request with the new key", START, || pods::stats(namespace, name)).await?;
    }
    Ok(())
}
