//! The key ring: which keys may sign a request, as the file `keys.json`.
//!
//! `active` signs and verifies; `next` and `previous` only verify, so that a rotation never refuses a request: the operator
//! publishes `next`, waits until it is loaded, activates it, and retires the old key after an overlap. Key material never
//! appears in `Debug` output.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};

/// Fewest bytes of a key: the output size of SHA-256, the least that RFC 2104 section 3 advises.
pub const MIN_KEY_BYTES: usize = 32;
/// Most bytes of a key id.
pub const MAX_KEY_ID_BYTES: usize = 64;

/// A shared secret with its public id.
#[derive(Clone, Deserialize)]
#[serde(try_from = "RawKey")]
pub struct Key {
    id: String,
    material: SecretSlice<u8>,
}

/// A key as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    id: String,
    /// Base64 (RFC 4648 section 4, with padding) of the key material.
    key: String,
}

/// All keys that are accepted at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawKeyRing")]
pub struct KeyRing {
    active: Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Key>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    previous: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKeyRing {
    active: Key,
    #[serde(default)]
    next: Option<Key>,
    #[serde(default)]
    previous: Vec<Key>,
}

/// Why a key or a key ring is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is empty, too long, or has a character outside `A-Z a-z 0-9 . _ -`.
    #[error("key id {0:?} must be 1 to {MAX_KEY_ID_BYTES} characters of A-Z, a-z, 0-9, '.', '_' and '-'")]
    Id(String),
    /// The material is not Base64.
    #[error("key {id:?} is not Base64")]
    Encoding {
        /// Id of the key.
        id: String,
        /// What the decoder said.
        source: base64::DecodeError,
    },
    /// The material is too short to be safe.
    #[error("key {id:?} has {bytes} bytes; at least {MIN_KEY_BYTES} are needed (openssl rand -base64 32)")]
    TooShort {
        /// Id of the key.
        id: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// Two keys have the same id.
    #[error("key id {0:?} appears twice in the key ring")]
    DuplicateId(String),
    /// The file is not a key ring.
    #[error("the key ring is not valid JSON of the form {{\"active\": {{\"id\", \"key\"}}, \"next\"?, \"previous\"?}}")]
    Json(#[source] serde_json::Error),
}

impl Key {
    /// A key of `material` named `id`.
    ///
    /// # Errors
    /// When the id has a character it must not have, or the material is shorter than [`MIN_KEY_BYTES`].
    pub fn new(id: impl Into<String>, material: Vec<u8>) -> Result<Self, Error> {
        let id = id.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > MAX_KEY_ID_BYTES || !id.bytes().all(allowed) {
            return Err(Error::Id(id));
        }
        if material.len() < MIN_KEY_BYTES {
            return Err(Error::TooShort { id, bytes: material.len() });
        }
        Ok(Self { id, material: material.into() })
    }

    /// The public id, sent as `keyid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key material, for signing and verifying only.
    #[must_use]
    pub fn material(&self) -> &[u8] {
        self.material.expose_secret()
    }
}

impl KeyRing {
    /// A ring with one active key.
    #[must_use]
    pub const fn new(active: Key) -> Self {
        Self { active, next: None, previous: Vec::new() }
    }

    /// A ring of an active key, a published next one, and retired ones that still verify.
    ///
    /// # Errors
    /// When two keys have the same id.
    pub fn with(active: Key, next: Option<Key>, previous: Vec<Key>) -> Result<Self, Error> {
        let ring = Self { active, next, previous };
        let mut seen = Vec::new();
        for key in ring.keys() {
            if seen.contains(&key.id()) {
                return Err(Error::DuplicateId(key.id().to_owned()));
            }
            seen.push(key.id());
        }
        Ok(ring)
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// When it is not a key ring, a key is too short, or an id appears twice.
    ///
    /// ```
    /// use context_manager_protocol::keyring::KeyRing;
    ///
    /// let file = r#"{"active": {"id": "k1", "key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}"#;
    /// let ring = KeyRing::from_json(file.as_bytes())?;
    /// assert_eq!(ring.active().id(), "k1");
    /// assert!(ring.find("k2").is_none());
    /// # Ok::<(), context_manager_protocol::keyring::Error>(())
    /// ```
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(json).map_err(Error::Json)
    }

    /// The file's content.
    ///
    /// # Panics
    /// Never: a key ring has only strings and lists.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key ring has only strings and lists")
    }

    /// The key that signs.
    #[must_use]
    pub const fn active(&self) -> &Key {
        &self.active
    }

    /// The key that will sign after the next rotation.
    #[must_use]
    pub const fn next(&self) -> Option<&Key> {
        self.next.as_ref()
    }

    /// Keys that signed before and still verify.
    #[must_use]
    pub fn previous(&self) -> &[Key] {
        &self.previous
    }

    /// The key called `id`, if it may verify.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&Key> {
        self.keys().find(|key| key.id() == id)
    }

    /// Every key that verifies: active, next, previous.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.active).chain(&self.next).chain(&self.previous)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).field("material", &"[redacted]").finish()
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawKey { id: self.id.clone(), key: BASE64_STANDARD.encode(self.material()) }.serialize(serializer)
    }
}

impl TryFrom<RawKey> for Key {
    type Error = Error;

    fn try_from(RawKey { id, key }: RawKey) -> Result<Self, Self::Error> {
        let material = BASE64_STANDARD.decode(key).map_err(|source| Error::Encoding { id: id.clone(), source })?;
        Self::new(id, material)
    }
}

impl TryFrom<RawKeyRing> for KeyRing {
    type Error = Error;

    fn try_from(RawKeyRing { active, next, previous }: RawKeyRing) -> Result<Self, Self::Error> {
        Self::with(active, next, previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key::new(id, vec![7; 32]).expect("a valid key")
    }

    #[test]
    fn a_key_ring_survives_its_file() {
        let ring = KeyRing::with(key("b"), Some(key("c")), vec![key("a")]).expect("distinct ids");
        let read = KeyRing::from_json(&ring.to_json()).expect("its own output");
        assert_eq!(read.keys().map(Key::id).collect::<Vec<_>>(), ["b", "c", "a"]);
        assert_eq!(read.active().material(), [7; 32]);
    }

    #[test]
    fn key_material_is_never_printed() {
        let printed = format!("{:?}", KeyRing::new(key("a")));
        assert!(printed.contains("[redacted]"));
        assert!(!printed.contains("7, 7"));
    }

    #[test]
    fn a_weak_or_ambiguous_key_ring_is_refused() {
        let short = Key::new("a", vec![1; 31]).expect_err("31 bytes").to_string();
        assert_eq!(short, "key \"a\" has 31 bytes; at least 32 are needed (openssl rand -base64 32)");
        assert!(Key::new("a b", vec![1; 32]).is_err());
        assert!(Key::new("", vec![1; 32]).is_err());
        assert!(matches!(KeyRing::with(key("a"), Some(key("a")), Vec::new()), Err(Error::DuplicateId(_))));
        assert!(KeyRing::from_json(b"{\"active\": {\"id\": \"a\", \"key\": \"not base64!\"}}").is_err());
        assert!(KeyRing::from_json(b"").is_err());
    }
}
