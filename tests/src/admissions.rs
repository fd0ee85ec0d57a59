//! Clients that create pods all the time, and a count of what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::PostParams};
use tokio::task::JoinSet;

use crate::{cluster::Namespace, objects::asking};

const CLIENTS: usize = 4;
/// Between two admissions of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// Clients that create pods in dry runs, until they are told to stop.
pub struct Admissions {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Tally>,
}

/// What became of the pods.
#[derive(Debug, Default)]
pub struct Tally {
    /// So many were admitted with a sidecar.
    pub injected: usize,
    /// What was said of those that were refused, or came back without a sidecar.
    pub wrong: Vec<String>,
}

impl Admissions {
    /// Begins to create pods in a namespace.
    #[must_use]
    pub fn begin(namespace: &Namespace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn(admit(namespace.api(), format!("pod-{number}"), Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    /// Stops, and counts.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn end(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Release);
        let mut all = Tally::default();
        while let Some(tally) = self.tasks.join_next().await {
            let Tally { injected, wrong } = tally?;
            all.injected += injected;
            all.wrong.extend(wrong);
        }
        Ok(all)
    }
}

async fn admit(pods: Api<Pod>, name: String, stop: Arc<AtomicBool>) -> Tally {
    let (mut tally, dry) = (Tally::default(), PostParams { dry_run: true, ..PostParams::default() });
    let pod = match serde_json::from_value(asking(&name)) {
        Ok(pod) => pod,
        Err(error) => return Tally { injected: 0, wrong: vec![error.to_string()] },
    };
    while !stop.load(Ordering::Acquire) {
        match pods.create(&dry, &pod).await {
            Ok(admitted) if admitted.annotations().contains_key(names::INJECTED_HASH) => tally.injected += 1,
            Ok(_) => tally.wrong.push("admitted without a sidecar".to_owned()),
            Err(error) => tally.wrong.push(error.to_string()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}
