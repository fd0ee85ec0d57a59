//! Injected pods on a real kubelet: order of start and end, probes, propagation of keys and configuration, crashes.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::annotated,
    operator::{Operator, condition, provision, wait_for},
    plugin::{run, unpack},
    pods::{self, START, container, finished, started},
    qdrant::Qdrant,
    rotation::Count,
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Node, Pod, Secret},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

/// Requests of an agent during a rotation, with fewer than which it says little that none failed. It makes hundreds a second where nothing
/// else is done.
const LEAST_REQUESTS: u64 = 300;

/// A namespace that enforces Pod Security `restricted`, with a resource that is ready.
async fn namespace(operator: &Operator, what: &str, spec: Value) -> Result<(Client, Namespace)> {
    let client = cluster::client().await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let namespace = operator.namespace(&client, what, &enforce).await?;
    pods::make_document(&namespace).await?;
    provision(&namespace, "memory", spec).await?;
    Ok((client, namespace))
}

/// What a pod that sends all the time has seen so far.
async fn count(namespace: &Namespace, pod: &str) -> Result<Count> {
    Count::last(&pods::logs(namespace, pod, "agent").await?)
}

/// Waits until a pod's requests are answered.
async fn first_requests(namespace: &Namespace, pod: &str) -> Result<()> {
    eventually("the first requests", START, || async {
        let count = count(namespace, pod).await?;
        ensure!(count.sent > 100 && count.failed == 0, "{count:?}");
        Ok(())
    })
    .await
}

/// Waits until a pod has signed with so many keys: its own volume may be a moment behind its sidecar's.
async fn signed_with(keys: usize, namespace: &Namespace, pod: &str) -> Result<Count> {
    eventually("the last key", START, || async {
        pods::nudge(namespace, pod).await?;
        let count = count(namespace, pod).await?;
        ensure!(count.keys.len() == keys, "{count:?}");
        Ok::<_, anyhow::Error>(count)
    })
    .await
}

/// Asks for a rotation and waits for its end; `pods` are those of `users` that have the keys.
async fn rotate(owner: &Namespace, turn: &str, users: &Namespace, pods: &[&str]) -> Result<()> {
    let resources = owner.api::<ContextManager>();
    let keys = async || resources.get("memory").await?.status.and_then(|status| status.keys).context("keys");
    let before = keys().await?.active;
    let ask = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: turn}}}));
    resources.patch("memory", &PatchParams::default(), &ask).await?;
    eventually("another key alone", 3 * START, || async {
        for pod in pods {
            pods::nudge(users, pod).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let keys = keys().await?;
        ensure!(keys.active != before && keys.previous.is_empty() && keys.next.is_none(), "{keys:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// Asserts that both containers ended well, the sidecar after the agent and soon.
fn ended_in_order(pod: &Pod) -> Result<()> {
    let end = |name: &str| finished(&container(pod, name)?);
    let (agent, agent_code) = end("agent").context("the agent has not ended")?;
    let (sidecar, sidecar_code) = end(names::CONTAINER).context("the sidecar has not ended")?;
    ensure!((agent_code, sidecar_code) == (0, 0), "agent {agent_code}, sidecar {sidecar_code}");
    let after = sidecar.0.as_second() - agent.0.as_second();
    ensure!((0..=2).contains(&after), "the sidecar ended {after} s after the agent");
    Ok(())
}

#[tokio::test]
async fn a_job_uses_memory_and_completes_and_its_sidecar_ends_after_it() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "job", json!({})).await?;
    let template = pods::agent("job", pods::ENDING);
    let template = json!({"metadata": {"annotations": template["metadata"]["annotations"]}, "spec": template["spec"]});
    let job = json!({"metadata": {"name": "reader"}, "spec": {"backoffLimit": 0, "template": template}});
    namespace.make::<Job>(&job).await?;
    eventually("the job", START, || async {
        let status = namespace.api::<Job>().get("reader").await?.status.unwrap_or_default();
        ensure!(status.succeeded == Some(1), "{status:?}");
        Ok(())
    })
    .await?;
    let pods = namespace.api::<Pod>().list(&kube::api::ListParams::default()).await?;
    let pod = pods.items.first().context("a job has a pod")?;
    ended_in_order(pod)?;
    // The agent never retries: that its first call succeeded shows that the sidecar was ready before it.
    let begin = |name: &str| started(&container(pod, name)?).map(|at| at.0);
    ensure!(begin(names::CONTAINER).context("it started")? <= begin("agent").context("it started")?);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let log = pods::logs(&namespace, name, "agent").await?;
    ensure!(log.contains("found 0 contexts") && log.contains("green"), "{log}");
    Ok(())
}

#[tokio::test]
async fn at_the_end_of_a_pod_the_sidecar_outlives_the_agent_and_then_ends_at_once() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "term", json!({})).await?;
    pods::start(&namespace, "agent").await?;
    let asked = tokio::time::Instant::now();
    ended_in_order(&pods::deleted(&namespace, "agent").await?)?;
    ensure!(asked.elapsed() < Duration::from_secs(10), "the end took {:?}", asked.elapsed());
    Ok(())
}

