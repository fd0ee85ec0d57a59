//! The description of the protocol itself.

use std::sync::OnceLock;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::exchange::Caller;
use crate::openapi;

/// The OpenAPI document.
pub struct Document(Bytes);

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        let content_type = HeaderValue::from_static("application/json");
        (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], self.0).into_response()
    }
}

/// `GET /v1/openapi.json`. The document is made at the first request: few sidecars are ever asked for it.
pub async fn openapi(_: Caller) -> Document {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    Document(DOCUMENT.get_or_init(|| openapi::document().into()).clone())
}
