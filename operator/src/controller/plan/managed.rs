//! A Qdrant cluster that the operator runs.

use std::collections::BTreeMap;

use context_manager_crds::{
    ContextManagerSpec,
    context_manager::{
        ReclaimPolicy,
        managed::{Managed, NodeResources, NodeStorage, Scheduling},
        sidecar::ResourceList,
    },
    quantity::Quantity,
};
use context_manager_protocol::config::SidecarConfig;

use super::store::QdrantPlan;

/// The image unless the resource says otherwise.
const IMAGE: &str = "qdrant/qdrant:v1.19.0-unprivileged";

/// A Qdrant cluster that the operator runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedPlan {
    /// What the sidecars and the operator itself need to know of it.
    pub qdrant: QdrantPlan,
    /// Number of nodes.
    pub nodes: i32,
    /// Replicas of each shard.
    pub replicas: u32,
    /// The image.
    pub image: String,
    /// The class of the volumes; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// Their size.
    pub size: Quantity,
    /// What is reserved for a node.
    pub requests: BTreeMap<&'static str, String>,
    /// What it may use at most.
    pub limits: BTreeMap<&'static str, String>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Where nodes run.
    pub scheduling: Scheduling,
    /// Whether the volumes outlive the resource.
    pub retain: bool,
}

impl ManagedPlan {
    /// The plan, if the operator runs the resource's store.
    pub(super) fn of(spec: &ContextManagerSpec, config: &SidecarConfig) -> Option<Self> {
        let given = spec.vector_store.as_ref()?.managed.as_ref()?;
        let Managed {
            replicas: _,
            image,
            storage,
            resources,
            tls: _,
            scheduling,
            shards: _,
            replication_factor: _,
            write_consistency: _,
            timeout: _,
        } = given;
        let storage = storage.clone().unwrap_or_default();
        let size = storage.size();
        let NodeStorage { storage_class_name, size: _ } = storage;
        let NodeResources { requests, limits } = resources.clone().unwrap_or_default();
        let requests = requests.map_or_else(
            || [("cpu", "250m".to_owned()), ("memory", "512Mi".to_owned())].into(),
            |requests| amounts(&requests),
        );
        Some(Self {
            qdrant: QdrantPlan::managed(config)?,
            nodes: given.replicas(),
            replicas: u32::try_from(given.replication_factor()).unwrap_or(1),
            image: image.clone().unwrap_or_else(|| IMAGE.to_owned()),
            storage_class: storage_class_name,
            size,
            requests,
            limits: limits.as_ref().map(amounts).unwrap_or_default(),
            encrypted: given.is_encrypted(),
            scheduling: scheduling.clone().unwrap_or_default(),
            retain: spec.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain,
        })
    }
}

fn amounts(ResourceList { cpu, memory }: &ResourceList) -> BTreeMap<&'static str, String> {
    let amounts = [("cpu", cpu), ("memory", memory)];
    amounts.into_iter().filter_map(|(name, amount)| Some((name, amount.as_ref()?.to_string()))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::{Plan, RunBy, StoragePlan, tests::resource};

    #[test]
    fn an_empty_block_is_one_encrypted_node_that_keeps_its_volume() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}, "reclaimPolicy": "Retain"}))).unwrap();
        let StoragePlan::Managed(managed) = plan.storage else { unreachable!("the spec has it") };
        assert_eq!((managed.nodes, managed.encrypted, managed.retain), (1, true, true));
        assert_eq!((managed.image.as_str(), managed.size.to_string().as_str()), (IMAGE, "10Gi"));
        assert_eq!(managed.requests["memory"], "512Mi");
        assert_eq!(managed.qdrant.run_by, RunBy::Operator);
    }
}