#[tokio::test]
async fn an_agent_never_starts_before_its_sidecar_is_ready() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "gate", json!({"suspend": false})).await?;
    corrupt_the_configuration(&namespace).await?;
    namespace.make::<Pod>(&pods::agent("agent", pods::STAYING)).await?;
    let failed = eventually("the sidecar's failure", START, || async {
        let pod = namespace.api::<Pod>().get("agent").await?;
        let sidecar = container(&pod, names::CONTAINER).context("the sidecar has no status yet")?;
        let ended = sidecar.state.as_ref().and_then(|state| state.terminated.clone());
        let ended = ended.or_else(|| sidecar.last_state.as_ref().and_then(|state| state.terminated.clone()));
        let ended = ended.with_context(|| format!("{sidecar:?}"))?;
        Ok::<_, anyhow::Error>((pod, ended))
    });
    let (pod, ended) = failed.await?;
    let message = ended.message.unwrap_or_default();
    ensure!(ended.exit_code != 0 && message.contains("config"), "exit code {}: {message:?}", ended.exit_code);
    let agent = container(&pod, "agent").context("the agent has a status")?;
    ensure!(started(&agent).is_none() && !agent.ready, "{agent:?}");
    repair_the_configuration(&namespace).await?;
    pods::nudge(&namespace, "agent").await?;
    let pod = pods::ready(&namespace, "agent").await?;
    let agent = container(&pod, "agent").context("the agent has a status")?;
    ensure!(agent.restart_count == 0, "the agent was started too early: {agent:?}");
    Ok(())
}

/// The sidecar must not be root, and what is said of the pod is said of it too.
#[tokio::test]
async fn an_agent_that_is_root_has_a_sidecar_that_is_not() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "root", &[]).await?;
    pods::make_document(&namespace).await?;
    provision(&namespace, "memory", json!({"sidecar": {"socket": true}})).await?;
    for (name, group) in [("plain", json!({})), ("grouped", json!({"runAsGroup": 0, "supplementalGroups": [0]}))] {
        let mut pod = pods::agent(name, pods::STAYING);
        pod["spec"]["securityContext"] = json!({"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}});
        for (key, value) in group.as_object().into_iter().flatten() {
            pod["spec"]["securityContext"][key] = value.clone();
        }
        namespace.make::<Pod>(&pod).await?;
        let pod = pods::ready(&namespace, name).await?;
        let user = |name: &str| {
            let user = container(&pod, name)?.user?.linux?;
            Some((user.uid, user.gid))
        };
        ensure!(user("agent").is_none_or(|(uid, _)| uid == 0), "{:?}", user("agent"));
        ensure!(user(names::CONTAINER).is_none_or(|(uid, _)| uid == 65_532), "{:?}", user(names::CONTAINER));
        let sidecar = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref()?.first()).context("a sidecar")?;
        let context = sidecar.security_context.as_ref().context("it has a security context")?;
        ensure!((context.run_as_user, context.run_as_non_root) == (Some(65_532), Some(true)), "{context:?}");
    }
    Ok(())
}

/// What a careless hand does, while the operator is told to look on.
async fn corrupt_the_configuration(namespace: &Namespace) -> Result<()> {
    let merge = PatchParams::default();
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    namespace.api::<ContextManager>().patch("memory", &merge, &suspend).await?;
    eventually("the suspension", START, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let said = condition(&found, "Ready").context("a condition")?;
        ensure!(said.observed_generation == found.metadata.generation, "{said:?}");
        Ok(())
    })
    .await?;
    let broken = Patch::Merge(json!({"data": {"config.toml": "[store\n"}}));
    namespace.api::<ConfigMap>().patch("memory-context-config", &merge, &broken).await?;
    Ok(())
}

