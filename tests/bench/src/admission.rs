//! What injection costs the creation of a pod, through the real API server; dry runs, so that no pod is scheduled.

use std::time::Instant;

use anyhow::Result;
use context_manager_tests::{
    cluster,
    objects::{asking, pod},
    webhook::Webhook,
};
use serde_json::json;

use crate::figure::{Figures, Latencies};

const PODS: usize = 300;

pub async fn measure(figures: &mut Figures) -> Result<()> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, "bench", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    // The first admission waits until the webhook is known.
    namespace.try_pod(&asking("warm")).await?;
    let mut plain = Vec::with_capacity(PODS);
    let mut injected = Vec::with_capacity(PODS);
    // In turns, so that what else the machine does falls on both alike.
    for number in 0..PODS {
        for (latencies, pod) in
            [(&mut plain, pod(&format!("plain-{number}"))), (&mut injected, asking(&format!("asks-{number}")))]
        {
            let since = Instant::now();
            namespace.try_pod(&pod).await?;
            latencies.push(since.elapsed());
        }
    }
    let (plain, injected) = (Latencies::new(plain), Latencies::new(injected));
    figures.percentiles("pod creation that is not looked at", &plain, None);
    figures.percentiles("pod creation with injection", &injected, None);
    figures.add("injection's part of a pod creation, p50", injected.at(0.5) - plain.at(0.5), "ms");
    Ok(())
}
