//! How many requests of a user the API server served, by its own count: a `FlowSchema` for each kind of request, and the API
//! server's counter of what it dispatched for it.

use anyhow::{Context as _, Result};
use context_manager_tests::cluster;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

/// Where a service account's requests are without a schema of their own.
const LEVEL: &str = "workload-low";
const COUNTER: &str = "apiserver_flowcontrol_dispatched_requests_total";
const READING: [&str; 3] = ["get", "list", "watch"];
const WRITING: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The counters of a user.
pub struct Requests {
    client: Client,
    user: String,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that read.
    pub reads: u64,
    /// Requests that write, those of the lease not among them.
    pub writes: u64,
}

impl Count {
    /// What was counted since then.
    pub fn since(self, then: Self) -> Self {
        Self { reads: self.reads.saturating_sub(then.reads), writes: self.writes.saturating_sub(then.writes) }
    }
}

impl Requests {
    /// Counts those of a user from now on.
    pub async fn of(client: &Client, user: &str) -> Result<Self> {
        let requests = Self { client: client.clone(), user: user.to_owned() };
        // The first that matches, by precedence, is the one that counts.
        requests.schema("leases", 101, &["*"], "coordination.k8s.io").await?;
        requests.schema("reads", 102, &READING, "*").await?;
        requests.schema("writes", 103, &WRITING, "*").await?;
        Ok(requests)
    }

    async fn schema(&self, what: &str, precedence: i32, verbs: &[&str], group: &str) -> Result<()> {
        let schema: Value = json!({
            "metadata": {"name": self.name(what)},
            "spec": {
                "priorityLevelConfiguration": {"name": LEVEL},
                "matchingPrecedence": precedence,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": self.user}}],
                    "resourceRules": [{
                        "verbs": verbs,
                        "apiGroups": [group],
                        "resources": ["*"],
                        "clusterScope": true,
                        "namespaces": ["*"],
                    }],
                }],
            },
        });
        let api = Api::<FlowSchema>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(schema)?).await?;
        Ok(())
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.user)
    }

    /// What was counted so far.
    pub async fn count(&self) -> Result<Count> {
        let metrics = self.client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        let served = |what: &str| -> Result<u64> {
            let label = format!("flow_schema=\"{}\"", self.name(what));
            let line = metrics.lines().find(|line| line.starts_with(COUNTER) && line.contains(&label));
            // The API server has no counter before the first request.
            let Some(line) = line else { return Ok(0) };
            let value: f64 = line.rsplit(' ').next().context("a counter has a value")?.parse()?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of requests")]
            Ok(value as u64)
        };
        Ok(Count { reads: served("reads")?, writes: served("writes")? })
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let names = ["leases", "reads", "writes"].map(|what| self.name(what));
        cluster::clean_up("the counters of requests", async move |client| {
            let api = Api::<FlowSchema>::all(client);
            for name in names {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        });
    }
}
