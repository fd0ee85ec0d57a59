//! Alerts and dashboard: their expressions are right, and they ask for metrics that the programs really have.

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::message::Acknowledgment;
use context_manager_tests::{
    cluster::{self, eventually},
    gate::Authority,
    objects::asking,
    operator::{Operator, provision},
    sidecar::Sidecar,
};
use k8s_openapi::api::core::v1::Secret;
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
    // An alert without a test would pass the test above.
    let alerts = fs::read_to_string(folder().join("alerts.yaml"))?;
    let tests = fs::read_to_string(folder().join("alerts.test.yaml"))?;
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(checked.contains(&format!("{} rules found", names.len())), "{checked}");
    for name in names {
        let tested = tests.lines().filter(|line| line.contains(&format!("alertname: {name}"))).count();
        ensure!(tested > 0, "{name} has no test in alerts.test.yaml");
    }
    Ok(())
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
    eventually("metrics of the snapshots", Duration::from_secs(30), || async {
        let page = operator.metrics().await?;
        ensure!(page.contains("context_manager_snapshot_due_timestamp_seconds{"), "{page}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let mut there = BTreeSet::new();
    for page in [
        sidecar.admin_page("/metrics").await?,
        operator.metrics().await?,
        operator.webhook.admin_page("/metrics").await?,
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
    Ok(())
}
