//! What GitOps asks for: applying the same objects again changes nothing, taking them away leaves nothing, and who waits for a resource
//! hears when it is ready.

use std::{env, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    helm::Release,
    operator::{Operator, condition},
};
use k8s_openapi::api::{
    apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, networking::v1::NetworkPolicy,
    scheduling::v1::PriorityClass,
};
use kube::{Api, api::ListParams};
use serde_json::Value;

/// How long an autoscaler may take: it looks every 15 s.
const SCALED: Duration = Duration::from_mins(1);
/// How long helm is seen waiting.
const WHILE: Duration = Duration::from_secs(2);

/// kubectl with the cluster of the tests.
fn kubectl(arguments: &[&str]) -> Result<(bool, String)> {
    let program = env::var_os("CONTEXT_MANAGER_TEST_KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    if let Some(kubeconfig) = env::var_os("CONTEXT_MANAGER_TEST_KUBECONFIG") {
        command.env("KUBECONFIG", kubeconfig);
    }
    let output =
        command.args(arguments).output().context("kubectl is not there; run the suites by `cargo xtask test`")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), said))
}

fn must(arguments: &[&str]) -> Result<String> {
    let (succeeded, said) = kubectl(arguments)?;
    ensure!(succeeded, "kubectl {arguments:?}: {said}");
    Ok(said)
}

/// An overlay as a user would write one, which starts no pod and leaves the cluster's definition of the resource and its
/// namespace alone: the suites share both.
fn overlay(folder: &Path, namespace: &str) -> Result<()> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base").canonicalize()?;
    // kustomize takes relative paths only.
    let up = "../".repeat(folder.canonicalize()?.components().count() - 1);
    let base = format!("{up}{}", base.display().to_string().trim_start_matches('/'));
    let delete = |kind: &str, name: &str| {
        format!(
            "  - {{target: {{kind: {kind}}}, patch: \"{{$patch: delete, kind: {kind}, metadata: {{name: {name}}}}}\"}}\n"
        )
    };
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [\"{base}\"]\nnamespace: {namespace}\n\
         nameSuffix: -{namespace}\nreplicas:\n  - {{name: context-manager-controller, count: 0}}\n  \
         - {{name: context-manager-webhook, count: 0}}\npatches:\n{}{}{}",
        delete("CustomResourceDefinition", "contextmanagers.contextmanager.dev"),
        delete("Namespace", "context-manager-system"),
        // While nobody answers, pods that ask would be refused, those of other suites too.
        "  - target: {kind: MutatingWebhookConfiguration}\n    patch: |\n      \
         - {op: replace, path: /webhooks/0/failurePolicy, value: Ignore}\n      \
         - {op: replace, path: /webhooks/1/failurePolicy, value: Ignore}\n",
    );
    fs::write(folder.join("kustomization.yaml"), text).context("failed to write the overlay")
}

/// Name and version of every object.
fn versions(folder: &str) -> Result<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(&must(&["get", "-k", folder, "-o", "json"])?)?;
    let items = list["items"].as_array().context("a list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut versions: Vec<_> = items
        .iter()
        .map(|item| {
            let name = format!("{} {}", text(&item["kind"]), text(&item["metadata"]["name"]));
            (name, text(&item["metadata"]["resourceVersion"]))
        })
        .collect();
    versions.sort();
    Ok(versions)
}

#[tokio::test]
async fn applying_twice_changes_nothing_and_deleting_leaves_nothing() -> Result<()> {
    let client = cluster::client().await?;
    let namespace = Namespace::create(&client, "gitops", &[]).await?;
    let folder = tempfile::tempdir()?;
    overlay(folder.path(), &namespace.name)?;
    let path = folder.path().to_str().context("a path in UTF-8")?;
    must(&["apply", "--server-side", "--field-manager=gitops", "--validate=strict", "-k", path])?;
    // Controllers write the status of these meanwhile, which is no change of what was applied.
    let with_status = |name: &str| name.starts_with("Deployment ") || name.starts_with("PodDisruptionBudget ");
    let settled = |versions: Vec<(String, String)>| {
        versions.into_iter().filter(|(name, _)| !with_status(name)).collect::<Vec<_>>()
    };
    let first = settled(versions(path)?);
    ensure!(first.len() >= 12, "only these objects are there: {first:?}");
    let (same, difference) = kubectl(&["diff", "--server-side", "--field-manager=gitops", "-k", path])?;
    ensure!(same, "there is a difference right after applying:\n{difference}");
    must(&["apply", "--server-side", "--field-manager=gitops", "-k", path])?;
    assert_eq!(settled(versions(path)?), first, "applying again wrote something");
    must(&["delete", "--wait", "--timeout=60s", "-k", path])?;
    let (_, left) = kubectl(&["get", "-k", path, "--ignore-not-found", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "these objects are left: {left}");
    Ok(())
}

/// Values of the chart for what it makes only if asked to, on a release whose pods no node takes.
const OPTIONS: &str = r#"{
    "crds": {"install": false},
    "priorityClass": {"create": true, "value": 123456},
    "networkPolicy": {"enabled": true},
    "controller": {"nodeSelector": {"suite": "nowhere"}},
    "webhook": {
        "nodeSelector": {"suite": "nowhere"},
        "failurePolicy": "Ignore",
        "autoscaling": {"enabled": true, "minReplicas": 3, "maxReplicas": 4, "targetCPUUtilizationPercentage": 70}
    }
}"#;

