//! Alerts and dashboard: their expressions are right, and they ask for metrics that the programs really have.

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::controller::ABANDON;
use context_manager_protocol::message::Acknowledgment;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    gate::Authority,
    objects::asking,
    operator::{Operator, PATIENCE, provision},
    program,
    sidecar::Sidecar,
    unreadable::Unreadable,
    webhook::{dead_address, sidecar_image},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/context-manager/files/monitoring")
}

/// Runs promtool in the folder of the rules.
fn promtool(arguments: &[&str]) -> Result<String> {
    let program = env::var_os("CONTEXT_MANAGER_TEST_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let output = Command::new(program).args(arguments).current_dir(folder()).output();
    let output = output.context("promtool is not there; run the suites by `cargo xtask test`")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    Ok(said)
}

#[test]
fn alerts_fire_where_they_should_and_nowhere_else() -> Result<()> {
    let checked = promtool(&["check", "rules", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts.test.yaml"])?;
    // An alert without a test would pass the test above, and so would one that is only seen firing, or only silent.
    let rules: Rules = read("alerts.yaml")?;
    let rules: Vec<&Rule> = rules.groups.iter().flat_map(|group| &group.rules).collect();
    ensure!(checked.contains(&format!("{} rules found", rules.len())), "{checked}");
    let tests: Tests = read("alerts.test.yaml")?;
    let mut missing = Vec::new();
    for Rule { alert, labels: Labels { severity } } in rules {
        let cases = tests.tests.iter().flat_map(|test| &test.alert_rule_test).filter(|case| case.alertname == *alert);
        let (fires, silent): (Vec<&Case>, Vec<_>) =
            cases.partition(|case| case.exp_alerts.iter().any(|fired| fired.exp_labels.severity == *severity));
        for (cases, what) in [(fires, "fires"), (silent, "is silent")] {
            if cases.is_empty() {
                missing.push(format!("{alert} ({severity}) has no case in alerts.test.yaml where it {what}"));
            }
        }
    }
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

/// The page has a heading for each, which is where a link to what to do leads.
#[test]
fn every_alert_has_its_place_among_those_that_say_what_to_do() -> Result<()> {
    let page = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"))?;
    let rules: Rules = read("alerts.yaml")?;
    let alerts = rules.groups.iter().flat_map(|group| &group.rules).map(|rule| rule.alert.as_str());
    let alerts: BTreeSet<&str> = alerts.collect();
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("#### ")).collect();
    ensure!(alerts == headings, "docs/metrics.md and alerts.yaml differ: {:?}", alerts.symmetric_difference(&headings));
    Ok(())
}

fn read<T: DeserializeOwned>(file: &str) -> Result<T> {
    Ok(serde_saphyr::from_str(&fs::read_to_string(folder().join(file))?)?)
}

/// What is read of a file of rules.
#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    labels: Labels,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

/// What is read of a file of their tests.
#[derive(Deserialize)]
struct Tests {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    alert_rule_test: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    alertname: String,
    exp_alerts: Vec<Fired>,
}

#[derive(Deserialize)]
struct Fired {
    exp_labels: Labels,
}

/// The names of metrics in a text, without what a histogram adds to its name.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let base = |word: &str| {
        let suffix = ["_bucket", "_sum", "_count"].into_iter().find(|suffix| word.ends_with(suffix));
        suffix.map_or(word, |suffix| &word[..word.len() - suffix.len()]).to_owned()
    };
    words.filter(|word| word.starts_with("context_manager_")).map(base).collect()
}

/// Deletes a resource whose contexts are to go first, from a server that is away.
async fn leave(namespace: &Namespace, name: &str) -> Result<()> {
    let away = json!({"qdrant": {"url": format!("http://{}", dead_address()?)}});
    namespace.make_resource(name, json!({"vectorStore": away, "reclaimPolicy": "Delete"})).await?;
    let resources = namespace.api::<ContextManager>();
    eventually("the finalizer", 2 * PATIENCE, || async {
        ensure!(!resources.get(name).await?.finalizers().is_empty(), "there is none");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    resources.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_metrics_that_exist() -> Result<()> {
    let folder_of_sidecar = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder_of_sidecar.path(), "").await?;
    // Durations of embeddings and store calls are there from the first one on.
    let context = json!({"text": "the nightly build is green", "level": "long_term"});
    sidecar.client()?.post("/v1/contexts", &context).await?.message::<Acknowledgment>()?;
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "monitoring", &[]).await?;
    provision(&namespace, "memory", json!({})).await?;
    // Decisions are counted from the first one on.
    namespace.try_pod(&asking("agent")).await?;
    // Some metrics are about a certificate that was given.
    let mine = json!({"metadata": {"name": "mine"}, "stringData": Authority::new("Agents")?.given()?});
    namespace.make::<Secret>(&mine).await?;
    let given = json!({"tls": {"issuer": "Existing", "secretRef": {"name": "mine"}}});
    provision(&namespace, "given", given).await?;
    // And some about snapshots that are wanted, also before there are nodes that could take them.
    let snapshots = json!({"every": "1h", "storage": {"volume": {"size": "1Gi"}}});
    let managed = json!({
        "scheduling": {"nodeSelector": {"nowhere": "true"}}, "storage": {"storageClassName": "", "size": "1Gi"}, "snapshots": snapshots,
    });
    namespace.make_resource("managed", json!({"vectorStore": {"managed": managed}})).await?;
    // And some about resources that go no further: one that cannot be read, and one whose deletion waits.
    let _odd = Unreadable::make(&namespace, "odd", json!({})).await?;
    leave(&namespace, "leaving").await?;
    let of = |metric: &str, name: &str| {
        format!("context_manager_{metric}{{resource=\"{name}\",resource_namespace=\"{}\"}}", namespace.name)
    };
    let failing = of("reconcile_failing", "leaving");
    let snapshots = of("snapshot_due_timestamp_seconds", "managed");
    for metric in [&snapshots, &of("nodes_outdated", "managed"), &failing, &of("invalid_resources", "odd")] {
        eventually(metric, PATIENCE, || async {
            let page = operator.metrics().await?;
            ensure!(page.contains(metric), "{page}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    // A webhook whose certificate was given; nobody calls it.
    let (address, image) = (dead_address()?.to_string(), sidecar_image());
    let flags = [
        ["--certificate-issuer", "existing"],
        ["--certificate-secret", "mine"],
        ["--namespace", &namespace.name],
        ["--webhook-configuration", &namespace.name],
        ["--server-name", "127.0.0.1"],
        ["--sidecar-image", &image],
        ["--address", &address],
    ];
    let arguments = [&["webhook"], flags.as_flattened()].concat();
    let with_given = program::Operator::start(&arguments, &folder_of_sidecar.path().join("webhook.log"))?;
    let its_page = eventually("metrics of a given certificate", Duration::from_secs(30), || async {
        let page = with_given.page("/metrics").await?;
        ensure!(page.contains("context_manager_webhook_certificate_replacement_timestamp_seconds{"), "{page}");
        ensure!(!page.contains("context_manager_webhook_certificate_renewal_timestamp_seconds{"), "{page}");
        Ok::<_, anyhow::Error>(page)
    })
    .await?;
    let mut there = BTreeSet::new();
    for page in [
        sidecar.admin_page("/metrics").await?,
        operator.metrics().await?,
        operator.webhook.admin_page("/metrics").await?,
        its_page,
    ] {
        there
            .extend(page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned));
    }
    ensure!(there.len() > 40, "only these metrics were found: {there:?}");
    for file in ["alerts.yaml", "dashboard.json"] {
        let asked = metrics_in(&fs::read_to_string(folder().join(file))?);
        ensure!(asked.len() > 10, "only these metrics were found in {file}: {asked:?}");
        let missing: Vec<_> = asked.difference(&there).collect();
        ensure!(missing.is_empty(), "{file} asks for metrics that no program has: {missing:?}");
    }
    // What is gone is shown no more.
    let abandon = Patch::Merge(json!({"metadata": {"annotations": {ABANDON: "true"}}}));
    namespace.api::<ContextManager>().patch("leaving", &PatchParams::default(), &abandon).await?;
    eventually("the end of the metric", PATIENCE, || async {
        let page = operator.metrics().await?;
        ensure!(!page.contains(&failing), "{page}");
        Ok::<_, anyhow::Error>(())
    })
    .await
}
