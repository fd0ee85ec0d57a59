//! Watches that begin anew, and in small steps. An API server says that a watch is too old (410) by an event in the stream; one behind a gateway, or of
//! another make, may say it by the status of its answer. kube's watcher lists anew only for the former: for the latter it asks for the
//! same watch again, and sees nothing ever after.

use http::{Method, Request, Response, StatusCode};
use kube::{
    Client,
    api::{ListMeta, ListParams},
    client::Body,
};
use serde_json::json;
use tower::{BoxError, service_fn};

/// Objects of one page of a first list. A page is in memory as a whole, as text and as objects, so a small one bounds what a start takes.
pub const PAGE: u32 = 50;

/// The same of `ContextManager`s, and of what is labelled as a child of theirs: whoever makes them decides how large they are, up to
/// 1.5 MiB. The client holds a page twice as text, 3 MiB an object. The webhook reads little more of it than the spec, so a page of four takes
/// 12 MiB of its 128Mi (for the rest see `webhook/caches.rs`). The controller reads all metadata, of which labels and `managedFields` take
/// ten times their text: 15 MiB an object, and with one that is just being read some 90 MiB, beside the 40 that 1,000 resources and 10,000
/// pods take, of its 256Mi. A start among 1,000 resources takes 250 calls.
pub const RESOURCES_PAGE: u32 = 4;

/// How the page after this one is asked for; nothing after the last one.
#[must_use]
pub fn next_page(params: &ListParams, page: &ListMeta) -> Option<ListParams> {
    let token = page.continue_.as_deref().filter(|token| !token.is_empty())?;
    Some(params.clone().continue_token(token))
}

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