/// Whether the webhook has the replicas that its autoscaler wants at least.
async fn scaled(home: &Namespace) -> Result<()> {
    let deployment = home.api::<Deployment>().get("suite-options-context-manager-webhook").await?;
    let replicas = deployment.spec.replicas;
    ensure!(replicas == Some(3), "{replicas:?} replicas");
    Ok(())
}

/// The API server takes what golden files alone would only show, and the cluster's controllers work with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_chart_makes_only_if_asked_to_works_and_survives_being_applied_again() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let home = Namespace::create(&client, "options", &[("pod-security.kubernetes.io/enforce", "restricted")]).await?;
    let release = Release::new("suite-options", &home.name)?;
    let values = release.folder().join("values.json");
    fs::write(&values, OPTIONS)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let chart = root.join("charts/context-manager");
    let (chart, values) = (chart.to_str().context("a path in UTF-8")?, values.to_str().context("a path in UTF-8")?);
    let arguments = [chart, "--values", values, "--hide-notes"];
    release.helm(&["install"], &arguments).await?;

    let classes = Api::<PriorityClass>::all(client.clone());
    let class = classes.get("suite-options-context-manager").await?;
    let is_right = class.value == Some(123_456) && class.preemption_policy.as_deref() == Some("PreemptLowerPriority");
    ensure!(is_right && class.global_default != Some(true), "{class:?}");
    let policies = home.api::<NetworkPolicy>().list(&ListParams::default()).await?;
    ensure!(policies.items.len() == 2, "{:?}", policies.items);

    // The autoscaler finds the webhook's Deployment, whose replicas are its own; and its pods have the priority of the class.
    eventually("the autoscaler", SCALED, || scaled(&home)).await?;
    eventually("what the autoscaler says", SCALED, || async {
        let autoscaler = home.api::<HorizontalPodAutoscaler>().get("suite-options-context-manager-webhook").await?;
        let conditions = autoscaler.status.and_then(|status| status.conditions).unwrap_or_default();
        let able = conditions.iter().find(|condition| condition.type_ == "AbleToScale").context("it says nothing")?;
        ensure!(able.status == "True", "{able:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    eventually("pods of both parts", SCALED, || async {
        for (component, count) in [("webhook", 3), ("controller", 2)] {
            let pods = release.pods(&home, component).await?;
            ensure!(pods.len() == count, "{} pods of the {component}", pods.len());
            let priorities: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.priority).collect();
            ensure!(priorities == vec![123_456; count], "{priorities:?}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    // Applying again leaves the replicas to the autoscaler.
    release.helm(&["upgrade"], &arguments).await?;
    scaled(&home).await?;
    release.helm(&["uninstall"], &["--wait", "--timeout", "1m"]).await?;
    ensure!(classes.get_opt("suite-options-context-manager").await?.is_none(), "the class is left");
    Ok(())
}

/// The first block of YAML below a heading of a page.
fn example<'a>(page: &'a str, heading: &str) -> Result<&'a str> {
    let (_, section) = page.split_once(heading).with_context(|| format!("no {heading:?}"))?;
    let (_, block) = section.split_once("```yaml\n").context("no example")?;
    Ok(block.split_once("```").context("an example without end")?.0)
}

/// What the page tells users of kustomize to write, as they would.
#[test]
fn the_overlay_of_the_page_brings_every_image_from_elsewhere() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let page = fs::read_to_string(root.join("docs/gitops.md"))?;
    let written = example(&page, "## kustomize")?;
    let (resources, rest) = written.split_once('\n').context("lines")?;
    ensure!(resources.starts_with("resources: ["), "{resources}");
    let folder = tempfile::tempdir()?;
    let base = folder.path().join("base");
    fs::create_dir(&base)?;
    for entry in fs::read_dir(root.join("deploy/kustomize/base"))? {
        let entry = entry?;
        fs::copy(entry.path(), base.join(entry.file_name()))?;
    }
    let overlay = folder.path().join("overlay");
    fs::create_dir(&overlay)?;
    fs::write(overlay.join("kustomization.yaml"), format!("resources: [../base]\n{rest}"))?;
    let built = must(&["kustomize", overlay.to_str().context("a path in UTF-8")?])?;
    let named = |image: &str| built.matches(&format!("registry.example.com/team/{image}:0.1.0\n")).count();
    ensure!(!built.contains("localhost/"), "an image of the base is left:\n{built}");
    ensure!(named("context-manager-operator") == 2, "not both programs come from there:\n{built}");
    ensure!(named("context-manager-sidecar") == 2, "webhook and controller have different sidecars:\n{built}");
    Ok(())
}

