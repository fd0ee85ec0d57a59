//! Garbage collection as its operator sees it: counted in a dry run, deleted in batches otherwise.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use context_manager_protocol::message::Acknowledgment;
use context_manager_tests::sidecar::Sidecar;
use serde_json::json;

async fn wait_for(sidecar: &Sidecar, name: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
    let since = Instant::now();
    loop {
        let found = sidecar.metric(name).await?;
        if fits(found) {
            return Ok(());
        }
        if since.elapsed() > Duration::from_secs(20) {
            bail!("{name} stays {found}: {}", sidecar.log()?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_dry_run_counts_what_the_next_one_deletes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let collection = |dry_run: bool| format!("[gc]\ninterval = \"50ms\"\nbatch_size = 2\ndry_run = {dry_run}\n");
    let sidecar = Sidecar::start(folder.path(), &collection(true)).await?;
    let client = sidecar.client()?;
    for number in 0..7 {
        let context = json!({"text": format!("note {number}"), "ttl": "10ms", "level": "short_term"});
        client.post("/v1/contexts", &context).await?.message::<Acknowledgment>()?;
    }
    client.post("/v1/contexts", &json!({"text": "what stays"})).await?.message::<Acknowledgment>()?;
    wait_for(&sidecar, "context_manager_gc_backlog", |expired| expired >= 7.0).await?;
    let runs = sidecar.metric("context_manager_gc_runs_total").await?;
    wait_for(&sidecar, "context_manager_gc_runs_total", |now| now >= runs + 2.0).await?;
    ensure!(sidecar.metric("context_manager_gc_deleted_total").await? <= 0.0, "a dry run deleted");
    ensure!(sidecar.log()?.contains("dry run"), "nothing was said: {}", sidecar.log()?);

    sidecar.reconfigure(&collection(false))?;
    wait_for(&sidecar, "context_manager_gc_deleted_total", |deleted| deleted >= 7.0).await?;
    wait_for(&sidecar, "context_manager_gc_backlog", |expired| expired <= 0.0).await?;
    let counts: serde_json::Value = client.get("/v1/contexts/stats").await?.message()?;
    ensure!(counts["contexts"]["short_term"] == 1, "{counts}");
    Ok(())
}
