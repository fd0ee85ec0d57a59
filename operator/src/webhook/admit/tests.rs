//! Admissions through the router, with a scripted API server behind it.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    body::{Body, to_bytes},
    http::StatusCode,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Request as HttpRequest;
use kube::client::Body as KubeBody;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::{
    inject::OnMissing,
    pki::{Certificates, Issuer},
    scope::Scope,
    webhook::server::Peer,
};

type Handle = tower_test::mock::Handle<HttpRequest<KubeBody>, http::Response<KubeBody>>;

/// The longest body.
const MOST: usize = 4 << 20;

struct Webhook {
    router: Router,
    intake: Arc<Intake>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A webhook with empty caches, and the API server it will ask.
fn webhook() -> (Webhook, Handle) {
    webhook_of(&Scope::Cluster)
}

/// The same, of an operator that looks there.
fn webhook_of(scope: &Scope) -> (Webhook, Handle) {
    let (service, handle) = tower_test::mock::pair();
    let client = Client::new(service, "default");
    let intake = Arc::new(Intake::new());
    let metrics = Metrics::new(Certificates::default(), Issuer::SelfManaged, Arc::clone(&intake));
    let metrics = Arc::new(metrics.expect("metrics that differ in name"));
    let shutdown = CancellationToken::new();
    let events = Events::start(client.clone(), "test".to_owned(), Arc::clone(&metrics), shutdown.clone());
    let settings = inject::Settings { sidecar_image: "sidecar:1".to_owned(), on_missing: OnMissing::Skip, class: None };
    let admitter =
        Admitter { client, caches: Caches::new(scope), settings, events, intake, metrics: Arc::clone(&metrics) };
    let intake = Arc::clone(&admitter.intake);
    (Webhook { router: router(Arc::new(admitter)), intake, metrics, shutdown }, handle)
}

fn review(pod: &Value, more: &Value) -> Value {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "team",
            "object": pod,
        },
    });
    json_patch::merge(&mut review["request"], more);
    review
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "agent", "annotations": {"contextmanager.dev/inject": "true"}},
        "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
    })
}

fn request(address: Ipv4Addr, body: Body) -> HttpRequest<Body> {
    let caller = Caller { peer: Peer::from(IpAddr::from(address)), cut: CancellationToken::new() };
    HttpRequest::post("/mutate").extension(caller).body(body).expect("a request")
}

impl Webhook {
    fn post_from(
        &self,
        address: Ipv4Addr,
        body: Body,
    ) -> impl Future<Output = (StatusCode, Option<String>, String)> + use<> {
        let (router, request) = (self.router.clone(), request(address, body));
        async move {
            let answer = router.oneshot(request).await.expect("a router never fails");
            let status = answer.status();
            let retry = answer.headers().get("retry-after").and_then(|value| Some(value.to_str().ok()?.to_owned()));
            let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
            (status, retry, String::from_utf8_lossy(&body).into_owned())
        }
    }

    async fn post(&self, body: impl Into<Body>) -> (StatusCode, String) {
        let (status, _, text) = self.post_from(Ipv4Addr::LOCALHOST, body.into()).await;
        (status, text)
    }

    async fn ask(&self, review: &Value) -> Value {
        let (status, body) = self.post(review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].clone()
    }
}

/// Answers calls in order, each for the path it must have; returns what came after them: `METHOD path` of each.
async fn script(mut handle: Handle, answers: Vec<(&str, StatusCode, Value)>) -> Vec<String> {
    for (path, status, body) in answers {
        let (request, send) = handle.next_request().await.expect("a call");
        assert_eq!(request.uri().path(), path);
        let answer = http::Response::builder().status(status).body(KubeBody::from(body.to_string().into_bytes()));
        send.send_response(answer.expect("an answer"));
    }
    let mut further = Vec::new();
    let quiet = std::time::Duration::from_millis(200);
    while let Ok(Some((request, _))) = tokio::time::timeout(quiet, handle.next_request()).await {
        further.push(format!("{} {}", request.method(), request.uri().path()));
    }
    further
}

fn namespace() -> (&'static str, StatusCode, Value) {
    let body = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "team"}});
    ("/api/v1/namespaces/team", StatusCode::OK, body)
}

fn resources(names: &[&str]) -> (&'static str, StatusCode, Value) {
    let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name, "namespace": "team"}})).collect();
    let body = json!({
        "apiVersion": "contextmanager.dev/v1alpha1",
        "kind": "ContextManagerList",
        "metadata": {},
        "items": items,
    });
    ("/apis/contextmanager.dev/v1alpha1/namespaces/team/contextmanagers", StatusCode::OK, body)
}

