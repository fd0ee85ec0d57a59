//! `kubectl context` on a real API server, with the real webhook and controller: the program that users run, as they run it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::{INJECT, annotated, asking, labelled, pod},
    operator::{Operator, provision, wait_for},
    plugin::{run, run_on, unpack},
    webhook::{Options, Registration, Webhook, dead_address, next_sidecar_image, sidecar_image},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret},
    events::v1::Event,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// Objects in a file, each with its type.
fn file(folder: &tempfile::TempDir, objects: &[Value]) -> Result<PathBuf> {
    let path = folder.path().join("objects.json");
    fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    Ok(path)
}

/// A pod as it stands in a file.
fn written(mut pod: Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

/// What the webhook really does with a pod, by the API server's own words.
async fn really(namespace: &Namespace, pod: &Value) -> Result<&'static str> {
    let has = |pod: &Pod| pod.annotations().contains_key("contextmanager.dev/injected-hash");
    match namespace.try_pod(pod).await {
        Ok(pod) if has(&pod) => Ok("Injected"),
        Ok(_) => Ok("Plain"),
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("denied the request") => {
            Ok("Refused")
        }
        Err(error) => Err(error.into()),
    }
}

/// Compares what is explained with what happens, for each of the pods.
async fn agree(namespace: &Namespace, pods: Vec<Value>) -> Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let path = file(&folder, &pods.iter().cloned().map(written).collect::<Vec<_>>())?;
    let image = sidecar_image();
    let said = run(&[
        "explain",
        "-f",
        path.to_str().context("a path")?,
        "-n",
        &namespace.name,
        "--sidecar-image",
        &image,
        "--on-missing",
        "skip",
        "-o",
        "json",
    ])
    .await?;
    let explained = said.json()?;
    let explained = explained.as_array().context("an answer for each")?;
    ensure!(explained.len() == pods.len(), "{said:?}");
    for (pod, explanation) in pods.iter().zip(explained) {
        let happens = really(namespace, pod).await?;
        ensure!(explanation["outcome"] == happens, "it is {happens}: {pod}\n{explanation}");
        ensure!(explanation["webhook"]["asked"] == "Yes", "{explanation}");
    }
    Ok(explained.clone())
}

#[tokio::test]
async fn what_is_explained_is_what_the_webhook_does_over_the_whole_truth_table() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    for label in [None, Some("true"), Some("false"), Some("perhaps")] {
        let labels: Vec<_> = label.map(|value| (INJECT, value)).into_iter().collect();
        let namespace = webhook.namespace(&client, "explain", &labels).await?;
        namespace.make_resource("memory", json!({})).await?;
        let mut pods = Vec::new();
        for annotation in [None, Some("true"), Some("false"), Some("yes")] {
            for own in [None, Some("true"), Some("false"), Some("yes")] {
                let mut asked = pod(&format!("asks-{}", pods.len()));
                if let Some(value) = annotation {
                    asked = annotated(asked, INJECT, value);
                }
                if let Some(value) = own {
                    asked = labelled(asked, INJECT, value);
                }
                pods.push(asked);
            }
        }
        agree(&namespace, pods).await?;
    }
    Ok(())
}

