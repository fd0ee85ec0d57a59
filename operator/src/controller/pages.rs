//! Pods are listed page by page, and of each page only what is needed outlives it.

use std::pin::pin;

use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client, Resource as _,
    api::{ListMeta, ListParams},
    core::Request,
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    error::{Error, call},
    pods::Whole,
};
use crate::watches::next_page;

/// Pods of one page.
const PAGE: u32 = 250;
/// Bytes of a page, which is in memory as a whole, as text and as objects. Pods of a usual size are a third of that, and the largest one
/// that the API server keeps fits, also if each of its bytes takes six in JSON.
const LARGEST: u64 = 10 << 20;
/// By how much fewer pods are asked for when a page is larger.
const FEWER: u32 = 16;
/// Pages at once, of all reconciliations.
static TURNS: Semaphore = Semaphore::const_new(2);

/// A page as it is read.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<Whole>>,
}

/// Shows each pod of a namespace that has these labels, by the newest state and not by what a cache has: what is decided by it must not be
/// missed. Of the pod there is what [`Whole`] reads.
pub(super) async fn each_pod(
    client: &Client,
    namespace: &str,
    labels: &str,
    mut look: impl FnMut(&Pod),
) -> Result<(), Error> {
    let request = Request::new(Pod::url_path(&(), Some(namespace)));
    let mut params = ListParams::default().labels(labels).limit(PAGE);
    loop {
        let turn = TURNS.acquire().await;
        let page = call("list the pods with a sidecar", page(client, &request, &params)).await?;
        let Some(Page { metadata, items }) = page else {
            // Whoever makes pods decides how large they are. It stays so for the rest of the list, whose token says where it goes on alone.
            params.limit = params.limit.map(|limit| (limit / FEWER).max(1));
            continue;
        };
        items.iter().flatten().for_each(|pod| look(pod.pod()));
        drop((items, turn));
        match next_page(&params, &metadata) {
            Some(next) => params = next,
            None => return Ok(()),
        }
    }
}

/// A page; nothing if it is too large.
async fn page(client: &Client, request: &Request, params: &ListParams) -> Result<Option<Page>, kube::Error> {
    let request = request.list(params).map_err(kube::Error::BuildRequest)?;
    let answer = pin!(client.request_stream(request).await?);
    let (mut answer, mut text) = (answer.take(LARGEST), Vec::new());
    answer.read_to_end(&mut text).await.map_err(|error| kube::Error::Service(error.into()))?;
    if answer.limit() > 0 {
        return serde_json::from_slice(&text).map(Some).map_err(kube::Error::SerdeError);
    }
    if params.limit == Some(1) { Err(kube::Error::Service("a pod is too large to be read".into())) } else { Ok(None) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::{Request, Response};
    use kube::{ResourceExt as _, client::Body};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_list_goes_on_to_its_last_page() {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for (pods, token) in [(["a", "b"], "next"), (["c", "d"], "")] {
                let (request, answer) = handle.next_request().await.unwrap();
                asked.push(request.uri().query().unwrap().to_owned());
                let items = pods.map(|name| json!({"metadata": {"name": name}}));
                let list =
                    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"continue": token}, "items": items});
                answer.send_response(Response::new(Body::from(list.to_string().into_bytes())));
            }
            asked
        });
        let mut seen = Vec::new();
        each_pod(&client, "team", "a=b", |pod| seen.push(pod.name_any())).await.unwrap();
        assert_eq!(seen, ["a", "b", "c", "d"]);
        let asked = server.await.unwrap();
        assert!(
            asked.iter().all(|query| query.contains("limit=250") && !query.contains("resourceVersion")),
            "{asked:?}"
        );
        assert!(!asked[0].contains("continue") && asked[1].contains("continue=next"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let server = tokio::spawn(async move {
            let list = |name: &str, token: &str| {
                let items = [json!({"metadata": {"name": name}})];
                json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"continue": token}, "items": items})
            };
            let large = vec![b' '; usize::try_from(LARGEST).unwrap()];
            let answers = [large, list("a", "next").to_string().into_bytes(), list("b", "").to_string().into_bytes()];
            let mut asked = Vec::new();
            for text in answers {
                let (request, answer) = handle.next_request().await.unwrap();
                asked.push(request.uri().query().unwrap().to_owned());
                answer.send_response(Response::new(Body::from(text)));
            }
            asked
        });
        let mut seen = Vec::new();
        each_pod(&client, "team", "a=b", |pod| seen.push(pod.name_any())).await.unwrap();
        assert_eq!(seen, ["a", "b"]);
        let asked = server.await.unwrap();
        assert!(asked[0].contains("limit=250") && !asked[1].contains("continue"), "{asked:?}");
        assert!(asked[1..].iter().all(|query| query.contains("limit=15")), "{asked:?}");
    }

    #[tokio::test]
    async fn a_pod_that_is_too_large_by_itself_ends_the_list() {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let server = tokio::spawn(async move {
            for _ in 0..3 {
                let (_, answer) = handle.next_request().await.unwrap();
                answer.send_response(Response::new(Body::from(vec![b' '; usize::try_from(LARGEST).unwrap()])));
            }
        });
        assert!(each_pod(&client, "team", "a=b", |_| {}).await.is_err());
        server.await.unwrap();
    }
}
