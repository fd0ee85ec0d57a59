//! Memory that an eviction would end.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use tower::service_fn;

use super::*;
use crate::controller::{
    context::tests::context_with,
    fleet::Fleet,
    grants::Grants,
    plan::Plan,
    status::{Finding, Good, Trouble},
    upgrade::ensure,
};

/// Paths and texts of what was written.
type Written = Arc<Mutex<Vec<(String, String)>>>;

/// An API server with this pod, and what was written to it.
fn server(pod: &Value) -> (Client, Written) {
    let pods = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod]});
    let written = Written::default();
    let noted = Arc::clone(&written);
    let service = service_fn(move |request: Request<Body>| {
        let (pods, noted) = (pods.clone(), Arc::clone(&noted));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let answer = if parts.method == Method::GET {
                pods
            } else {
                let (path, text) = (parts.uri.path().to_owned(), String::from_utf8_lossy(&body).into_owned());
                noted.lock().expect("not poisoned").push((path, text));
                json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201})
            };
            Ok::<_, kube::Error>(Response::new(Body::from(answer.to_string().into_bytes())))
        }
    });
    (Client::new(service, "default"), written)
}

/// A pod that has to make way, and stands in the status to be evicted.
fn outdated(template: &str) -> Value {
    json!({
        "metadata": {
            "name": "a", "namespace": "team", "uid": "uid-a", "creationTimestamp": "1970-01-01T00:00:00Z",
            "annotations": {"contextmanager.dev/injected-template": template},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "agent", "uid": "u", "controller": true}],
        },
        "spec": {"containers": [{"name": "agent"}], "initContainers": [{"name": "context-manager", "image": OLD}]},
        "status": {"phase": "Running", "initContainerStatuses": [{
            "name": "context-manager", "ready": true, "image": OLD, "imageID": "", "restartCount": 0,
            "state": {"running": {"startedAt": "1970-01-01T00:00:07Z"}},
        }]},
    })
}

fn chosen(template: &str) -> ContextManagerStatus {
    let (past, long_ago) = ("2000-01-01T00:00:00Z", "1970-01-01T00:00:00Z");
    let evicted =
        json!([{"pod": "a", "uid": "uid-a", "workload": "team/ReplicaSet/agent", "at": past, "newest": long_ago}]);
    let upgrade = json!({"template": template, "since": past, "evicted": evicted});
    serde_json::from_value(json!({ "upgrade": upgrade })).expect("a status")
}

#[tokio::test]
async fn no_pod_is_evicted_while_the_store_is_away_and_what_an_eviction_costs_is_told() {
    let upgrade = json!({"upgrade": {"strategy": "RollingRestart"}});
    let qdrant = json!({"qdrant": {"url": "http://127.0.0.1:1"}});
    let well: Finding = Ok(Good("Provisioned", String::new()));
    let away: Finding = Err(Trouble::passing("StoreUnreachable", "it does not answer"));
    let small: Finding = Err(Trouble::stalled("ClaimRefused", "it does not grow"));
    for (store, is_lost, usable) in [(json!({"embedded": {}}), true, &small), (qdrant, false, &well)] {
        let resource = plan::tests::resource(&json!({"sidecar": upgrade, "vectorStore": store}));
        let of = |image| Target::of(fleet::view(&resource).expect("a view"), image);
        let target = of(NEW);
        let (client, written) = server(&outdated(&of(OLD).template));
        let evictions = || {
            let written = written.lock().expect("not poisoned");
            written.iter().filter(|(path, _)| path.ends_with("/pods/a/eviction")).count()
        };
        let context = context_with(&client, |settings| settings);
        let plan = Plan::of(&resource).expect("a plan");
        let current = chosen(&target.template);
        let counted = Counted { injected: 1, ready: 1, outdated: 1, missing: 0 };
        let fleet = Fleet { counted, missing: Vec::new(), left_out: Vec::new(), target: Some(target) };
        let grants = Grants::default();

        for (injection, store, reason) in [(&away, &well, "WebhookNotReady"), (&well, &away, "StoreNotReady")] {
            let found = ensure(&context, &plan, &fleet, Some(&current), &grants, (injection, store)).await;
            let found = found.expect("an answer");
            let said = found.finding.expect("something is said").expect_err("it waits");
            assert_eq!((said.reason, said.stalled, evictions()), (reason, false, 0), "{}", said.message);
            assert_eq!(
                said.message.contains("StoreUnreachable: it does"),
                reason == "StoreNotReady",
                "{}",
                said.message
            );
            assert_eq!(found.memory, current.upgrade, "it goes on with the same pod");
        }

        let found = ensure(&context, &plan, &fleet, Some(&current), &grants, (&well, usable)).await.expect("an answer");
        let said = found.finding.expect("something is said").expect_err("it is under way");
        assert_eq!((said.reason, evictions()), ("Upgrading", 1));
        assert_eq!(said.message.contains("loses its agent's memory"), is_lost, "{}", said.message);
        let written = written.lock().expect("not poisoned");
        let (_, event) = written.iter().find(|(path, _)| path.ends_with("/events")).expect("an event");
        assert_eq!(event.contains("the memory on their emptyDir ended with them"), is_lost, "{event}");
    }
}
