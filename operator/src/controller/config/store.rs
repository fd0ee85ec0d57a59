//! The part of the configuration that says where contexts are kept.

use context_manager_crds::context_manager::{
    managed::Managed,
    qdrant::{Qdrant, QdrantTls},
    vector_store::{Durability, Embedded, VectorStore},
};
use context_manager_protocol::{
    config::{self, EmbeddedStore, QdrantStore, SidecarConfig, Store},
    duration::HumanDuration,
    names,
};

/// Longest time of a call unless the resource says otherwise.
const TIMEOUT: HumanDuration = HumanDuration::from_secs(5);

/// Sets the store, and where the journal lies beside a Qdrant server: on the pod's own volume, which the sidecar's restarts leave alone.
pub(super) fn set(config: &mut SidecarConfig, given: Option<&VectorStore>, (namespace, name): (&str, &str)) {
    let none = VectorStore::default();
    let VectorStore { embedded, qdrant, managed } = given.unwrap_or(&none);
    if let Some(given) = managed {
        config.store = Store::Qdrant(self::managed(given, (namespace, name)));
        config.journal.path = Some(names::JOURNAL_DIRECTORY.into());
        return;
    }
    if let Some(given) = qdrant {
        config.store = Store::Qdrant(self::qdrant(given, given.collection(namespace, name)));
        config.journal.path = Some(names::JOURNAL_DIRECTORY.into());
        return;
    }
    let Embedded { storage: _, durability } = embedded.clone().unwrap_or_default();
    config.store = Store::Embedded(EmbeddedStore {
        path: names::DATA_DIRECTORY.into(),
        durability: match durability.unwrap_or_default() {
            Durability::Process => config::Durability::Process,
            Durability::Node => config::Durability::Node,
        },
    });
}

fn managed(given: &Managed, (namespace, name): (&str, &str)) -> QdrantStore {
    let Managed {
        replicas: _,
        image: _,
        storage: _,
        resources: _,
        tls: _,
        scheduling: _,
        shards,
        replication_factor: _,
        write_consistency,
        timeout,
        snapshots: _,
        restore_from: _,
    } = given;
    let count = |given: i32| u32::try_from(given).ok();
    let scheme = if given.is_encrypted() { "https" } else { "http" };
    QdrantStore {
        url: format!("{scheme}://{}.{namespace}.svc:6334", names::qdrant(name)),
        collection: Qdrant::default().collection(namespace, name),
        api_key_file: Some(names::QDRANT_API_KEY_FILE.into()),
        ca_file: given.is_encrypted().then(|| names::QDRANT_CA_FILE.into()),
        // Nodes of the operator's own know who calls by the token.
        cert_file: None,
        key_file: None,
        verify: true,
        timeout: timeout.map_or(TIMEOUT, HumanDuration::from),
        shards: count(shards.unwrap_or_else(|| given.replicas())),
        replication_factor: count(given.replication_factor()),
        write_consistency: count(write_consistency.unwrap_or(1)),
    }
}

fn qdrant(given: &Qdrant, collection: String) -> QdrantStore {
    let Qdrant {
        url,
        api_key_secret_ref,
        token: _,
        tls,
        collection: _,
        shards,
        replication_factor,
        write_consistency,
        timeout,
    } = given;
    let QdrantTls { ca_secret_ref, ca_config_map_ref, verify } = tls.clone().unwrap_or_default();
    let has_ca = ca_secret_ref.is_some() || ca_config_map_ref.is_some();
    // A server that asks who calls is shown the certificate of the resource's sidecars.
    let shown = |file: &str| url.starts_with("https://").then(|| file.into());
    let count = |given: &Option<i32>| given.and_then(|count| u32::try_from(count).ok());
    QdrantStore {
        url: url.clone(),
        collection,
        api_key_file: api_key_secret_ref.as_ref().map(|_| names::QDRANT_API_KEY_FILE.into()),
        ca_file: has_ca.then(|| names::QDRANT_CA_FILE.into()),
        cert_file: shown(names::CERTIFICATE_FILE),
        key_file: shown(names::PRIVATE_KEY_FILE),
        verify: verify.unwrap_or(true),
        timeout: timeout.map_or(TIMEOUT, HumanDuration::from),
        shards: count(shards),
        replication_factor: count(replication_factor),
        write_consistency: count(write_consistency),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::{super::sidecar_config, *};

    fn stored(qdrant: &serde_json::Value) -> SidecarConfig {
        let spec = serde_json::from_value(json!({"vectorStore": {"qdrant": qdrant}})).unwrap();
        let made = sidecar_config(&spec, ("team", "memory"), 1);
        assert_eq!(SidecarConfig::from_toml(&made.to_toml()).unwrap(), made, "the sidecar takes it");
        made
    }

    #[test]
    fn a_url_alone_is_a_collection_of_its_own_with_a_journal_beside_it() {
        let made = stored(&json!({"url": "http://qdrant"}));
        let expected = "[journal]\npath = \"/var/lib/context-manager/journal\"\n\
             [store.qdrant]\nurl = \"http://qdrant\"\ncollection = \"ctx_team_memory\"\n";
        let expected = SidecarConfig::from_toml(expected).unwrap();
        assert_eq!((&made.store, &made.journal), (&expected.store, &expected.journal));
    }

    #[test]
    fn a_managed_server_is_reached_by_its_service_with_key_and_ca() {
        let made = |managed: serde_json::Value| {
            let spec = serde_json::from_value(json!({"vectorStore": {"managed": managed}})).unwrap();
            let made = sidecar_config(&spec, ("team", "memory"), 1);
            assert_eq!(SidecarConfig::from_toml(&made.to_toml()).unwrap(), made, "the sidecar takes it");
            made
        };
        let expected = r#"
            [store.qdrant]
            url = "https://memory-context-qdrant.team.svc:6334"
            collection = "ctx_team_memory"
            api_key_file = "qdrant-api-key"
            ca_file = "qdrant-ca.crt"
            shards = 3
            replication_factor = 2
            write_consistency = 1
        "#;
        assert_eq!(made(json!({"replicas": 3})).store, SidecarConfig::from_toml(expected).unwrap().store);
        let Store::Qdrant(plain) = made(json!({"tls": {"enabled": false}})).store else { unreachable!("a server") };
        assert!(plain.url.starts_with("http://") && plain.ca_file.is_none() && plain.replication_factor == Some(1));
    }

    #[test]
    fn every_field_of_the_server_reaches_the_file() {
        let made = stored(&json!({
            "url": "https://qdrant:6334", "apiKeySecretRef": {"name": "s", "key": "k"}, "collection": "shared",
            "tls": {"caConfigMapRef": {"name": "c", "key": "k"}, "verify": true},
            "shards": 3, "replicationFactor": 2, "writeConsistency": 1, "timeout": "2s",
        }));
        let expected = r#"
            [store.qdrant]
            url = "https://qdrant:6334"
            collection = "shared"
            api_key_file = "qdrant-api-key"
            ca_file = "qdrant-ca.crt"
            cert_file = "tls.crt"
            key_file = "tls.key"
            verify = true
            timeout = "2s"
            shards = 3
            replication_factor = 2
            write_consistency = 1
        "#;
        assert_eq!(made.store, SidecarConfig::from_toml(expected).unwrap().store);
        let trusting = stored(&json!({"url": "https://qdrant", "tls": {"verify": false}}));
        let Store::Qdrant(store) = trusting.store else { unreachable!("it is a server") };
        assert!(!store.verify && store.ca_file.is_none() && store.api_key_file.is_none());
    }
}
