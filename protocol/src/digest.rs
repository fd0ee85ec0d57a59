//! The `Content-Digest` field (RFC 9530 section 2) of a request body, by SHA-256.

use sfv::{BareItem, DictSerializer, Dictionary, KeyRef, ListEntry, Parser};
use sha2::{Digest as _, Sha256};

/// The header's name.
pub const HEADER: &str = "content-digest";

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header is not a dictionary with a `sha-256` byte sequence.
    #[error("Content-Digest must have the form sha-256=:BASE64: (RFC 9530)")]
    Malformed,
    /// The body is not the one that was digested.
    #[error("the body does not have the SHA-256 that Content-Digest states")]
    Mismatch,
}

/// The header's value for `body`.
///
/// # Panics
/// Never: the dictionary has one member.
///
/// ```
/// let value = context_manager_protocol::digest::of(b"{\"hello\": \"world\"}");
/// assert_eq!(value, "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"); // RFC 9530 appendix D
/// ```
#[must_use]
pub fn of(body: &[u8]) -> String {
    let mut dictionary = DictSerializer::new();
    dictionary.bare_item(sha_256(), Sha256::digest(body).as_slice());
    dictionary.finish().expect("the dictionary has one member")
}

/// Checks that `header` states the digest of `body`. Digests by other algorithms beside SHA-256 are ignored.
///
/// # Errors
/// When the header has another form, or the digest is another one.
pub fn verify(header: &[u8], body: &[u8]) -> Result<(), Error> {
    let dictionary: Dictionary = Parser::new(header).parse().map_err(|_| Error::Malformed)?;
    let Some(ListEntry::Item(item)) = dictionary.get("sha-256") else { return Err(Error::Malformed) };
    let BareItem::ByteSequence(stated) = &item.bare_item else { return Err(Error::Malformed) };
    // The digest is public: it protects the body because the signature covers it, so an ordinary comparison will do.
    if stated.as_slice() == Sha256::digest(body).as_slice() { Ok(()) } else { Err(Error::Mismatch) }
}

fn sha_256() -> &'static KeyRef {
    KeyRef::from_str("sha-256").expect("a valid structured field key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digested_body_is_accepted() {
        let header = of(b"body");
        assert_eq!(verify(header.as_bytes(), b"body"), Ok(()));
        assert_eq!(verify(header.as_bytes(), b"bodY"), Err(Error::Mismatch));
        assert_eq!(verify(format!("sha-512=:AAAA:, {header}").as_bytes(), b"body"), Ok(()));
        for malformed in ["", "sha-256=abc", "sha-512=:AAAA:", "sha-256=:!:", "sha-256=(:AAAA:)"] {
            assert_eq!(verify(malformed.as_bytes(), b"body"), Err(Error::Malformed), "{malformed}");
        }
    }
}
