//! An API server for tests that answers for the objects of one namespace, by their paths.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower::service_fn;

/// Where the Secrets are.
pub(super) const SECRETS: &str = "/api/v1/namespaces/team/secrets";

/// What the API server lets the controller do with what is no Secret, `ConfigMap` or event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rights {
    /// Nothing.
    #[default]
    None,
    /// It may be read, and is not taken.
    Read,
    /// All.
    Write,
}

/// Objects by their paths.
#[derive(Clone, Default)]
pub(super) struct Objects {
    all: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Whether a policy of the namespace is against every Secret and `ConfigMap`.
    refuses: Arc<AtomicBool>,
    pub(super) rights: Rights,
}

impl Objects {
    pub(super) fn with(rights: Rights) -> Self {
        Self { rights, ..Self::default() }
    }

    /// Puts a Secret or a `ConfigMap` there.
    pub(super) fn put(&self, path: &str, data: &[(&str, &str)]) {
        let is_secret = path.contains("/secrets/");
        let encoded = |text: &str| if is_secret { BASE64_STANDARD.encode(text) } else { text.to_owned() };
        let data: BTreeMap<_, _> = data.iter().map(|(file, text)| ((*file).to_owned(), encoded(text))).collect();
        let owner = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "name": "memory", "uid": "uid-1"});
        let metadata = json!({
            "name": path.rsplit('/').next(), "namespace": "team", "resourceVersion": "1", "ownerReferences": [owner],
        });
        self.all.lock().unwrap().insert(path.to_owned(), json!({"metadata": metadata, "data": data}));
    }

    /// Whether a policy of the namespace is against every Secret and `ConfigMap` that is written from now on.
    pub(super) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// A file of a Secret.
    pub(super) fn file(&self, secret: &str, file: &str) -> Option<String> {
        let all = self.all.lock().unwrap();
        let encoded = all.get(&format!("{SECRETS}/{secret}"))?["data"][file].as_str()?;
        Some(String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap())
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let failure = |status: StatusCode, reason: &str| {
            (status, json!({"kind": "Status", "status": "Failure", "reason": reason, "code": status.as_u16()}))
        };
        let is_given = ["/secrets", "/configmaps", "/events"].iter().any(|kind| path.contains(kind));
        let is_object = is_given && !path.contains("/events");
        let mut all = self.all.lock().unwrap();
        match *method {
            _ if !is_given && self.rights == Rights::None => failure(StatusCode::FORBIDDEN, "Forbidden"),
            Method::GET => match all.get(path) {
                Some(found) => (StatusCode::OK, found.clone()),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            _ if path.contains("/team/") && is_object && self.refuses.load(Ordering::SeqCst) => {
                let (status, mut answer) = failure(StatusCode::FORBIDDEN, "Forbidden");
                answer["message"] = "exceeded quota: small".into();
                (status, answer)
            }
            _ if !is_given && self.rights == Rights::Read => failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            _ => {
                let object: Value = serde_json::from_slice(body).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let path = if *method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
                all.insert(path, object.clone());
                (StatusCode::OK, object)
            }
        }
    }

    pub(super) fn client(&self) -> Client {
        let objects = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let objects = objects.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (status, answer) = objects.answer(&parts.method, parts.uri.path(), &body);
                let answer = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer.unwrap())
            }
        });
        Client::new(service, "default")
    }
}
