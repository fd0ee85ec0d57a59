//! The other ways in, on a real kubelet: a sidecar that is an ordinary container.

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::annotated,
    operator::{Operator, provision},
    pods::{self, START, container, finished, started},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use kube::api::ListParams;
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