async fn repair_the_configuration(namespace: &Namespace) -> Result<()> {
    let resume = Patch::Merge(json!({"spec": {"suspend": false, "gc": {"interval": "11s"}}}));
    let api = namespace.api::<ContextManager>();
    api.patch("memory", &PatchParams::default(), &resume).await?;
    wait_for(namespace, "memory", "Ready", "True", Some("Provisioned")).await.map(drop)
}

/// Waits until the metrics have a line, while the kubelet is made to look at the volumes.
async fn metric(client: &Client, namespace: &Namespace, line: &str) -> Result<()> {
    let mut last = String::new();
    for _ in 0..60 {
        pods::nudge(namespace, "agent").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        last = pods::admin_page(client, namespace, "agent", "/metrics").await?;
        if last.lines().any(|found| found == line) {
            return Ok(());
        }
    }
    let near: Vec<_> = last.lines().filter(|found| found.starts_with(&line[..20])).collect();
    anyhow::bail!("the metrics never said {line:?}, but {near:?}")
}

#[tokio::test]
async fn a_corrupt_configuration_leaves_the_last_good_one_in_force() -> Result<()> {
    let operator = Operator::shared().await?;
    let (client, namespace) = namespace(&operator, "reload", json!({})).await?;
    pods::start(&namespace, "agent").await?;
    corrupt_the_configuration(&namespace).await?;
    metric(&client, &namespace, "context_manager_config_last_reload_successful{file=\"config\"} 0").await?;
    let health: Value = serde_json::from_str(&pods::admin_page(&client, &namespace, "agent", "/health").await?)?;
    let components = health["components"].as_array().context("health has components")?;
    let said = components.iter().find(|component| component["name"] == "configuration").context("it is one of them")?;
    ensure!(health["status"] == "degraded" && said["status"] == "degraded", "{health}");
    ensure!(said["detail"].as_str().is_some_and(|detail| detail.contains("generation 1 is loaded")), "{said}");
    pods::stats(&namespace, "agent").await?;
    repair_the_configuration(&namespace).await?;
    metric(&client, &namespace, "context_manager_config_last_reload_successful{file=\"config\"} 1").await?;
    let generation = "context_manager_config_generation 3";
    metric(&client, &namespace, generation).await?;
    ensure!(pods::restarts(&namespace, "agent").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_new_key_reaches_sidecar_and_agent_without_a_restart() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "keys", &[]).await?;
    pods::make_document(&namespace).await?;
    let key = |id: &str| json!({"id": id, "key": "QUJD".repeat(12)});
    let other = json!({"id": "second", "key": "REVG".repeat(12)});
    let content = |ring: Value| json!({"stringData": {"keys.json": ring.to_string()}});
    let mut secret = content(json!({"active": key("first")}));
    secret["metadata"] = json!({"name": "mine"});
    namespace.make::<Secret>(&secret).await?;
    provision(&namespace, "memory", json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}}}))
        .await?;
    pods::start(&namespace, "agent").await?;
    let turn = async |ring: Value| {
        let patch = Patch::Merge(content(ring));
        namespace.api::<Secret>().patch("mine", &PatchParams::default(), &patch).await
    };
    turn(json!({"active": key("first"), "next": other})).await?;
    metric(&client, &namespace, "context_manager_key_loaded{key_id=\"second\",role=\"next\"} 1").await?;
    pods::stats(&namespace, "agent").await?;
    turn(json!({"active": other, "previous": [key("first")]})).await?;
    metric(&client, &namespace, "context_manager_key_loaded{key_id=\"second\",role=\"active\"} 1").await?;
    pods::stats(&namespace, "agent").await?;
    turn(json!({"active": other})).await?;
    eventually("the end of the first key", START, || async {
        pods::nudge(&namespace, "agent").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let metrics = pods::admin_page(&client, &namespace, "agent", "/metrics").await?;
        ensure!(!metrics.contains("key_id=\"first\""), "it is still loaded");
        Ok(())
    })
    .await?;
    pods::stats(&namespace, "agent").await?;
    ensure!(pods::restarts(&namespace, "agent").await? == 0);
    Ok(())
}