#[tokio::test]
async fn a_resource_that_the_cache_has_not_seen_yet_is_read_before_a_pod_is_denied() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&["memory"])]));
    let answer = webhook.ask(&review(&pod(), &json!({}))).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["patchType"], "JSONPatch");
    let patch = BASE64_STANDARD.decode(answer["patch"].as_str().expect("a patch")).expect("Base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a JSON patch");
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).expect("a patch that fits");
    assert_eq!(patched["spec"]["initContainers"][0]["image"], "sidecar:1");
    assert_eq!(answer["auditAnnotations"]["resource"], "memory");
    let further = server.await.expect("the script");
    assert_eq!(further, ["POST /apis/events.k8s.io/v1/namespaces/team/events"]);
    assert_eq!(webhook.metrics.fresh_reads.get(), 1);
}

#[tokio::test]
async fn a_fresh_list_is_read_page_by_page_to_its_end() {
    let (webhook, mut handle) = webhook();
    let server = tokio::spawn(async move {
        let mut queries = Vec::new();
        let (path, _, mut first) = resources(&["b", "c"]);
        first["metadata"]["continue"] = json!("next");
        let (_, _, last) = resources(&["memory"]);
        let (of_namespace, _, namespace) = namespace();
        for (path, body) in [(of_namespace, namespace), (path, first), (path, last)] {
            let (request, send) = handle.next_request().await.expect("a call");
            assert_eq!(request.uri().path(), path);
            queries.push(request.uri().query().unwrap_or_default().to_owned());
            send.send_response(http::Response::new(KubeBody::from(body.to_string().into_bytes())));
        }
        queries
    });
    let mut asking = pod();
    asking["metadata"]["annotations"]["contextmanager.dev/name"] = json!("memory");
    let answer = webhook.ask(&review(&asking, &json!({"dryRun": true}))).await;
    assert_eq!(answer["auditAnnotations"]["resource"], "memory");
    let queries = server.await.expect("the script");
    assert!(queries[1..].iter().all(|query| query.contains("limit=2")), "{queries:?}");
    assert!(!queries[1].contains("continue") && queries[2].contains("continue=next"), "{queries:?}");
}

#[tokio::test]
async fn a_dry_run_leaves_no_event() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&["memory"])]));
    let answer = webhook.ask(&review(&pod(), &json!({"dryRun": true}))).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(server.await.expect("the script"), Vec::<String>::new());
}

#[tokio::test]
async fn a_denial_says_why_and_leaves_an_event() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&["b", "a"])]));
    let answer = webhook.ask(&review(&pod(), &json!({}))).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["status"]["code"], 403);
    let message = answer["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("\"a\" or \"b\""), "{message}");
    assert_eq!(server.await.expect("the script").len(), 1);
    let metrics = webhook.metrics.render(jiff::Timestamp::UNIX_EPOCH).expect("text");
    let line = "context_manager_injection_decisions_total{decision=\"deny\",reason=\"AmbiguousResource\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_resource_where_the_operator_does_not_look_is_left_to_one_that_does() {
    let mut asking = pod();
    asking["metadata"]["annotations"]["contextmanager.dev/name"] = json!("platform/memory");
    let (webhook, handle) = webhook_of(&Scope::of(vec!["team".to_owned()]));
    let server = tokio::spawn(script(handle, vec![namespace()]));
    let answer = webhook.ask(&review(&asking, &json!({}))).await;
    assert_eq!((&answer["allowed"], answer.get("patch"), answer.get("warnings")), (&json!(true), None, None));
    assert_eq!(server.await.expect("the script"), Vec::<String>::new(), "nothing is told");
    let metrics = webhook.metrics.render(jiff::Timestamp::UNIX_EPOCH).expect("text");
    let line = "context_manager_injection_decisions_total{decision=\"skip\",reason=\"OtherClass\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    // One that is looked at, and does not allow it, is refused all the same.
    let (webhook, handle) = webhook_of(&Scope::of(vec!["team".to_owned(), "platform".to_owned()]));
    let (_, status, none) = resources(&[]);
    let there = ("/apis/contextmanager.dev/v1alpha1/namespaces/platform/contextmanagers", status, none);
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&[]), there]));
    let answer = webhook.ask(&review(&asking, &json!({}))).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["auditAnnotations"]["reason"], "NotGranted");
    server.await.expect("the script");
}

#[tokio::test]
async fn a_pod_is_not_admitted_by_guessing_when_the_cluster_cannot_be_read() {
    let (webhook, handle) = webhook();
    let forbidden = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
    let server = tokio::spawn(script(handle, vec![("/api/v1/namespaces/team", StatusCode::FORBIDDEN, forbidden)]));
    let answer = webhook.ask(&review(&pod(), &json!({}))).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["status"]["code"], 500);
    assert_eq!(server.await.expect("the script"), Vec::<String>::new());
}

