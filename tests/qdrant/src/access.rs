//! Who may do what: the API key may do everything, a token (`jwt_rbac`) what its claims say of a collection.
//!
//! The rules are those of Qdrant 1.19: making, changing and dropping collections needs the key; indexes and names of vectors need `rw`;
//! points `rw` or `prw`; reading any of the three. A token whose signature or time is wrong is forbidden, what is no token is unknown.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tonic::Status;

/// Seconds by which clocks may differ.
const LEEWAY: u64 = 30;

/// What a caller may do.
#[derive(Clone, Debug)]
pub(crate) enum Granted {
    Everything,
    Collections(Arc<[(String, String)]>),
}

/// What a call does to a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Read,
    WritePoints,
    Write,
    Manage,
}

impl Need {
    fn of(call: &str) -> Self {
        match call {
            "create" | "update" => Self::Manage,
            "create_field_index" | "create_vector_name" | "delete_vector_name" => Self::Write,
            "upsert" | "overwrite_payload" | "update_batch" | "update_vectors" | "delete_vectors" => Self::WritePoints,
            _ => Self::Read,
        }
    }
}

impl Granted {
    /// What a token grants that is signed with one of the keys; nothing for what is no token.
    pub(crate) fn by_token<'a>(token: &str, keys: impl IntoIterator<Item = &'a str>) -> Option<Result<Self, Status>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let signature = decode(signature)?;
        if header["alg"] != "HS256" {
            return None;
        }
        let verifies = |key: &str| {
            let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes());
            mac.is_ok_and(|mac| mac.chain_update(signed).verify_slice(&signature).is_ok())
        };
        if !keys.into_iter().any(verifies) {
            return Some(Err(Status::permission_denied("InvalidSignature")));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if claims["exp"].as_u64().is_some_and(|exp| exp + LEEWAY < now) {
            return Some(Err(Status::permission_denied("ExpiredSignature")));
        }
        let granted = claims["access"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Ok(Self::Collections(granted.map(|one| (text(&one["collection"]), text(&one["access"]))).collect())))
    }

    /// Whether a call of a service may be made.
    pub(crate) fn check(&self, service: &str, call: &str, collection: &str) -> Result<(), Status> {
        let Self::Collections(granted) = self else { return Ok(()) };
        let need = match (service, call) {
            ("Collections", "delete") => Need::Manage,
            ("Points", "delete") => Need::WritePoints,
            _ => Need::of(call),
        };
        let most = match granted.iter().find(|(name, _)| name == collection).map(|(_, access)| access.as_str()) {
            Some("rw") => Need::Write,
            Some("prw") => Need::WritePoints,
            Some("r") => Need::Read,
            Some(_) | None => {
                return Err(Status::permission_denied(format!("Access to collection {collection} is required")));
            }
        };
        if need <= most { Ok(()) } else { Err(Status::permission_denied(format!("{need:?} access is required"))) }
    }
}
