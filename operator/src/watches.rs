//! Watches that begin anew, and in small steps. An API server says that a watch is too old (410) by an event in the stream; one behind a gateway, or of
//! another make, may say it by the status of its answer. kube's watcher lists anew only for the former: for the latter it asks for the
//! same watch again, and sees nothing ever after.

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::json;
use tower::{BoxError, service_fn};

/// Objects of one page of a first list. A page is in memory as a whole, as text and as objects, so a small one bounds what a start takes.
pub const PAGE: u32 = 50;

/// The same client, which is always told in the stream.
#[must_use]
pub fn restartable(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let watches = is_watch(&request);
            let answer = client.send(request).await.map_err(BoxError::from)?;
            Ok::<_, BoxError>(if watches && answer.status() == StatusCode::GONE {
                told_in_the_stream()
            } else {
                answer
            })
        }
    });
    Client::new(service, namespace)
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET && query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

fn told_in_the_stream() -> Response<Body> {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Expired",
        "code": StatusCode::GONE.as_u16(),
        "message": "the watch is too old",
    });
    let event = json!({"type": "ERROR", "object": status});
    Response::new(Body::from(format!("{event}\n").into_bytes()))
}
