//! Whose contexts are that were brought back into another namespace: those of the namespace that they come from become those of the new one.
//!
//! A context says by its tenant alone which namespace it belongs to, and nothing else follows from that, so it is changed where it lies.
//! Contexts of other namespaces that used the same resource stay theirs.

use std::time::Duration;

use context_manager_memory::store::schema::TENANT;
use http::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, said};
use crate::controller::managed::nodes::Node;

/// Contexts that are changed at once.
const PIECE: usize = 1_000;
/// Longest time of one call.
const CALL: Duration = Duration::from_mins(1);

/// Makes the contexts of the namespace `from` those of the cluster's own, a piece at a time. What is done is not found again, so nothing is
/// remembered of how far it is.
pub(super) async fn rename(cluster: &Cluster, node: &Node, collection: &str, from: &str) -> Result<(), String> {
    let to = &cluster.plan.namespace;
    if from == to {
        return Ok(());
    }
    let already = count(cluster, node, collection, to).await?;
    if already > 0 && count(cluster, node, collection, from).await? > 0 {
        return Err(format!(
            "spec.vectorStore.managed.restoreFrom.namespace: the snapshot has contexts of the namespace {from}, and {already} of {to}, \
             and both would be those of {to}: restore it in the namespace {from}, and move what you want by kubectl context export and \
             import"
        ));
    }
    loop {
        let asked = json!({
            "filter": of(from), "limit": PIECE, "with_payload": false, "with_vector": false,
        });
        let found = ask(cluster, node, &format!("/collections/{collection}/points/scroll"), &asked).await?;
        let points: Vec<&Value> = found["points"].as_array().into_iter().flatten().map(|point| &point["id"]).collect();
        if points.is_empty() {
            return Ok(());
        }
        let change = json!({"payload": {TENANT: to}, "points": points});
        ask(cluster, node, &format!("/collections/{collection}/points/payload?wait=true"), &change).await?;
    }
}

/// How many contexts a namespace has.
async fn count(cluster: &Cluster, node: &Node, collection: &str, namespace: &str) -> Result<u64, String> {
    let asked = json!({"filter": of(namespace), "exact": true});
    let counted = ask(cluster, node, &format!("/collections/{collection}/points/count"), &asked).await?;
    Ok(counted["count"].as_u64().unwrap_or_default())
}

fn of(namespace: &str) -> Value {
    json!({"must": [{"key": TENANT, "match": {"value": namespace}}]})
}

async fn ask(cluster: &Cluster, node: &Node, path: &str, body: &Value) -> Result<Value, String> {
    let answered = cluster.client.call_within(CALL, node, Method::POST, path, Some(body)).await;
    answered.map_err(said(node, "give contexts their new namespace"))
}
