//! The rules of `spec.vectorStore.managed`.

use super::{Check, Duration, is_endpoint};
use crate::{
    context_manager::{
        managed::{Managed, NodeResources, NodeStorage, Scheduling, Toleration},
        snapshots::{RestoreFrom, SnapshotBucket, SnapshotStorage, SnapshotVolume, Snapshots},
    },
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
        snapshots,
        restore_from,
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
        for (key, value) in node_selector.iter().flatten() {
            check.rule(key.chars().count() <= 317, rules::MANAGED_NODE_SELECTOR);
            check.length(&field("nodeSelector.*"), Some(value), 0, 63);
        }
        for Toleration { key, operator: _, value, effect: _, toleration_seconds: _ } in tolerations.iter().flatten() {
            check.length(&field("tolerations[*].key"), key.as_ref(), 0, 317);
            check.length(&field("tolerations[*].value"), value.as_ref(), 0, 63);
        }
    }
    check.optional(snapshots.as_ref(), self::snapshots);
    check.rule(restore_from.is_none() || snapshots.is_some(), rules::RESTORE_NEEDS_SNAPSHOTS);
    check.optional(restore_from.as_ref(), self::restore);
}

fn restore(check: &mut Check, RestoreFrom { snapshot, name, namespace }: &RestoreFrom) {
    let shape = b"0000-00-00T00-00-00Z";
    let is_name = snapshot.len() == shape.len()
        && snapshot
            .bytes()
            .zip(shape)
            .all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == *like });
    check.rule(snapshot == "latest" || is_name, rules::RESTORE_SNAPSHOT);
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |text: &String| {
        let ends = [text.bytes().next(), text.bytes().last()];
        text.bytes().all(|byte| is_plain(byte) || byte == b'-') && ends.into_iter().all(|end| end.is_some_and(is_plain))
    };
    let begins_so = |text: &String| text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    let is_resource = |text: &String| text.len() <= rules::MAX_MANAGED_NAME && begins_so(text) && is_label(text);
    check.rule(name.as_ref().is_none_or(is_resource), rules::RESTORE_NAME);
    let is_namespace = |text: &String| text.len() <= 63 && is_label(text);
    check.rule(namespace.as_ref().is_none_or(is_namespace), rules::RESTORE_NAMESPACE);
}

fn snapshots(check: &mut Check, Snapshots { every, keep, storage }: &Snapshots) {
    let field = |name: &str| format!("spec.vectorStore.managed.snapshots.{name}");
    check.within(*every, Duration::from_secs(60), Duration::from_secs(8_760 * 3_600), rules::SNAPSHOT_EVERY);
    check.range(&field("keep"), *keep, 1, 100);
    let SnapshotStorage { volume, s3 } = storage;
    check.rule(volume.is_some() != s3.is_some(), rules::ONE_SNAPSHOT_STORAGE);
    check.optional(s3.as_ref(), self::bucket);
    let Some(SnapshotVolume { size, storage_class_name, claim_name }) = volume else { return };
    check.rule(size.is_some() != claim_name.is_some(), rules::SNAPSHOT_VOLUME);
    check.rule(storage_class_name.is_none() || claim_name.is_none(), rules::SNAPSHOT_CLASS);
    check.at_least(size.as_ref(), 256 << 20, rules::SNAPSHOT_SIZE);
    check.length(&field("storage.volume.storageClassName"), storage_class_name.as_ref(), 0, 253);
    check.length(&field("storage.volume.claimName"), claim_name.as_ref(), 1, 253);
}

fn bucket(check: &mut Check, given: &SnapshotBucket) {
    let SnapshotBucket {
        bucket,
        region,
        endpoint_url,
        ca_secret_ref,
        ca_config_map_ref,
        prefix,
        access_key_id_secret_ref,
        secret_access_key_secret_ref,
    } = given;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [bucket.bytes().next(), bucket.bytes().last()];
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| is_plain(byte) || b"-.".contains(&byte))
        && ends.into_iter().all(|end| end.is_some_and(is_plain));
    check.rule(is_bucket, rules::SNAPSHOT_BUCKET);
    let is_region = |text: &String| !text.is_empty() && text.bytes().all(|byte| is_plain(byte) || byte == b'-');
    check.rule(region.as_ref().is_none_or(is_region), rules::SNAPSHOT_REGION);
    check.rule(endpoint_url.as_deref().is_none_or(is_endpoint), rules::SNAPSHOT_ENDPOINT);
    check.rule(ca_secret_ref.is_none() || ca_config_map_ref.is_none(), rules::ONE_SNAPSHOT_CA);
    let has_ca = ca_secret_ref.is_some() || ca_config_map_ref.is_some();
    let is_encrypted = endpoint_url.as_ref().is_some_and(|url| url.starts_with("https://"));
    check.rule(!has_ca || is_encrypted, rules::SNAPSHOT_CA_NEEDS_HTTPS);
    let is_part = |part: &str| {
        let first = part.bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    check.rule(prefix.as_ref().is_none_or(|prefix| prefix.split('/').all(is_part)), rules::SNAPSHOT_PREFIX);
    let field = |name: &str| format!("spec.vectorStore.managed.snapshots.storage.s3.{name}");
    check.length(&field("region"), region.as_ref(), 0, 63);
    check.length(&field("endpointUrl"), endpoint_url.as_ref(), 0, 2048);
    check.length(&field("prefix"), prefix.as_ref(), 0, 253);
    let secrets = [
        ("accessKeyIdSecretRef", Some(access_key_id_secret_ref)),
        ("secretAccessKeySecretRef", Some(secret_access_key_secret_ref)),
        ("caSecretRef", ca_secret_ref.as_ref()),
    ];
    for (part, secret) in secrets {
        check.secret_key(&field(part), secret);
    }
    check.config_map_key(&field("caConfigMapRef"), ca_config_map_ref.as_ref());
}
