//! The headers of a signed request: whatever they say, only what was signed verifies.

use context_manager_protocol::{
    digest,
    keyring::{Key, KeyRing},
    signature::{self, HEADER, INPUT_HEADER, MAX_NONCE_BYTES, MIN_NONCE_BYTES, Presented, Request},
};
use http::{HeaderMap, HeaderValue};

/// A header of the request that a signature may cover besides.
const OTHER_HEADER: &str = "idempotency-key";

/// The lines are `Signature-Input`, `Signature`, `Content-Digest` and another header; what follows is the body.
pub fn headers(data: &[u8]) {
    let mut parts = data.splitn(5, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [INPUT_HEADER, HEADER, digest::HEADER, OTHER_HEADER] {
        let value = parts.next().map(HeaderValue::from_bytes);
        if let Some(Ok(value)) = value {
            headers.append(name, value);
        }
    }
    let body = parts.next().unwrap_or_default();
    let Ok(presented) = Presented::from_headers(&headers) else { return };
    assert!((MIN_NONCE_BYTES..=MAX_NONCE_BYTES).contains(&presented.nonce().len()));
    let keys = KeyRing::new(Key::new("k1", vec![7; 32]).expect("a valid key"));
    let request = Request { method: "POST", path: "/v1/contexts", query: None, body };
    if presented.verify(&keys, &request, &headers).is_ok() {
        for other in [
            Request { method: "DELETE", ..request },
            Request { path: "/v1/contexts/batch", ..request },
            Request { query: Some("session=s"), ..request },
            Request { body: &[body, b"x"].concat(), ..request },
        ] {
            assert!(presented.verify(&keys, &other, &headers).is_err(), "a signature fits another request");
        }
        let others = KeyRing::new(Key::new("k1", vec![8; 32]).expect("a valid key"));
        assert!(presented.verify(&others, &request, &headers).is_err(), "a signature fits another key");
    }
    for now in [presented.created(), 0, i64::MIN, i64::MAX] {
        let checked = presented.check_time(now, 300, i64::MIN);
        assert!(checked.is_err() || now.abs_diff(presented.created()) <= 300);
    }
}

/// The first line is the header, what follows is the body.
pub fn content_digest(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (header, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if digest::verify(header, body).is_ok() {
        assert_eq!(digest::verify(header, &[body, b"x"].concat()), Err(digest::Error::Mismatch));
    }
    assert_eq!(digest::verify(digest::of(data).as_bytes(), data), Ok(()));
    // A name and a nonce of strangers must not make a header that cannot be sent.
    let key = Key::new("k1", vec![7; 32]).expect("a valid key");
    let request = Request { method: "POST", path: "/v1/contexts", query: None, body: data };
    let signed = signature::sign(&key, &request, 1_700_000_000, "a-nonce-of-32-characters-or-less").to_header_map();
    let presented = Presented::from_headers(&signed).expect("what was signed is well-formed");
    assert_eq!(presented.verify(&KeyRing::new(key), &request, &signed), Ok(()));
}