#[tokio::test]
async fn refusals_and_skips_are_explained_with_the_webhooks_own_reasons() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let empty = webhook.namespace(&client, "explain", &[(INJECT, "true")]).await?;
    let explained = agree(&empty, vec![asking("asks"), pod("plain")]).await?;
    ensure!(explained.iter().all(|one| one["reason"] == "NoResource"), "{explained:?}");

    let namespace = webhook.namespace(&client, "explain", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let mut host = asking("host");
    host["spec"]["hostNetwork"] = json!(true);
    let mut taken = annotated(asking("taken"), "contextmanager.dev/protocol-port", "7419");
    taken["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7419}]);
    let mut volume = asking("volume");
    volume["spec"]["volumes"] = json!([{"name": "context-manager-data", "emptyDir": {}}]);
    let pods = vec![
        host,
        taken,
        volume,
        annotated(asking("unknown"), "contextmanager.dev/name", "other"),
        annotated(asking("container"), "contextmanager.dev/containers", "nobody"),
        annotated(asking("port"), "contextmanager.dev/admin-port", "80"),
        annotated(asking("typo"), "contextmanager.dev/agent", "a"),
    ];
    let explained = agree(&namespace, pods).await?;
    let reasons: Vec<_> = explained.iter().map(|one| one["reason"].as_str().unwrap_or_default()).collect();
    let expected = [
        "Injected",
        "PortTaken",
        "VolumeNameTaken",
        "UnknownResource",
        "UnknownContainer",
        "InvalidAnnotation",
        "Injected",
    ];
    ensure!(reasons == expected, "{reasons:?}");
    ensure!(
        explained[0]["ports"].is_null() && explained[0]["warnings"].to_string().contains("fsGroup"),
        "{}",
        explained[0]
    );
    ensure!(explained[6]["warnings"][0].as_str().is_some_and(|said| said.contains("contextmanager.dev/agent")));
    Ok(())
}

#[tokio::test]
async fn pods_and_deployments_of_the_cluster_are_explained_with_what_they_have_now() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "explain", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let image = sidecar_image();
    let explain = async |what: &str| {
        let here = ["explain", what, "-n", &namespace.name, "--sidecar-image", &image, "--on-missing", "skip"];
        run(&[&here[..], &["-o", "json"]].concat()).await
    };
    namespace.make::<Pod>(&asking("has")).await?;
    let said = explain("pod/has").await?.expect(0)?.json()?;
    ensure!(said["state"] == "UpToDate" && said["agent"] == "has" && said["contextManager"] == "memory", "{said}");

    // One that began to ask when it was there already.
    namespace.make::<Pod>(&pod("late")).await?;
    let mark = Patch::Merge(json!({"metadata": {"annotations": {INJECT: "true"}}}));
    namespace.api::<Pod>().patch("late", &PatchParams::default(), &mark).await?;
    let said = explain("late").await?.expect(3)?.json()?;
    ensure!(said["state"] == "Missing" && said["outcome"] == "Injected", "{said}");

    let template = asking("template");
    let deployment = json!({"metadata": {"name": "support"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "support"}},
        "template": {"metadata": {"labels": {"app": "support"}, "annotations": {INJECT: "true"}}, "spec": template["spec"]},
    }});
    namespace.make::<Deployment>(&deployment).await?;
    let said = explain("deployment/support").await?.expect(0)?.json()?;
    ensure!(said["outcome"] == "Injected" && said["agent"] == "support" && said["state"].is_null(), "{said}");
    ensure!(said["image"] == image.as_str(), "{said}");

    let said = explain("pod/nobody").await?.expect(1)?;
    ensure!(said.notes.contains("does not exist") && said.notes.contains("kubectl get pods"), "{said:?}");
    // The webhook is never asked about the system's own pods.
    let folder = tempfile::tempdir()?;
    let path = file(&folder, &[written(asking("system"))])?;
    let said = run(&["explain", "-n", "kube-system", "-f", path.to_str().context("a path")?, "-o", "json"]).await?;
    ensure!(said.clone().expect(3)?.json()?[0]["reason"] == "NotAsked", "{said:?}");
    let said = run(&["explain", "-f", "-"]).await?.expect(1)?;
    ensure!(said.notes.contains("standard input: it has no object"), "{said:?}");
    Ok(())
}

/// What must not differ, in an order of its own: volumes by name, mounts by place, variables by name. The name of the token's volume is
/// made by chance.
fn settled(pod: &Pod) -> Value {
    let mut pod = json!(pod);
    let token = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    let sort = |list: &mut Value, key: &str| {
        let Some(items) = list.as_array_mut() else { return };
        for item in items.iter_mut().filter(|item| token(&item["name"])) {
            item["name"] = json!("token");
        }
        items.sort_by_key(|item| item[key].as_str().unwrap_or_default().to_owned());
    };
    let mut spec = pod["spec"].take();
    sort(&mut spec["volumes"], "name");
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            sort(&mut container["volumeMounts"], "mountPath");
            sort(&mut container["env"], "name");
        }
    }
    json!({"spec": spec, "labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]})
}

#[tokio::test]
async fn a_file_is_injected_as_the_webhook_injects_the_same_pods() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "inject", &[]).await?;
    namespace.make_resource("memory", json!({"sidecar": {"protocolPort": 9000, "socket": true}})).await?;
    let mut rich = annotated(asking("rich"), "contextmanager.dev/agent-id", "team/rich");
    rich["spec"]["initContainers"] = json!([{"name": "prepare", "image": "localhost/agent:1",
        "securityContext": {"allowPrivilegeEscalation": false}}]);
    rich["spec"]["containers"][0]["env"] = json!([{"name": "MINE", "value": "1"}]);
    rich["spec"]["volumes"] = json!([{"name": "mine", "emptyDir": {}}]);
    let pods = [asking("bare"), rich, labelled(pod("labelled"), INJECT, "true")];
    let folder = tempfile::tempdir()?;
    let path = file(&folder, &pods.clone().map(written))?;
    let image = sidecar_image();
    let inject = ["inject", "-f", path.to_str().context("a path")?, "-n", &namespace.name, "--sidecar-image", &image];
    let said = run(&[&inject[..], &["--on-missing", "skip", "-o", "json"]].concat()).await?.expect(0)?;
    let injected = said.json()?["items"].as_array().cloned().context("a list")?;
    for (before, after) in pods.iter().zip(injected) {
        ensure!(after["spec"]["initContainers"][0]["name"] == "context-manager", "{after}");
        let by_webhook = namespace.try_pod(before).await?;
        let by_file = namespace.try_pod(&after).await?;
        ensure!(settled(&by_webhook) == settled(&by_file), "{}\n{}", settled(&by_webhook), settled(&by_file));
    }
    // As a pipe into kubectl it is YAML.
    let said = run(&inject).await?.expect(0)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&said.text)?;
    ensure!(documents.len() == 3 && said.notes.contains("agent team/rich"), "{said:?}");
    Ok(())
}

