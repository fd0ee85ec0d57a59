//! Idempotency keys: a write that is sent again under its key is the same write.
//!
//! A key makes the ids of the new contexts, so nothing has to be remembered: storing the same content under the same id is
//! harmless by itself, also after a restart and from another replica of the agent. The header is that of
//! draft-ietf-httpapi-idempotency-key-header-07.

use std::fmt::Write as _;

use context_manager_protocol::message::ContextStore;
use uuid::Uuid;

use crate::{access::Reach, ports::vector_store::Owner};

/// Name space of the ids that keys make; a version 4 UUID made for this.
const NAMESPACE: Uuid = Uuid::from_u128(0x9c0e_2a1f_5b1d_4f0e_8a7e_3d1c_6b2f_44d1);

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// Text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the header Idempotency-Key must be 1 to {} visible ASCII characters, such as a UUID, with or without double quotes",
    IdempotencyKey::LONGEST
)]
pub struct InvalidKey;

impl IdempotencyKey {
    /// Longest key in bytes.
    pub const LONGEST: usize = 128;
    /// What a key without quotes looks like, as a regular expression.
    pub const PATTERN: &str = r"^[!#-\[\]-~]+$";

    /// The key that a header names; the draft has it in double quotes, many clients send it bare.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        let valid = (1..=Self::LONGEST).contains(&bare.len())
            && bare.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
        if valid { Ok(Self(bare.to_owned())) } else { Err(InvalidKey) }
    }

    /// Gives each message without an id the one that the key makes for its place. The agent that writes is part of it, so that agents
    /// can choose keys without knowing of each other, and so is the memory it writes to, if that is not its own.
    pub(super) fn assign(&self, own: &Owner, messages: &mut [(Reach, ContextStore)]) {
        for (index, (reach, message)) in messages.iter_mut().enumerate() {
            let mut name = format!("{}\n{}\n{index}\n{}", own.tenant, reach.agent(), self.0);
            if !reach.is_own() {
                // Writing to a String cannot fail.
                let _ = write!(name, "\n{}", reach.owner().holder);
            }
            message.id.get_or_insert_with(|| Uuid::new_v5(&NAMESPACE, name.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_and_without_quotes() {
        assert_eq!(IdempotencyKey::new("\"8e03978e\""), IdempotencyKey::new("8e03978e"));
        for text in ["", "\"\"", "a b", "a\"b", "\u{e9}", &"k".repeat(IdempotencyKey::LONGEST + 1)] {
            assert_eq!(IdempotencyKey::new(text), Err(InvalidKey), "{text:?}");
        }
    }
}