#[tokio::test]
async fn keys_are_rotated_under_load_without_a_failed_request_or_a_restart() -> Result<()> {
    let operator = Operator::shared().await?;
    // The sidecar remembers the nonces of a window, and there are many in a second.
    let auth = json!({"timestampWindow": "30s", "rotation": {"overlap": "5s"}});
    let (_, namespace) = namespace(&operator, "rotate", json!({"auth": auth})).await?;
    namespace.make::<Pod>(&pods::agent("agent", &["load", "--every-ms", "1"])).await?;
    first_requests(&namespace, "agent").await?;
    for turn in 1..=2 {
        rotate(&namespace, &format!("turn-{turn}"), &namespace, &["agent"]).await?;
    }
    let count = signed_with(3, &namespace, "agent").await?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = count.sent as f64 / count.seconds;
    println!("{} requests, {rate:.0} a second, {} failed, keys {:?}", count.sent, count.failed, count.keys);
    ensure!(count.failed == 0, "{count:?}");
    ensure!(count.sent > LEAST_REQUESTS, "too few requests to prove anything: {count:?}");
    let pod = namespace.api::<Pod>().get("agent").await?;
    for name in ["agent", names::CONTAINER] {
        ensure!(container(&pod, name).context("a container")?.restart_count == 0, "{name} was restarted");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_of_another_namespace_lives_on_copies_through_a_rotation() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let guest = operator.namespace(&client, "guest", &[("pod-security.kubernetes.io/enforce", "restricted")]).await?;
    pods::make_document(&guest).await?;
    let auth = json!({"timestampWindow": "30s", "rotation": {"overlap": "5s"}});
    let spec = json!({"allowedNamespaces": [guest.name], "auth": auth});
    let (_, owner) = namespace(&operator, "host", spec).await?;
    wait_for(&owner, "memory", "GrantsReady", "True", None).await?;
    let full_name = format!("{}/memory", owner.name);
    let make = async |pod: Value| guest.make::<Pod>(&annotated(pod, names::NAME, &full_name)).await;
    make(pods::agent("reader", pods::STAYING)).await?;
    make(pods::agent("load", &["load", "--every-ms", "5"])).await?;
    pods::ready(&guest, "reader").await?;
    let query = ["query", "What colour is the boat?", "--pod", "reader", "-n", guest.name.as_str()];
    let said = run(&query).await?.expect(0)?;
    ensure!(said.text.contains("painted green"), "{said:?}");
    first_requests(&guest, "load").await?;
    rotate(&owner, "now", &guest, &["reader", "load"]).await?;
    let count = signed_with(2, &guest, "load").await?;
    let resources = owner.api::<ContextManager>();
    println!("{} requests, {} failed, keys {:?}", count.sent, count.failed, count.keys);
    ensure!(count.failed == 0 && pods::restarts(&guest, "load").await? == 0, "{count:?}");
    ensure!(count.sent > LEAST_REQUESTS, "too few requests to prove anything: {count:?}");
    let pods = resources.get("memory").await?.status.and_then(|status| status.pods).context("pods")?;
    ensure!((pods.injected, pods.ready, pods.outdated) == (2, 2, 0), "{pods:?}");
    // Without the grant they live on, and no other one comes.
    let withdrawn = Patch::Merge(json!({"spec": {"allowedNamespaces": null}}));
    resources.patch("memory", &PatchParams::default(), &withdrawn).await?;
    eventually("the refusal", START, || async {
        let late = annotated(pods::agent("late", pods::STAYING), names::NAME, &full_name);
        let said = cluster::refusal(guest.try_pod(&late).await)?;
        ensure!(said.contains("spec.allowedNamespaces must list"), "{said}");
        Ok(())
    })
    .await?;
    pods::stats(&guest, "reader").await.map(drop)
}

#[tokio::test]
async fn a_killed_sidecar_comes_back_with_all_that_it_acknowledged() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "kill", json!({})).await?;
    let pod = pods::start(&namespace, "agent").await?;
    let before = pods::stats(&namespace, "agent").await?.contexts;
    ensure!(before.values().sum::<usize>() == 3, "{before:?}");
    let process = pods::sidecar_process(&pod)?;
    kill(Pid::from_raw(process), Signal::SIGKILL)?;
    eventually("the restart", START, || async {
        let pod = namespace.api::<Pod>().get("agent").await?;
        let sidecar = container(&pod, names::CONTAINER).context("the pod has a sidecar")?;
        ensure!(sidecar.restart_count == 1 && sidecar.ready, "{sidecar:?}");
        let agent = container(&pod, "agent").context("the pod has an agent")?;
        ensure!(agent.restart_count == 0, "the agent was restarted as well");
        Ok(())
    })
    .await?;
    let after = eventually("an answer", START, || pods::stats(&namespace, "agent")).await?.contexts;
    ensure!(before == after, "{before:?} became {after:?}");
    Ok(())
}