/// A chart with a resource and nothing else.
fn chart(folder: &Path) -> Result<String> {
    let chart = folder.join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: memory\nversion: 0.1.0\n")?;
    fs::write(chart.join("values.yaml"), "spec: {}\n")?;
    let template = "apiVersion: contextmanager.dev/v1alpha1\nkind: ContextManager\nmetadata: {name: memory}\n\
                    spec: {{ toJson .Values.spec }}\n";
    fs::write(chart.join("templates/memory.yaml"), template)?;
    chart.to_str().map(str::to_owned).context("a path in UTF-8")
}

/// The generation that the status speaks of, and whether it says ready.
async fn seen(namespace: &Namespace) -> Result<(Option<i64>, bool)> {
    let found = namespace.api::<ContextManager>().get("memory").await?;
    let ready = condition(&found, "Ready").is_some_and(|said| said.status == "True");
    Ok((found.status.and_then(|status| status.observed_generation), ready))
}

/// helm's `--wait` reads kstatus, as Flux and kpt do.
#[tokio::test(flavor = "multi_thread")]
async fn helm_waits_until_a_resource_is_ready_and_no_longer_than_it_may_become_so() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let namespace = Namespace::create(&client, "kstatus", &[]).await?;
    let release = Release::new("suite-kstatus", &namespace.name)?;
    let chart = chart(release.folder())?;

    // Nobody looks at it.
    let waited = release.helm(&["install"], &[&chart, "--wait", "--timeout", "4s"]).await;
    let said = waited.err().context("helm takes what nobody has looked at for ready")?.to_string();
    ensure!(said.contains("latest observed generation is -1"), "{said}");
    ensure!(seen(&namespace).await? == (Some(-1), false), "{:?}", seen(&namespace).await?);
    let manifest = release.folder().join("manifest.yaml");
    fs::write(&manifest, release.helm(&["get", "manifest"], &[]).await?)?;
    let file = manifest.to_str().context("a path in UTF-8")?;
    let (same, difference) =
        kubectl(&["diff", "--server-side", "--field-manager=gitops", "-f", file, "-n", &namespace.name])?;
    ensure!(same, "there is a difference before anybody has looked at it:\n{difference}");
    release.helm(&["uninstall"], &[]).await?;

    let arguments = [chart.as_str(), "--wait", "--timeout", "90s"];
    let mut install = Box::pin(release.helm(&["install"], &arguments));
    let early = tokio::time::timeout(WHILE, &mut install).await;
    ensure!(early.is_err(), "helm did not wait: {early:?}");
    let _operator = Operator::shared().await?;
    install.await?;
    ensure!(seen(&namespace).await? == (Some(1), true), "helm waited for {:?}", seen(&namespace).await?);

    // The same once more writes nothing.
    let version =
        || async { Ok::<_, anyhow::Error>(namespace.resources().get("memory").await?.metadata.resource_version) };
    let before = version().await?;
    release.helm(&["upgrade"], &arguments).await?;
    ensure!(version().await? == before, "the same values wrote something");

    // What needs a person is not waited for.
    let missing = r#"spec={"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}}}"#;
    let failed = release.helm(&["upgrade"], &[&chart, "--wait", "--timeout", "10m", "--set-json", missing]).await;
    let said = failed.err().context("helm takes what needs a person for ready")?.to_string();
    ensure!(said.contains("status: Failed") && said.contains("mine"), "{said}");
    release.helm(&["rollback"], &["1", "--wait", "--timeout", "90s"]).await?;
    ensure!(seen(&namespace).await? == (Some(3), true), "helm waited for {:?}", seen(&namespace).await?);

    // What passes by itself is waited for as long as helm may, and is no failure: nobody listens at that port, yet.
    let other = Namespace::create(&client, "kstatus-passing", &[]).await?;
    let passing = Release::new("suite-kstatus-passing", &other.name)?;
    let away = r#"spec={"vectorStore": {"qdrant": {"url": "http://127.0.0.1:9"}}}"#;
    let waited = passing.helm(&["install"], &[&chart, "--wait", "--timeout", "10s", "--set-json", away]).await;
    let said = waited.err().context("helm takes what is not ready yet for ready")?.to_string();
    ensure!(said.contains("status: InProgress") && !said.contains("status: Failed"), "{said}");
    let found = other.api::<ContextManager>().get("memory").await?;
    let reconciling = condition(&found, "Reconciling").context("nothing passes by itself")?;
    ensure!(reconciling.status == "True", "{reconciling:?}");
    ensure!(found.status.context("a status")?.observed_generation == Some(1), "nobody has looked at it");
    Ok(())
}
