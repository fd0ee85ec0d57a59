//! From the start of the process to the first positive answer of the readiness probe.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use context_manager_tests::sidecar::{self, Sidecar};

use crate::{
    figure::{Figures, Latencies},
    stage::{self, CONFIG},
};

const STARTS: usize = 7;
const PATIENCE: Duration = Duration::from_mins(1);
/// The size that the target is about, and what half of the starts may take, in milliseconds.
const SIZE: usize = 10_000;
const MOST: f64 = 300.0;

pub async fn measure(figures: &mut Figures, home: &Path, contexts: usize) -> Result<()> {
    let http = sidecar::http()?;
    let mut starts = Vec::with_capacity(STARTS);
    for start in 0..STARTS {
        // At another part of the second each time, and not within the second of the last end, as a container would not.
        tokio::time::sleep(Duration::from_millis(1_000 + 143 * u64::try_from(start)?)).await;
        let since = Instant::now();
        let mut sidecar = Sidecar::spawn(home, CONFIG)?;
        let url = format!("http://127.0.0.1:{}/health/readiness", sidecar.admin);
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            if since.elapsed() > PATIENCE {
                bail!("the sidecar is not ready after {PATIENCE:?}: {}", sidecar.log()?);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        starts.push(since.elapsed());
        stage::end(&mut sidecar).await?;
    }
    let starts = Latencies::new(starts);
    let target = (contexts == SIZE).then_some(MOST);
    figures.at_most(format!("start to ready, {contexts} contexts, median"), starts.at(0.5), "ms", target);
    figures.add(format!("start to ready, {contexts} contexts, slowest"), starts.at(1.0), "ms");
    Ok(())
}