#[tokio::test]
async fn the_sidecar_is_reached_on_loopback_only_and_sees_no_token() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "inside", json!({})).await?;
    let pod = pods::start(&namespace, "agent").await?;
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has an address")?;
    let connect = async |port: u16| {
        let address = SocketAddr::new(address.parse()?, port);
        let dial = tokio::net::TcpStream::connect(address);
        Ok::<_, anyhow::Error>(tokio::time::timeout(Duration::from_secs(3), dial).await.is_ok_and(|done| done.is_ok()))
    };
    ensure!(connect(names::DEFAULT_ADMIN_PORT).await?, "probes come to the pod's address");
    ensure!(!connect(names::DEFAULT_PROTOCOL_PORT).await?, "the protocol is open to the cluster");
    let process = pods::sidecar_process(&pod)?;
    let token = pods::root_of(process).join("run/secrets/kubernetes.io/serviceaccount");
    let token = if token.exists() {
        token
    } else {
        pods::root_of(process).join("var/run/secrets/kubernetes.io/serviceaccount")
    };
    ensure!(fs::read_dir(&token)?.next().is_none(), "{} is not empty", token.display());
    Ok(())
}

#[tokio::test]
async fn metrics_of_a_running_pod_satisfy_promtool_and_count_what_happened() -> Result<()> {
    let operator = Operator::shared().await?;
    let (client, namespace) = namespace(&operator, "metrics", json!({})).await?;
    pods::start(&namespace, "agent").await?;
    // Contexts are counted every few seconds.
    let metrics = eventually("the figures", START, || async {
        let metrics = pods::admin_page(&client, &namespace, "agent", "/metrics").await?;
        for line in ["context_manager_contexts{level=\"long_term\"} 3", "context_manager_ready 1"] {
            let near: Vec<_> = metrics.lines().filter(|found| found.starts_with(&line[..20])).collect();
            ensure!(near.contains(&line), "no {line:?} in {near:?}");
        }
        Ok(metrics)
    })
    .await?;
    let program = std::env::var_os("CONTEXT_MANAGER_TEST_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut check = tokio::process::Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is not there; run the suites by `cargo xtask test`")?;
    check.stdin.take().context("a pipe")?.write_all(metrics.as_bytes()).await?;
    let output = check.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_command_line_searches_the_memory_of_a_running_agent() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "query", json!({})).await?;
    pods::start(&namespace, "agent").await?;
    let here = ["-n", namespace.name.as_str()];
    let query = ["query", "What colour is the boat?"];
    let found = run(&[&query[..], &["--pod", "agent", "-o", "json"], &here[..]].concat()).await?.expect(0)?.json()?;
    let first = found["contexts"][0]["text"].as_str().context("a context")?;
    ensure!(first.contains("painted green"), "{found}");
    // Without a name it finds the pod itself.
    let said = run(&[&query[..], &here[..]].concat()).await?.expect(0)?;
    ensure!(said.text.contains("painted green") && said.text.contains("asked in pod agent"), "{said:?}");
    // Whoever may not forward a port is told so.
    let said = run(&[&query[..], &["--as", "nobody"], &here[..]].concat()).await?.expect(1)?;
    ensure!(said.notes.contains("not allowed to list the pods"), "{said:?}");
    let said = run(&[&query[..], &["--token-budget", "-1"], &here[..]].concat()).await?;
    ensure!(said.code != 0, "a negative budget is refused: {said:?}");
    Ok(())
}

