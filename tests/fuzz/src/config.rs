//! The files that the operator writes and the sidecar reads: what is accepted keeps the rules, and survives being written.

use std::{collections::BTreeSet, str};

use context_manager_protocol::{
    config::SidecarConfig,
    keyring::{KeyRing, MAX_KEY_ID_BYTES, MIN_KEY_BYTES},
};

/// The key ring file.
pub fn key_ring(data: &[u8]) {
    let Ok(ring) = KeyRing::from_json(data) else { return };
    let mut ids = BTreeSet::new();
    for key in ring.keys() {
        assert!(key.material().len() >= MIN_KEY_BYTES && (1..=MAX_KEY_ID_BYTES).contains(&key.id().len()));
        assert!(ids.insert(key.id()), "two keys have the id {}", key.id());
        assert!(ring.find(key.id()).is_some());
    }
    let again = KeyRing::from_json(&ring.to_json()).expect("what was written is accepted");
    let same = ring.keys().zip(again.keys()).all(|(a, b)| a.id() == b.id() && a.material() == b.material());
    assert!(same && ring.keys().count() == again.keys().count());
}

/// The configuration file.
pub fn sidecar(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(config) = SidecarConfig::from_toml(text) else { return };
    let again = SidecarConfig::from_toml(&config.to_toml()).expect("what was written is accepted");
    assert_eq!(config, again);
}