#[tokio::test]
async fn other_things_than_new_pods_pass_untouched() {
    let (webhook, _handle) = webhook();
    for more in [
        json!({"operation": "UPDATE"}),
        json!({"subResource": "ephemeralcontainers"}),
        json!({"resource": {"group": "apps", "version": "v1", "resource": "deployments"}}),
    ] {
        let answer = webhook.ask(&review(&pod(), &more)).await;
        assert_eq!((&answer["allowed"], answer.get("patch")), (&json!(true), None), "{more}");
    }
}

#[tokio::test]
async fn a_review_of_no_namespace_asks_nobody_anything() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, Vec::new()));
    for namespace in ["", "..", "team/x", "Team", &"a".repeat(1 << 20)] {
        let answer = webhook.ask(&review(&pod(), &json!({"namespace": namespace}))).await;
        assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(403)));
    }
    assert_eq!(server.await.expect("the script"), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_review_is_refused_with_the_reason() {
    let (webhook, _handle) = webhook();
    for body in ["", "{", "[]", "{\"apiVersion\":\"admission.k8s.io/v1\"}", "\u{0}"] {
        let (status, text) = webhook.post(body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(text.contains("not an AdmissionReview"), "{text}");
    }
    let (status, text) = webhook.post(vec![b' '; MOST + 1]).await;
    assert!(status == StatusCode::PAYLOAD_TOO_LARGE && text.contains("at most 4 MiB"), "{status}: {text}");
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let (status, _) = webhook.post(Body::from_stream(endless)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // As long as it may be, and a hundred times that when it is read.
    let (status, text) = webhook.post(format!("[{}0]", "{},".repeat(MOST / 3 - 1))).await;
    assert!(status == StatusCode::PAYLOAD_TOO_LARGE && text.contains("when it is read"), "{status}: {text}");
    let (status, _) = webhook.post(vec![b' '; MOST]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(webhook.intake.held(), 0, "whatever became of them, their memory is free again");
    let metrics = webhook.metrics.render(jiff::Timestamp::UNIX_EPOCH).expect("text");
    for line in ["refused_total{reason=\"NoReview\"} 6", "refused_total{reason=\"TooLarge\"} 3", "reserved_bytes 0"] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

/// A body that says its length and then nothing.
fn stuck(length: usize) -> Body {
    struct Stuck(u64);
    impl axum::body::HttpBody for Stuck {
        type Data = axum::body::Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Pending
        }

        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(self.0)
        }
    }
    Body::new(Stuck(length as u64))
}

#[tokio::test]
async fn bodies_that_do_not_come_make_way_for_those_that_do() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&["memory"])]));
    let stranger = |last| Ipv4Addr::new(10, 0, 0, last);
    let answers: Vec<_> = (0..8).map(|turn| tokio::spawn(webhook.post_from(stranger(turn / 2), stuck(MOST)))).collect();
    while webhook.intake.held() < 4 * MOST as u64 {
        tokio::task::yield_now().await;
    }
    let answer = webhook.ask(&review(&pod(), &json!({}))).await;
    assert_eq!(answer["allowed"], true);
    let (mut told, mut waiting) = (0, 0);
    for answer in &answers {
        if answer.is_finished() { told += 1 } else { waiting += 1 }
    }
    assert!(told >= 1 && waiting >= 3, "one makes way, {told} did");
    for answer in answers {
        if answer.is_finished() {
            let (status, retry, _) = answer.await.expect("no panic");
            assert_eq!((status, retry.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
        } else {
            answer.abort();
        }
    }
    server.await.expect("the script");
}

#[tokio::test]
async fn an_answer_has_its_memory_until_it_is_taken() {
    let (webhook, handle) = webhook();
    let server = tokio::spawn(script(handle, vec![namespace(), resources(&["memory"])]));
    let request = request(Ipv4Addr::LOCALHOST, Body::from(review(&pod(), &json!({})).to_string()));
    let answer = webhook.router.clone().oneshot(request).await.expect("a router never fails");
    let length: u64 =
        answer.headers()["content-length"].to_str().ok().and_then(|text| text.parse().ok()).expect("a length");
    assert_eq!(webhook.intake.held(), length);
    let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    assert_eq!((body.len() as u64, webhook.intake.held()), (length, length), "it is not on its way yet");
    drop(body);
    assert_eq!(webhook.intake.held(), 0);
    server.await.expect("the script");
}
