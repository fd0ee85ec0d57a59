//! Tokens for a Qdrant server with `jwt_rbac`: each lets its bearer read and write one collection, until it expires. Pure.
//!
//! A token is an HS256 JSON Web Token (RFC 7519) signed with the server's API key. It says `rw` and not `prw`, because a sidecar that
//! changes its embedding model makes and removes vectors of its collection, which `prw` forbids. With `rw` the collection cannot be
//! dropped, and no other be seen.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `{"alg":"HS256","typ":"JWT"}`, the only header that is written and the only one that is taken for ours. Others write it as well: API
/// keys of Qdrant Cloud begin with it.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: i64,
    access: Vec<Access>,
    /// For the server's audit log.
    subject: String,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    collection: String,
    access: String,
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The collection.
    pub(super) collection: String,
    /// The resource, as `namespace/name`.
    pub(super) subject: String,
}

impl Scope {
    fn access(&self) -> Vec<Access> {
        vec![Access { collection: self.collection.clone(), access: "rw".to_owned() }]
    }
}

/// A new token.
pub(super) fn mint(key: &SecretString, scope: &Scope, expires: Timestamp) -> SecretString {
    let claims = Claims { exp: expires.as_second(), access: scope.access(), subject: scope.subject.clone() };
    let claims = serde_json::to_vec(&claims).expect("texts and a number are JSON");
    let signed = format!("{HEADER}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(mac(key, &signed).finalize().into_bytes());
    format!("{signed}.{signature}").into()
}

/// When a token expires; nothing of one that was not made with this key for this scope.
pub(super) fn expiry(token: &str, key: &SecretString, scope: &Scope) -> Option<Timestamp> {
    let (signed, signature) = token.rsplit_once('.')?;
    mac(key, signed).verify_slice(&BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    let claims = claims(signed)?;
    let ours = claims.access == scope.access() && claims.subject == scope.subject;
    if ours { Timestamp::from_second(claims.exp).ok() } else { None }
}

/// Whether a text is a token of ours, of whatever key and resource.
pub(super) fn is_token(text: &str) -> bool {
    let claims = text.rsplit_once('.').and_then(|(signed, _)| claims(signed));
    claims.is_some_and(|claims| claims.subject.contains('/'))
}

/// What a token says, whoever signed it.
fn claims(signed: &str) -> Option<Claims> {
    let claims = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// The share of its life at whose rest a token is renewed: about a half, and another one for each resource, so that those made
/// together are not renewed together.
pub(super) fn renewal_share(uid: &str) -> f64 {
    let byte = Sha256::digest(uid)[0];
    0.4 + f64::from(byte) / 1_280.0
}

fn mac(key: &SecretString, signed: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(collection: &str) -> Scope {
        Scope { collection: collection.to_owned(), subject: "team/memory".to_owned() }
    }

    #[test]
    fn an_api_key_that_is_a_json_web_token_is_not_ours() {
        for claims in [
            r#"{"access":"m","subject":"api-key:0f4b"}"#,
            r#"{"exp":4000000000,"access":[{"collection":"mine","access":"rw"}],"subject":"api-key:0f4b"}"#,
            r#"{"access":"r"}"#,
        ] {
            let key = format!("{HEADER}.{}.c2lnbmF0dXJl", BASE64_URL_SAFE_NO_PAD.encode(claims));
            assert!(!is_token(&key), "{claims}");
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// Made by another program, with Python's `hmac` and `base64`.
    #[test]
    fn a_token_is_what_other_programs_make_of_the_same() {
        let token = mint(&"secret".into(), &scope("mine"), at(1_800_000_000));
        assert_eq!(token.expose_secret(), EXPECTED);
    }

    const EXPECTED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE4MDAwMDAwMDAsImFjY2VzcyI6W3siY29sbGVjdGlvbiI6Im1pbmUiLCJhY2Nlc3MiOiJydyJ9XSwic3ViamVjdCI6InRlYW0vbWVtb3J5In0.7Dt5AhCGh7FkrIx9WMQLPVFDvMul7O3DnWoHngqsWB0";

    #[test]
    fn a_token_counts_by_its_key_and_for_its_scope_alone() {
        let key = SecretString::from("secret");
        let token = mint(&key, &scope("mine"), at(100));
        let read = |token: &str, key: &str, collection: &str| expiry(token, &key.into(), &scope(collection));
        let token = token.expose_secret();
        assert_eq!(read(token, "secret", "mine"), Some(at(100)));
        assert_eq!(read(token, "rotated", "mine"), None);
        assert_eq!(read(token, "secret", "other"), None);
        let mut changed = token.to_owned();
        changed.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
        for wrong in [changed.as_str(), "", "secret", "a.b.c", &token[..token.len() - 4]] {
            assert_eq!(read(wrong, "secret", "mine"), None, "{wrong}");
        }
        assert!(is_token(token) && !is_token("secret") && !is_token("a.b.c"));
    }

    #[test]
    fn renewals_are_spread_around_the_half() {
        let shares: Vec<f64> = (0..100).map(|number| renewal_share(&number.to_string())).collect();
        assert!(shares.iter().all(|share| (0.4..=0.6).contains(share)));
        let (least, most) =
            shares.iter().fold((1.0_f64, 0.0_f64), |(low, high), share| (low.min(*share), high.max(*share)));
        assert!(most - least > 0.15, "{least} to {most}");
    }
}
