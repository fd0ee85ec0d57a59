//! The order of the layers around the routes; the only place that orders them. It reads in the order of a request.
//!
//! The layers wrap the routes and what answers for missing ones alike: on this listener nothing is served to strangers. A frame
//! of a stream is a request to the same routes through the same layers; only how the caller is known differs.

use axum::{Router, middleware::from_fn, middleware::from_fn_with_state, routing::any};
use tower::ServiceBuilder;

use crate::{
    engine::Engine,
    layers::{
        Shared,
        admission::{Admission, admit},
        audit::audit,
        authenticate::{authenticate, authenticate_carried},
        body_limit, catch_panic, deadline, measure, problem, request_id, trace,
    },
    routes::{self, path},
    stream::{self, Streams},
};

#[cfg(test)]
mod tests;

/// The protocol: its routes behind all layers.
pub fn build(engine: &Engine, shared: &Shared, streams: &Streams) -> Router {
    let admission = Admission::new(shared.clone());
    let audited = |routes: Router| routes.layer(from_fn_with_state(engine.clone(), audit));
    let operations = routes::router(engine.clone());
    let opening = stream::Opening {
        operations: carried(audited(operations.clone()), shared, &admission),
        unreadable: carried(Router::new().fallback(stream::refuse_unreadable), shared, &admission),
        shared: shared.clone(),
        streams: streams.clone(),
    };
    let routes = operations.route(path::STREAM, any(stream::open).with_state(opening));
    signed(audited(routes), shared, &admission)
}

/// All layers around `routes`, for requests of the network.
fn signed(routes: Router, shared: &Shared, admission: &Admission) -> Router {
    around(routes.layer(from_fn_with_state(shared.clone(), authenticate)), shared, admission)
}

/// All layers around `routes`, for requests in the frames of an authenticated connection.
fn carried(routes: Router, shared: &Shared, admission: &Admission) -> Router {
    around(routes.layer(from_fn_with_state(shared.clone(), authenticate_carried)), shared, admission)
}

/// All layers around `authenticated`, whose outermost layer is the innermost of all: behind it callers are known.
fn around(authenticated: Router, shared: &Shared, admission: &Admission) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn(request_id::assign)) // first: every later line, metric and answer names the request
        .layer(from_fn_with_state(shared.clone(), measure::measure)) // before all that can refuse, to count refusals
        .layer(from_fn(trace::trace))
        .layer(from_fn_with_state(shared.clone(), problem::write)) // the one place that writes refusals
        .layer(from_fn(catch_panic::catch)) // inside `problem`, so that a panic is a problem document too
        .layer(from_fn_with_state(admission.clone(), admit)) // sheds before anything costs
        .layer(from_fn_with_state(shared.clone(), deadline::limit)) // holds for reading the body as well
        .layer(from_fn_with_state(shared.clone(), body_limit::limit)); // by Content-Length before a byte is read
    authenticated.layer(layers)
}