/// Starts an agent with a document of its own: the ids of what it remembers come from the document's name, and an id is taken once.
async fn start_with_own_document(namespace: &Namespace, pod: &str) -> Result<()> {
    let documents = namespace.api::<ConfigMap>();
    let data = documents.get("document").await?.data.context("a document")?;
    let name = format!("{}-{pod}.md", namespace.name);
    let text = data.get("lighthouse.md").context("its text")?;
    let added = Patch::Merge(json!({"data": {name.as_str(): text}}));
    documents.patch("document", &PatchParams::default(), &added).await?;
    let path = format!("/document/{name}");
    let arguments = ["run", "--document", &path, "--question", "What colour is the boat?", "--stay"];
    namespace.make::<Pod>(&pods::agent(pod, &arguments)).await?;
    pods::ready(namespace, pod).await.map(drop)
}

#[tokio::test]
async fn the_memory_of_an_agent_is_moved_by_the_command_line() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, old) = namespace(&operator, "old-own", json!({})).await?;
    let (_, new) = namespace(&operator, "new-own", json!({})).await?;
    for namespace in [&old, &new] {
        start_with_own_document(namespace, "agent").await?;
    }
    let folder = tempfile::tempdir()?;
    let (file, check) = (folder.path().join("agent.jsonl"), folder.path().join("check.jsonl"));
    let (file, check) = (file.to_str().context("a path")?, check.to_str().context("a path")?);
    let in_old = ["--own", "--pod", "agent", "-n", old.name.as_str()];
    let in_new = ["--own", "--pod", "agent", "-n", new.name.as_str()];

    let said = run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(0)?;
    let whole = fs::read_to_string(file)?;
    ensure!(said.text.starts_with("3 contexts are in ") && whole.lines().count() == 4, "{said:?}");
    // Broken off in the middle of a line, it goes on; done, it is not begun again.
    fs::write(file, &whole[..whole.len() / 2])?;
    let early = run(&[&["import", file][..], &in_new[..]].concat()).await?.expect(1)?;
    ensure!(early.notes.contains("not whole"), "{early:?}");
    run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(0)?;
    let lines = |text: &str| text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    ensure!(lines(&fs::read_to_string(file)?)? == lines(&whole)?, "{}", fs::read_to_string(file)?);
    let again = run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(1)?;
    ensure!(again.notes.contains("a whole export of 3 contexts"), "{again:?}");

    let import = [&["import", file, "-o", "json"][..], &in_new[..]].concat();
    let said = run(&import).await?.expect(0)?.json()?;
    ensure!(said["imported"] == 3 && said["lines_taken"] == 4 && said["refused_total"] == 0, "{said}");
    let said = run(&import).await?.expect(0)?.json()?;
    ensure!(said["imported"] == 0 && said["unchanged"] == 3, "{said}");
    run(&[&["export", check][..], &in_new[..]].concat()).await?.expect(0)?;
    let there = lines(&fs::read_to_string(check)?)?;
    ensure!(there.len() == 3 + 3 + 1, "and what the agent there had: {there:?}");
    ensure!(lines(&whole)?[..3].iter().all(|line| there.contains(line)), "{there:?}");
    // Whoever may not forward a port is told so.
    let never = folder.path().join("never.jsonl");
    let export = ["export", never.to_str().context("a path")?, "--as", "nobody"];
    let said = run(&[&export[..], &in_new[..]].concat()).await?.expect(1)?;
    ensure!(said.notes.contains("not allowed to read the pod") && !never.exists(), "{said:?}");
    Ok(())
}

/// The address at which pods reach this machine.
async fn address_of_the_node() -> Result<IpAddr> {
    let nodes = Api::<Node>::all(cluster::client().await?).list(&ListParams::default()).await?;
    let addresses = nodes.items.into_iter().filter_map(|node| node.status?.addresses).flatten();
    let internal = addresses.into_iter().find(|address| address.type_ == "InternalIP").context("an address")?;
    Ok(internal.address.parse()?)
}

