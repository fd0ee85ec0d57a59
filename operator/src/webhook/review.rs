//! The `AdmissionReview` messages, as far as they are used. The pod in them stays raw JSON.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest message to a person: one may repeat what is wrong, and that may be as long as a review.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// Most warnings. The API server shows 4 KiB of them.
const MAX_WARNINGS: usize = 16;

/// What the API server sends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    pub(super) api_version: String,
    pub(super) request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) uid: String,
    pub(super) resource: ResourceName,
    #[serde(default)]
    pub(super) sub_resource: Option<String>,
    pub(super) operation: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) object: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct ResourceName {
    #[serde(default)]
    pub(super) group: String,
    pub(super) resource: String,
}

impl Request {
    pub(super) fn creates_a_pod(&self) -> bool {
        let ResourceName { group, resource } = &self.resource;
        let whole = self.sub_resource.as_deref().unwrap_or_default().is_empty();
        self.operation == "CREATE" && group.is_empty() && resource == "pods" && whole
    }
}

/// What is answered.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64 of the JSON patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    audit_annotations: Value,
}

/// The message with the answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: String,
    kind: &'static str,
    response: Response,
}

impl Response {
    /// The pod is admitted as it is.
    pub(super) fn admit(uid: &str, reason: &str, warnings: Vec<String>) -> Self {
        let audit_annotations = json!({"decision": "skip", "reason": reason});
        let warnings = warnings.into_iter().take(MAX_WARNINGS).map(|warning| shortened(&warning)).collect();
        Self { uid: uid.to_owned(), allowed: true, warnings, audit_annotations, ..Self::default() }
    }

    /// The pod is admitted with changes. An empty patch is left out, because the API server would call all other webhooks
    /// again for it.
    pub(super) fn inject(uid: &str, resource: &str, patch: &json_patch::Patch, warnings: Vec<String>) -> Self {
        let changes = !patch.0.is_empty();
        Self {
            patch_type: changes.then_some("JSONPatch"),
            patch: changes.then(|| BASE64_STANDARD.encode(patch.to_string())),
            audit_annotations: json!({"decision": "inject", "resource": resource}),
            ..Self::admit(uid, "", warnings)
        }
    }

    /// The pod is refused.
    pub(super) fn deny(uid: &str, code: u16, reason: &str, message: &str) -> Self {
        let message = shortened(message);
        let words = if code == 403 { "Forbidden" } else { "InternalError" };
        Self {
            uid: uid.to_owned(),
            status: Some(json!({"status": "Failure", "code": code, "reason": words, "message": message})),
            audit_annotations: json!({"decision": "deny", "reason": reason}),
            ..Self::default()
        }
    }

    pub(super) fn into_review(self, api_version: String) -> Answer {
        Answer { api_version, kind: "AdmissionReview", response: self }
    }
}

fn shortened(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    if end == message.len() { message.to_owned() } else { format!("{}…", &message[..end]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stays_short_whatever_it_repeats() {
        let long = "ä".repeat(1 << 20);
        let denied = Response::deny("u", 403, "InvalidAnnotation", &long);
        let message = denied.status.and_then(|status| Some(status.get("message")?.as_str()?.to_owned()));
        assert!(message.is_some_and(|message| message.ends_with("ä…") && message.len() <= MAX_MESSAGE_BYTES + 3));
        let admitted = Response::admit("u", "", vec![long; 100]);
        assert_eq!(admitted.warnings.len(), MAX_WARNINGS);
        assert!(admitted.warnings.iter().all(|warning| warning.len() <= MAX_MESSAGE_BYTES + 3));
        assert_eq!(Response::admit("u", "", vec!["short".to_owned()]).warnings, ["short"]);
    }
}
