//! One admission: read the review, decide, answer; then, in the background, tell by an event.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response as HttpResponse},
    routing::post,
};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, warn};

use super::{
    caches::{self, Caches},
    events::{Events, Outcome},
    intake::{self, Intake, Refusal},
    metrics::Metrics,
    review::{Request, Response, Review},
    server::Caller,
};
use crate::inject::{self, Decision, Denial, Injection, Reason, Skip, decide, foreign, patch};

#[cfg(test)]
mod tests;

/// What admissions need.
pub(super) struct Admitter {
    pub(super) client: Client,
    pub(super) caches: Caches,
    pub(super) settings: inject::Settings,
    pub(super) events: Events,
    pub(super) intake: Arc<Intake>,
    pub(super) metrics: Arc<Metrics>,
}

pub(super) fn router(admitter: Arc<Admitter>) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        // A pod that trips a mistake of ours must not take the connections of all others with it.
        .layer(CatchPanicLayer::new())
        .with_state(admitter)
}

async fn mutate(
    State(admitter): State<Arc<Admitter>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> HttpResponse {
    // Its memory may be asked back at any time.
    let order = CancellationToken::new();
    let answer = order.run_until_cancelled(admitter.answer_to(&caller, body, &order)).await;
    answer.unwrap_or(Err(Refusal::Busy)).unwrap_or_else(|refusal| {
        admitter.metrics.refused(&refusal);
        refusal.into_response()
    })
}

impl Admitter {
    async fn answer_to(&self, caller: &Caller, body: Body, order: &CancellationToken) -> Result<HttpResponse, Refusal> {
        let (Review { api_version, request }, held) = self.intake.take(caller, body, order).await?;
        let answer = self.admit(&request, Instant::now()).await.into_review(api_version);
        drop(request);
        Ok(intake::answer(&answer, held, caller))
    }

    async fn admit(&self, request: &Request, started: Instant) -> Response {
        if !request.creates_a_pod() {
            return Response::admit(&request.uid, "NotAPod", Vec::new());
        }
        if !caches::is_namespace(&request.namespace) {
            return Response::deny(&request.uid, 403, "NoNamespace", "the review is of a pod without a namespace");
        }
        match self.decide(request).await {
            Ok(decision) => self.answer(request, decision, started),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, namespace = request.namespace, "Could not decide");
                self.metrics.decided("error", "ClusterUnreachable", started.elapsed());
                let message = format!("could not decide about a sidecar: {error}; try again");
                Response::deny(&request.uid, 500, "ClusterUnreachable", &message)
            }
        }
    }

    /// Decides from the caches; before a pod is left without its sidecar for want of a resource, the cluster is asked.
    async fn decide(&self, request: &Request) -> Result<Decision, caches::Error> {
        let Request { object: pod, namespace, .. } = request;
        let namespace = self.caches.namespace(&self.client, namespace).await?;
        let foreign = foreign(pod, &namespace.name);
        let decision = decide(pod, &namespace, &self.caches.resources(&namespace.name, foreign), &self.settings);
        if !decision.reason().may_be_stale() {
            return Ok(decision);
        }
        // Where nothing is seen, nothing is known of who may use what. The operator that serves that namespace is asked as well.
        let unseen = |other: &str| caches::is_namespace(other) && !self.caches.sees(other);
        if decision.reason() == Reason::NotGranted && foreign.is_some_and(unseen) {
            return Ok(Decision::Skip(Skip { reason: Reason::OtherClass, warning: None }));
        }
        self.metrics.fresh_reads.inc();
        let fresh = self.caches.fresh_resources(&self.client, &namespace.name, foreign).await?;
        Ok(decide(pod, &namespace, &fresh, &self.settings))
    }

    fn answer(&self, request: &Request, decision: Decision, started: Instant) -> Response {
        let reason = decision.reason();
        let (word, outcome, response) = match decision {
            Decision::Inject(injection) => {
                let patch = patch(&request.object, &injection);
                let resource = injection.resource_name();
                let Injection { agent, warnings, .. } = *injection;
                let response = Response::inject(&request.uid, &resource, &patch, warnings);
                // A second call for the same pod, after another webhook changed it, is not news.
                let news = !request.object.pointer("/metadata/annotations").is_some_and(|annotations| {
                    annotations.get(context_manager_protocol::names::INJECTED_HASH).is_some()
                });
                ("inject", news.then_some(Outcome::Injected { resource, agent }), response)
            }
            Decision::Skip(Skip { reason, warning }) => {
                let outcome = warning.clone().map(|message| Outcome::Skipped { message });
                ("skip", outcome, Response::admit(&request.uid, reason.as_str(), warning.into_iter().collect()))
            }
            Decision::Deny(Denial { reason, message }) => {
                let response = Response::deny(&request.uid, 403, reason.as_str(), &message);
                ("deny", Some(Outcome::Denied { message }), response)
            }
        };
        self.metrics.decided(word, reason.as_str(), started.elapsed());
        debug!(decision = word, %reason, namespace = request.namespace, dry_run = request.dry_run, "Decided about a pod");
        if let (Some(outcome), false) = (outcome, request.dry_run) {
            self.events.tell(&request.namespace, &request.object, outcome);
        }
        response
    }
}
