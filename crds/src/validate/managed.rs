//! The rules of `spec.vectorStore.managed`.

use super::{Check, Duration};
use crate::{
    context_manager::managed::{Managed, NodeResources, NodeStorage, Scheduling},
    rules,
};

pub(super) fn check(check: &mut Check, managed: &Managed, name: &str) {
    let Managed {
        replicas,
        image,
        storage,
        resources,
        tls: _,
        scheduling,
        shards,
        replication_factor,
        write_consistency,
        timeout,
    } = managed;
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    check.rule(plain && first && name.len() <= rules::MAX_MANAGED_NAME, rules::MANAGED_NAME);
    let field = |name: &str| format!("spec.vectorStore.managed.{name}");
    check.range(&field("replicas"), *replicas, 1, 32);
    check.range(&field("shards"), *shards, 1, 1_000);
    check.range(&field("replicationFactor"), *replication_factor, 1, 32);
    check.range(&field("writeConsistency"), *write_consistency, 1, 32);
    let nodes = managed.replicas();
    check.rule(replication_factor.is_none_or(|count| count <= nodes), rules::MANAGED_REPLICATION_FITS);
    let copies = replication_factor.unwrap_or(2).min(nodes);
    check.rule(write_consistency.is_none_or(|count| count <= copies), rules::MANAGED_CONSISTENCY_FITS);
    check.within(*timeout, Duration::from_millis(10), Duration::from_secs(600), rules::MANAGED_TIMEOUT);
    check.length(&field("image"), image.as_ref(), 1, 512);
    if let Some(NodeStorage { storage_class_name, size }) = storage {
        check.length(&field("storage.storageClassName"), storage_class_name.as_ref(), 0, 253);
        check.at_least(size.as_ref(), 256 << 20, rules::MANAGED_SIZE);
    }
    if let Some(NodeResources { requests, limits }) = resources {
        check.fit(requests.as_ref(), limits.as_ref(), [rules::MANAGED_CPU_FITS, rules::MANAGED_MEMORY_FITS]);
    }
    if let Some(Scheduling { node_selector, tolerations, priority_class_name, spread: _ }) = scheduling {
        let field = |name: &str| field(&format!("scheduling.{name}"));
        check.range(&field("nodeSelector (items)"), node_selector.as_ref().map(std::collections::BTreeMap::len), 0, 32);
        check.range(&field("tolerations (items)"), tolerations.as_ref().map(Vec::len), 0, 32);
        check.length(&field("priorityClassName"), priority_class_name.as_ref(), 1, 253);
    }
}