/// The level that a check found.
fn level<'a>(findings: &'a Value, check: &str) -> Result<(&'a str, &'a str)> {
    let found = findings.as_array().into_iter().flatten().find(|found| found["check"] == check);
    let found = found.with_context(|| format!("no {check} in {findings}"))?;
    Ok((found["level"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default()))
}

#[tokio::test]
async fn before_an_installation_rights_and_versions_are_checked() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let findings = run(&["check", "--before-install", "-o", "json"]).await?.expect(0)?.json()?;
    for check in ["api-server", "native-sidecars", "rights-to-install", "definition", "pod-security"] {
        ensure!(level(&findings, check)?.0 == "Fine", "{findings}");
    }
    let said = run(&["check", "--before-install", "--as", "nobody", "-o", "json"]).await?.expect(3)?.json()?;
    let (found, message) = level(&said, "rights-to-install")?;
    ensure!(found == "Problem" && message.contains("mutatingwebhookconfigurations"), "{said}");
    ensure!(message.starts_with("you may not create namespaces; "), "a namespace that nobody sees: {message}");
    // What nobody may read is said, and does not end the check.
    ensure!(level(&said, "native-sidecars").is_err() && level(&said, "nodes")?.0 == "Unknown", "{said}");
    ensure!(level(&said, "definition")?.1.contains("get customresourcedefinitions"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_installation_is_checked_up_to_a_pod_that_gets_its_sidecar() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "check", &[]).await?;
    provision(&namespace, "memory", json!({})).await?;
    let scope = operator.webhook.configuration();
    let check = ["check", "-n", &namespace.name, "--webhook-configuration", scope, "-o", "json"];
    // Controller and webhook of a suite are no Deployments.
    let findings = run(&check).await?.expect(3)?.json()?;
    for check in ["definition", "webhook-registration", "webhook-trust", "injection", "leader", "your-rights"] {
        ensure!(level(&findings, check)?.0 == "Fine", "{check}: {findings}");
    }
    let yours = level(&findings, "your-rights")?.1;
    ensure!(yours.ends_with("status, explain, rotate keys, upgrade-sidecars, query, export, import"), "{yours}");
    ensure!(level(&findings, "webhook-trust")?.1.contains("what is served is trusted"), "{findings}");
    ensure!(
        level(&findings, "webhook")?.0 == "Problem" && level(&findings, "controller")?.0 == "Problem",
        "{findings}"
    );
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_is_not_trusted_and_not_there_is_a_problem() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let scope = format!("suite-check-{}", std::process::id());
    let registration = Registration::create(&client, &[&scope], dead_address()?).await?;
    let namespace = registration.namespace(&client, "check", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let check = ["check", "-n", &namespace.name, "--webhook-configuration", &scope, "-o", "json"];
    let findings = eventually("the registration in force", PATIENCE, || async {
        let findings = run(&check).await?.expect(3)?.json()?;
        ensure!(level(&findings, "injection")?.0 == "Problem", "{findings}");
        Ok::<_, anyhow::Error>(findings)
    })
    .await?;
    let (found, message) = level(&findings, "webhook-trust")?;
    ensure!(found == "Problem" && message.contains("no caBundle"), "{findings}");
    ensure!(level(&findings, "injection")?.1.contains("failed calling webhook"), "{findings}");
    ensure!(level(&findings, "webhook-registration")?.0 == "Fine", "{findings}");
    Ok(())
}

#[tokio::test]
async fn the_status_shows_all_resources_and_one_with_its_pods() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "status", &[]).await?;
    provision(&namespace, "memory", json!({})).await?;
    let here = ["-n", namespace.name.as_str()];
    let said = run(&[&["status"], &here[..]].concat()).await?.expect(0)?;
    let row = said.text.lines().find(|line| line.contains("memory")).context("a row")?;
    ensure!(row.contains("True") && row.contains("Provisioned") && row.contains("Embedded/EmptyDir"), "{row}");
    namespace.make::<Pod>(&asking("agent")).await?;
    let said = run(&[&["status", "memory"], &here[..]].concat()).await?.expect(0)?;
    for part in ["KeysRotated", "Certificate:", "Key:", "POD", "agent "] {
        ensure!(said.text.contains(part), "no {part:?} in {said:?}");
    }
    let auth = json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}}});
    namespace.make_resource("broken", auth).await?;
    wait_for(&namespace, "broken", "Ready", "False", Some("SecretNotFound")).await?;
    let said = run(&[&["status"], &here[..]].concat()).await?.expect(3)?;
    ensure!(said.text.contains("broken") && said.text.contains("names the Secret \"mine\""), "{said:?}");
    let json = run(&[&["status", "-o", "json"], &here[..]].concat()).await?.json()?;
    ensure!(json[0]["name"] == "broken" && json[1]["status"]["keys"]["active"].is_string(), "{json}");
    let yaml = run(&[&["status", "memory", "-o", "yaml"], &here[..]].concat()).await?.expect(0)?;
    let yaml: Value = serde_saphyr::from_str(&yaml.text)?;
    ensure!(yaml["pods"][0]["name"] == "agent" && yaml["ready"] == "True", "{yaml}");
    Ok(())
}

