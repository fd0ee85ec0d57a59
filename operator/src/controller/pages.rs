//! Pods are listed page by page, and of each page only what is needed outlives it.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};

use super::error::{Error, call};

/// Pods of one page, which is in memory as a whole, as text and as objects.
const PAGE: u32 = 250;

/// Shows each pod of a namespace that has these labels, by the newest state and not by what a cache has: what is decided by it must not be missed.
pub(super) async fn each_pod(
    client: &Client,
    namespace: &str,
    labels: &str,
    mut look: impl FnMut(&Pod),
) -> Result<(), Error> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().labels(labels).limit(PAGE);
    loop {
        let page = call("list the pods with a sidecar", api.list(&params)).await?;
        page.items.iter().for_each(&mut look);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
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
}
