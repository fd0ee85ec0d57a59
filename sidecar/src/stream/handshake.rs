//! The opening handshake of a WebSocket (RFC 6455 section 4.2).

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::problem::Code;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{refusal::Refusal, routes::exchange::invalid};

/// The value of `Sec-WebSocket-Accept`: proof that this side speaks the protocol.
pub(super) struct Accepted(String);

/// Checks that the request opens a WebSocket.
pub(super) fn accept(request: &Request) -> Result<Accepted, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        let detail = "a stream is opened by GET";
        return Err(Refusal::new(Code::MethodNotAllowed, detail));
    }
    if request.version() != Version::HTTP_11 {
        return Err(wanted("a stream is opened over HTTP/1.1"));
    }
    if !names(headers, header::UPGRADE, "websocket") || !names(headers, header::CONNECTION, "upgrade") {
        return Err(wanted(
            "the headers Connection: Upgrade and Upgrade: websocket must be there; use a WebSocket client",
        ));
    }
    if !names(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(wanted("the header Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if key.len() != 24 || !key.ends_with(b"==") {
        return Err(invalid("Sec-WebSocket-Key", "the header Sec-WebSocket-Key must be 16 random bytes in Base64"));
    }
    Ok(Accepted(derive_accept_key(key)))
}

/// The answer after which the connection is a WebSocket.
pub(super) fn switch(Accepted(key): Accepted) -> Response {
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    response
}

fn wanted(detail: &str) -> Refusal {
    Refusal::new(Code::UpgradeRequired, detail)
}

/// Whether a header, a list of words, has this one.
fn names(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|given| given.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut Request)) -> Result<String, Code> {
        let mut request = Request::builder()
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Body::empty())
            .expect("a request");
        change(&mut request);
        accept(&request).map(|Accepted(key)| key).map_err(|refusal| refusal.code())
    }

    #[test]
    fn the_key_of_the_standard_gives_its_answer() {
        assert_eq!(request(|_| {}).as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 section 1.3");
    }

    #[test]
    fn what_opens_no_websocket_is_refused_by_its_reason() {
        for missing in ["connection", "upgrade", "sec-websocket-version"] {
            let refused = request(|request| drop(request.headers_mut().remove(missing)));
            assert_eq!(refused, Err(Code::UpgradeRequired), "{missing}");
        }
        let old = request(|request| *request.version_mut() = Version::HTTP_10);
        assert_eq!(old, Err(Code::UpgradeRequired));
        let method = request(|request| *request.method_mut() = Method::HEAD);
        assert_eq!(method, Err(Code::MethodNotAllowed));
        let key = request(|request| drop(request.headers_mut().remove("sec-websocket-key")));
        assert_eq!(key, Err(Code::ParameterInvalid));
    }
}