/// A user with a few rights in one namespace.
async fn grant(namespace: &Namespace, user: &str, rules: Value) -> Result<()> {
    let name = json!({"name": user});
    let role: Role = serde_json::from_value(json!({"metadata": name, "rules": rules}))?;
    namespace.api::<Role>().create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": name,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }))?;
    namespace.api::<RoleBinding>().create(&PostParams::default(), &binding).await?;
    Ok(())
}

#[tokio::test]
async fn somebody_with_few_rights_gets_what_they_may_see_and_is_told_the_rest() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "rights", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    namespace.make::<Pod>(&asking("agent")).await?;
    let user = namespace.name.clone();
    let rules = json!([
        {"apiGroups": ["contextmanager.dev"], "resources": ["contextmanagers"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]);
    grant(&namespace, &user, rules).await?;
    let mine = ["--as", &user, "-n", &namespace.name];
    let explain = [&["explain", "agent", "-o", "json"], &mine[..]].concat();
    let said = eventually("the new rights", PATIENCE, || async { run(&explain).await?.expect(0) }).await?;
    let explained = said.json()?;
    // The image of the sidecar is the webhook's, which may not be read; so nobody can say whether the pod has it.
    ensure!(explained["outcome"] == "Injected" && explained["state"].is_null(), "{explained}");
    ensure!(explained["image"].is_null() && explained["webhook"]["asked"] == "Unknown", "{explained}");
    ensure!(said.notes.contains("get namespaces") && said.notes.contains("--sidecar-image"), "{said:?}");
    let image = sidecar_image();
    let known = [&explain[..], &["--sidecar-image", &image]].concat();
    ensure!(run(&known).await?.expect(0)?.json()?["state"] == "UpToDate");
    let said = run(&[&["status", "memory"], &mine[..]].concat()).await?;
    ensure!(said.notes.contains("list pods") && said.text.contains("The pods are not known"), "{said:?}");
    // A problem that can be seen without more rights counts.
    namespace.make_resource("astray", json!({"vectorStore": {"qdrant": {"url": "http://127.0.0.1:1"}}})).await?;
    let said = run(&[&["check", "--installed", "-o", "json"], &mine[..]].concat()).await?.expect(3)?.json()?;
    ensure!(level(&said, "context-managers")?.0 == "Problem", "{said}");
    let yours = level(&said, "your-rights")?.1;
    for moving in ["query", "export", "import"] {
        let lacks =
            format!("{moving} (it takes the right to create pods/portforward in namespace {user} and to get secrets");
        ensure!(yours.contains(&lacks), "{yours}");
    }
    let said = run(&["status", "-n", "default", "--as", &user]).await?.expect(1)?;
    ensure!(said.notes.contains("list contextmanagers.contextmanager.dev"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn exit_codes_tell_a_wrong_command_line_from_a_cluster_that_is_away() -> Result<()> {
    run(&["check", "--nonsense"]).await?.expect(2)?;
    for nothing in ["configmap/a", "pod/", "pod/a/log"] {
        run(&["explain", nothing]).await?.expect(2)?;
    }
    run(&["--help"]).await?.expect(0)?;
    let folder = tempfile::tempdir()?;
    let (nowhere, dead) = (folder.path().join("none"), folder.path().join("dead"));
    let said = run_on(&nowhere, &["status"]).await?.expect(1)?;
    ensure!(said.notes.contains("set KUBECONFIG"), "{said:?}");
    let server = format!("https://{}", dead_address()?);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    });
    fs::write(&dead, config.to_string())?;
    let said = run_on(&dead, &["status"]).await?.expect(1)?;
    ensure!(said.notes.contains("does not answer"), "{said:?}");
    // Injection needs no cluster at all.
    let path = file(
        &folder,
        &[
            written(asking("a")),
            json!({"apiVersion": "contextmanager.dev/v1alpha1",
        "kind": "ContextManager", "metadata": {"name": "memory"}, "spec": {}}),
        ],
    )?;
    let path = path.to_str().context("a path")?;
    run_on(&dead, &["inject", "--offline", "--sidecar-image", "sidecar:1", "-f", path]).await?.expect(0)?;
    let said = run_on(&dead, &["inject", "--offline", "-f", path]).await?.expect(1)?;
    ensure!(said.notes.contains("--sidecar-image"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_is_rotated_and_followed_until_it_signs() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "rotate", &[]).await?;
    provision(&namespace, "memory", json!({"auth": {"rotation": {"overlap": "2s"}}})).await?;
    let here = ["-n", namespace.name.as_str(), "-o", "json"];
    let said =
        run(&[&["rotate", "keys", "memory", "--wait", "--timeout", "60"], &here[..]].concat()).await?.expect(0)?;
    let rotated = said.json()?;
    ensure!(rotated["now"].is_string() && rotated["now"] != rotated["before"], "{rotated}");
    ensure!(said.notes.contains("Publishing"), "the steps are told: {said:?}");
    let found = namespace.resources().get("memory").await?;
    ensure!(found.data["status"]["keys"]["active"] == rotated["now"], "{}", found.data["status"]);
    // Without waiting it only asks.
    let asked = run(&[&["rotate", "keys", "memory"], &here[..]].concat()).await?.expect(0)?.json()?;
    ensure!(asked["state"] == "Requested" && asked["before"] == rotated["now"], "{asked}");

    let ring = json!({"active": {"id": "first", "key": "QUJD".repeat(12)}}).to_string();
    namespace.make::<Secret>(&json!({"metadata": {"name": "mine"}, "stringData": {"keys.json": ring}})).await?;
    let own = json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}}});
    provision(&namespace, "own", own).await?;
    let said = run(&[&["rotate", "keys", "own"], &here[..]].concat()).await?.expect(1)?;
    ensure!(said.notes.contains("write a new active key to the Secret \"mine\""), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_is_planned_asked_for_once_and_given_up_with_the_next_change() -> Result<()> {
    const ASKED: &str = "contextmanager.dev/upgrade-sidecars";
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "upgrade", &[]).await?;
    provision(&namespace, "memory", json!({})).await?;
    namespace.make::<Pod>(&asking("agent")).await?;
    let (image, next) = (sidecar_image(), next_sidecar_image());
    let upgrade = async |more: &[&str]| {
        let all =
            [&["upgrade-sidecars", "-n", &namespace.name, "--sidecar-image", &image, "-o", "json"], more].concat();
        run(&all).await
    };
    let said = upgrade(&[]).await?.expect(0)?.json()?;
    ensure!(said[0]["state"] == "UpToDate" && said[0]["pods"][0]["step"] == "None", "{said}");

    let change = Patch::Merge(json!({"spec": {"sidecar": {"image": next}}}));
    namespace.resources().patch("memory", &PatchParams::default(), &change).await?;
    let said = upgrade(&["memory"]).await?.expect(3)?.json()?;
    ensure!(said[0]["state"] == "NoStrategy" && said[0]["outdated"] == 1, "{said}");
    ensure!(said[0]["pods"][0]["standing"] == "OtherImage" && said[0]["pods"][0]["step"] == "Remain", "{said}");
    // Nobody would make this pod again.
    let said = upgrade(&["--strategy", "rolling-restart"]).await?.expect(3)?.json()?;
    ensure!(said[0]["state"] == "NeedNewPods", "{said}");
    let said = upgrade(&["--strategy", "in-place", "--dry-run"]).await?.expect(0)?.json()?;
    ensure!(said[0]["state"] == "NotRequested" && said[0]["pods"][0]["step"] == "Replace", "{said}");
    let found = namespace.resources().get("memory").await?;
    ensure!(!found.annotations().contains_key(ASKED), "a dry run wrote {:?}", found.annotations());
    let table = ["upgrade-sidecars", "-n", &namespace.name, "--sidecar-image", &image];
    let said = run(&table).await?.expect(3)?;
    ensure!(
        said.text.contains("it stays as it is until it is made anew") && said.text.contains("--strategy"),
        "{said:?}"
    );

    let user = namespace.name.clone();
    let rules = json!([
        {"apiGroups": ["contextmanager.dev"], "resources": ["contextmanagers"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]);
    grant(&namespace, &user, rules).await?;
    eventually("the new rights", PATIENCE, || async {
        let said = upgrade(&["--strategy", "in-place", "--as", &user]).await?.expect(1)?;
        ensure!(said.notes.contains("patch contextmanagers.contextmanager.dev"), "{said:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    let said = upgrade(&["--strategy", "in-place"]).await?.expect(0)?.json()?;
    ensure!(said[0]["state"] == "Requested" && said[0]["configured"] == "OnRecreate", "{said}");
    let of = async || -> Result<Value> { Ok(json!(namespace.api::<Pod>().get("agent").await?.spec)) };
    eventually("the new image", PATIENCE, || async {
        let spec = of().await?;
        ensure!(spec["initContainers"][0]["image"] == next.as_str(), "{spec}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    // No node takes the pod, so its sidecar never becomes ready.
    let said = upgrade(&["--wait", "--timeout", "1"]).await?.expect(3)?;
    ensure!(said.json()?[0]["state"] == "Upgrading" && said.notes.contains("it goes on"), "{said:?}");
    ensure!(said.notes.contains("watching agent"), "{said:?}");

    // Another image is another upgrade, for which nobody asked.
    let change = Patch::Merge(json!({"spec": {"sidecar": {"image": null}}}));
    namespace.resources().patch("memory", &PatchParams::default(), &change).await?;
    eventually("the end of the request", PATIENCE, || async {
        let found = namespace.resources().get("memory").await?;
        let conditions = found.data["status"]["conditions"].to_string();
        ensure!(!conditions.contains("SidecarsCurrent"), "{conditions}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let said = upgrade(&[]).await?.expect(3)?.json()?;
    ensure!(said[0]["state"] == "NoStrategy" && said[0]["outdated"] == 1, "{said}");
    Ok(())
}

/// Tries pods until one is admitted without its sidecar, or refused.
async fn keep_trying(namespace: &Namespace) -> Result<()> {
    loop {
        let happens = really(namespace, &asking("asks")).await?;
        ensure!(happens == "Injected", "it is {happens}");
    }
}

#[tokio::test]
async fn the_webhooks_ca_is_rotated_and_every_pod_is_admitted_meanwhile() -> Result<()> {
    let mut options = Options::default();
    options.lifetimes.grace = Duration::from_secs(1);
    let webhook = Webhook::start(options).await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "rotate", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    let home = webhook.configuration();
    let rotate = ["rotate", "ca", "--secret", "webhook-ca", "--operator-namespace", home, "--wait", "-o", "json"];
    for _ in 0..2 {
        let said = tokio::select! {
            refused = keep_trying(&namespace) => return refused,
            said = run(&rotate) => said?.expect(0)?,
        };
        let rotated = said.json()?;
        ensure!(rotated["state"] == "Signing" && rotated["now"] != rotated["before"], "{rotated}");
    }
    let findings = run(&["check", "--webhook-configuration", home, "-o", "json"]).await?.json()?;
    ensure!(level(&findings, "webhook-trust")?.0 == "Fine", "{findings}");
    Ok(())
}

/// The Deployments of a release, which run nothing.
async fn release(home: &Namespace, name: &str, class: &str, image: &str, configuration: &str) -> Result<()> {
    for component in ["controller", "webhook"] {
        let labels = json!({
            "app.kubernetes.io/part-of": "context-manager",
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/instance": name,
        });
        let arguments = [
            format!("--controller-class={class}"),
            format!("--sidecar-image={image}"),
            format!("--ca-secret={name}-ca"),
            format!("--webhook-configuration={configuration}"),
        ];
        let container = json!({"name": component, "image": "localhost/context-manager-operator:1", "args": arguments});
        let deployment = json!({"metadata": {"name": format!("{name}-{component}"), "labels": labels}, "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }});
        home.make::<Deployment>(&deployment).await?;
    }
    Ok(())
}

#[tokio::test]
async fn of_several_releases_in_a_namespace_the_one_of_the_class_counts() -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let home = Namespace::create(&client, "releases", &[]).await?;
    release(&home, "first", "default", "localhost/sidecar:1", "first").await?;
    release(&home, "second", "blue", "localhost/sidecar:2", webhook.configuration()).await?;
    let namespace = webhook.namespace(&client, "releases", &[]).await?;
    namespace.make_resource("mine", json!({})).await?;
    namespace.make_resource("blue", json!({"controllerClassName": "blue"})).await?;
    let ask = async |arguments: &[&str]| {
        run(&[arguments, &["-n", &namespace.name, "--operator-namespace", &home.name, "-o", "json"]].concat()).await
    };
    let said = ask(&["upgrade-sidecars"]).await?.expect(0)?.json()?;
    ensure!(said[0]["name"] == "blue" && said[0]["image"] == "localhost/sidecar:2", "{said}");
    ensure!(said[1]["name"] == "mine" && said[1]["image"] == "localhost/sidecar:1", "{said}");
    let folder = tempfile::tempdir()?;
    let path = file(&folder, &[written(annotated(asking("agent"), "contextmanager.dev/name", "blue"))])?;
    let said = ask(&["explain", "-f", path.to_str().context("a path")?]).await?.expect(0)?.json()?;
    ensure!(said[0]["outcome"] == "Injected" && said[0]["image"] == "localhost/sidecar:2", "{said}");
    let said = ask(&["rotate", "ca"]).await?.expect(1)?;
    ensure!(said.notes.contains("\"first\", \"second\"") && said.notes.contains("--release"), "{said:?}");
    let said = ask(&["rotate", "ca", "--release", "second"]).await?.expect(1)?;
    ensure!(said.notes.contains("\"second-ca\""), "{said:?}");
    let said = ask(&["rotate", "ca", "--release", "third"]).await?.expect(1)?;
    ensure!(said.notes.contains("the webhook of a release \"third\""), "{said:?}");
    let scope = webhook.configuration();
    let said = ask(&["check", "--installed", "--webhook-configuration", scope]).await?.expect(3)?.text;
    for part in ["first-controller", "first-webhook", "second-controller", "second-webhook"] {
        ensure!(said.contains(&format!("no replica of {part} is available")), "no {part} in {said}");
    }

    // Two that would both do.
    release(&home, "third", "default", "localhost/sidecar:3", "third").await?;
    let said = ask(&["upgrade-sidecars", "mine"]).await?.expect(1)?;
    ensure!(said.notes.contains("\"first\", \"third\"") && said.notes.contains("--release"), "{said:?}");
    let said = ask(&["upgrade-sidecars", "mine", "--release", "third"]).await?.expect(0)?.json()?;
    ensure!(said[0]["image"] == "localhost/sidecar:3", "{said}");
    let said = ask(&["upgrade-sidecars", "blue", "--release", "third"]).await?.expect(1)?;
    ensure!(said.notes.contains("no webhook of class \"blue\""), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn before_an_uninstallation_it_is_said_which_namespaces_were_not_looked_at() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let namespace = Namespace::create(&client, "uninstall", &[]).await?;
    let check = ["check", "--before-uninstall", "-n", &namespace.name, "-o", "json"];
    let findings = run(&check).await?.expect(0)?.json()?;
    let (found, message) = level(&findings, "held-resources")?;
    let only = format!("of namespace {:?} were looked at", namespace.name);
    ensure!(found == "Warning" && message.contains(&only), "{findings}");
    Ok(())
}

#[tokio::test]
async fn a_report_has_what_support_needs_and_not_a_byte_of_a_secret() -> Result<()> {
    const PASSWORD: &str = "correct-horse-battery-staple";
    // It is in no Secret, so nobody looks for it.
    const IN_URL: &str = "tr0ub4dor-and-3";
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "report", &[]).await?;
    namespace.make::<Secret>(&json!({"metadata": {"name": "provider"}, "stringData": {"token": PASSWORD}})).await?;
    let url = format!("https://me:{IN_URL}@embeddings.example/v1/embeddings?api-key={IN_URL}");
    let embedding = json!({"provider": "openAI", "url": url, "model": "m", "dimensions": 8,
        "apiKeySecretRef": {"name": "provider", "key": "token"}});
    provision(&namespace, "memory", json!({"embedding": embedding})).await?;
    let mut agent = asking("agent");
    agent["spec"]["containers"][0]["env"] = json!([{"name": "TOKEN", "value": PASSWORD}]);
    agent["spec"]["containers"][0]["args"] = json!(["--prompt", "the agent's own words"]);
    agent["metadata"]["annotations"]["note"] = json!(PASSWORD);
    namespace.make::<Pod>(&agent).await?;
    let theirs = json!({
        "metadata": {"name": "theirs"}, "eventTime": jiff::Timestamp::now().to_string(), "type": "Normal", "action": "Sold",
        "reason": "Sold", "note": PASSWORD, "reportingController": "shop", "reportingInstance": "shop-1",
        "regarding": {"kind": "ConfigMap", "name": "shop", "namespace": namespace.name},
    });
    namespace.make::<Event>(&theirs).await?;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("report.tar.gz");
    let file = path.to_str().context("a path")?;
    let report = ["report", "-n", &namespace.name, "--file", file, "-o", "json"];
    let written = run(&report).await?.expect(0)?.json()?;
    ensure!(written["notRead"] == json!([]) && written["scrubbed"] == 0, "{written}");
    let files = unpack(&path)?;
    ensure!(written["files"] == files.len(), "{written}");
    let inside = |name: &str| files.get(&format!("namespaces/{}/{name}", namespace.name)).context(name.to_owned());
    ensure!(inside("contextmanagers/memory.yaml")?.contains("type: Ready"));
    ensure!(inside("configmaps/memory-context-config.yaml")?.contains("config.toml"));
    ensure!(inside("pods/agent/pod.yaml")?.contains("name: context-manager"));
    let events = inside("events.yaml")?;
    ensure!(events.contains("KeysGenerated") && !events.contains("Sold"), "{events}");
    let secrets = inside("secrets.yaml")?;
    for name in ["memory-context-keys", "memory-context-tls", "provider", "keys.json", "tls.key"] {
        ensure!(secrets.contains(name), "no {name} in {secrets}");
    }
    ensure!(files.contains_key("versions.yaml") && files.contains_key("operator/secrets.yaml"), "{:?}", files.keys());

    let all: String = files.values().cloned().collect();
    ensure!(!all.contains(IN_URL), "a password of a URL is in it");
    ensure!(
        inside("configmaps/memory-context-config.yaml")?
            .contains("[redacted]@embeddings.example/v1/embeddings?api-key=")
    );
    ensure!(!all.contains(PASSWORD) && !all.contains("the agent's own words"), "words of the agent are in it");
    for secret in ["memory-context-keys", "memory-context-tls", "provider"] {
        let found = namespace.api::<Secret>().get(secret).await?;
        for (key, value) in found.data.unwrap_or_default() {
            // CA and certificate are public: their Base64 as a value is not looked for, but nothing prints it either.
            let encoded = serde_json::to_value(&value)?;
            ensure!(!all.contains(encoded.as_str().context("Base64")?), "{secret} {key} is in it");
            let text = String::from_utf8(value.0)?;
            let pieces: Vec<_> = text.split(|char: char| !(char.is_alphanumeric() || "+/=".contains(char))).collect();
            for piece in pieces.into_iter().filter(|piece| piece.len() >= 24) {
                ensure!(!all.contains(piece), "a piece of {secret} {key} is in it");
            }
        }
    }
    let said = run(&report).await?.expect(1)?;
    ensure!(said.notes.contains("--file"), "nothing is written over: {said:?}");
    Ok(())
}

#[tokio::test]
async fn a_report_says_what_its_author_may_not_read() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let namespace = Namespace::create(&client, "report", &[]).await?;
    let user = namespace.name.clone();
    let rules =
        json!([{"apiGroups": ["contextmanager.dev"], "resources": ["contextmanagers"], "verbs": ["get", "list"]}]);
    grant(&namespace, &user, rules).await?;
    namespace.make_resource("memory", json!({})).await?;
    let folder = tempfile::tempdir()?;
    let written = eventually("the new rights", PATIENCE, || async {
        let path = folder.path().join(format!("{}.tar.gz", rand::random::<u32>()));
        let file = path.to_str().context("a path")?;
        let said = run(&["report", "--as", &user, "-n", &user, "--file", file, "-o", "json"]).await?.expect(0)?;
        let files = unpack(&path)?;
        ensure!(files.contains_key(&format!("namespaces/{user}/contextmanagers/memory.yaml")), "{:?}", files.keys());
        said.json()
    })
    .await?;
    let not_read = written["notRead"].to_string();
    for right in ["get secrets", "list pods", "list events.events.k8s.io", "list deployments.apps"] {
        ensure!(not_read.contains(right), "no {right:?} in {not_read}");
    }
    Ok(())
}