#[tokio::test]
async fn a_tenant_is_moved_to_another_server_by_the_command_line() -> Result<()> {
    let operator = Operator::shared().await?;
    let folder = tempfile::tempdir()?;
    let address = address_of_the_node().await?;
    let (old_server, new_server) = (folder.path().join("old"), folder.path().join("new"));
    let servers = [Qdrant::start_on(&old_server, address).await?, Qdrant::start_on(&new_server, address).await?];
    let spec = |server: &Qdrant| {
        json!({
            "vectorStore": {"qdrant": {"url": format!("http://{}", server.address())}},
            "auth": {"access": [{"agents": ["mover"], "operations": ["export", "import"], "target": {"tenant": true}}]},
        })
    };
    let (_, old) = namespace(&operator, "old", spec(&servers[0])).await?;
    let (_, new) = namespace(&operator, "new", spec(&servers[1])).await?;
    for (namespace, pod) in [(&old, "planner"), (&old, "reviewer"), (&old, "mover"), (&new, "mover")] {
        start_with_own_document(namespace, pod).await?;
    }
    let file = folder.path().join("team.jsonl");
    let (file, check) = (file.to_str().context("a path")?, folder.path().join("check.jsonl"));
    let check = check.to_str().context("a path")?;
    let in_old = ["--pod", "mover", "-n", old.name.as_str()];
    let in_new = ["--pod", "mover", "-n", new.name.as_str()];

    let said = run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(0)?;
    let whole = fs::read_to_string(file)?;
    let lines: Vec<&str> = whole.lines().collect();
    ensure!(said.text.starts_with("9 contexts are in ") && lines.len() == 10, "{said:?}");
    for agent in ["planner", "reviewer", "mover"] {
        let own = lines.iter().filter(|line| line.contains(&format!("\"agent\":\"{agent}\""))).count();
        ensure!(own == 3, "{agent}: {lines:?}");
    }
    // Broken off in the middle of a line, it goes on; done, it is not begun again.
    fs::write(file, &whole[..whole.len() / 2])?;
    let early = run(&[&["import", file][..], &in_new[..]].concat()).await?.expect(1)?;
    ensure!(early.notes.contains("not whole"), "{early:?}");
    run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(0)?;
    ensure!(fs::read_to_string(file)? == whole, "{}", fs::read_to_string(file)?);
    let again = run(&[&["export", file][..], &in_old[..]].concat()).await?.expect(1)?;
    ensure!(again.notes.contains("a whole export of 9 contexts"), "{again:?}");

    let import = [&["import", file, "-o", "json"][..], &in_new[..]].concat();
    let said = run(&import).await?.expect(0)?.json()?;
    ensure!(said["imported"] == 9 && said["lines_taken"] == 10 && said["refused_total"] == 0, "{said}");
    let said = run(&import).await?.expect(0)?.json()?;
    ensure!(said["imported"] == 0 && said["unchanged"] == 9, "{said}");
    run(&[&["export", check][..], &in_new[..]].concat()).await?.expect(0)?;
    let there = fs::read_to_string(check)?;
    ensure!(lines[..9].iter().all(|line| there.contains(line)), "{there}");
    ensure!(there.lines().count() == 9 + 3 + 1, "and what the new namespace had: {there}");

    // Another agent has no rule for it, but its own memory.
    let planner = ["--pod", "planner", "-n", old.name.as_str()];
    let own = folder.path().join("own.jsonl");
    let own = own.to_str().context("a path")?;
    let refused = run(&[&["export", own][..], &planner[..]].concat()).await?.expect(1)?;
    ensure!(refused.notes.contains("access-denied") && refused.notes.contains("the whole tenant"), "{refused:?}");
    let said = run(&[&["export", own, "--own"][..], &planner[..]].concat()).await?.expect(0)?;
    ensure!(said.text.starts_with("3 contexts"), "{said:?}");
    let said = run(&[&["import", own][..], &in_new[..]].concat()).await?.expect(3)?;
    ensure!(said.text.contains("3 were refused") && said.text.contains("line 1: "), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_report_of_a_running_agent_has_log_and_metrics_and_no_memory() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "report", json!({})).await?;
    pods::start(&namespace, "agent").await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("report.tar.gz");
    let file = path.to_str().context("a path")?;
    let written = run(&["report", "-n", &namespace.name, "--file", file, "-o", "json"]).await?.expect(0)?.json()?;
    ensure!(written["notRead"] == json!([]) && written["scrubbed"] == 0, "{written}");
    let files = unpack(&path)?;
    let inside =
        |name: &str| files.get(&format!("namespaces/{}/pods/agent/{name}", namespace.name)).context(name.to_owned());
    ensure!(inside("metrics.txt")?.contains("context_manager_contexts"));
    ensure!(inside("health.txt")?.contains("components") && !inside("log.txt")?.is_empty());
    for (name, text) in &files {
        for word in ["lighthouse keeper", "painted green", "bakes bread", "What colour"] {
            ensure!(!text.contains(word), "{name} has words of the memory");
        }
    }
    Ok(())
}
