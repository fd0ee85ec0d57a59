//! The order of the layers around the routes; the only place that orders them. It reads in the order of a request.
//!
//! The layers wrap the routes and what answers for missing ones alike: on this listener nothing is served to strangers.

use axum::{Router, middleware::from_fn, middleware::from_fn_with_state};
use tower::ServiceBuilder;

use crate::{
    engine::Engine,
    layers::{
        Shared,
        admission::{Admission, admit},
        audit::audit,
        authenticate::authenticate,
        body_limit, catch_panic, deadline, measure, problem, request_id, trace,
    },
    routes,
};

#[cfg(test)]
mod tests;

/// The protocol: its routes behind all layers.
pub fn build(engine: Engine, shared: &Shared) -> Router {
    let audited = routes::router(engine.clone()).layer(from_fn_with_state(engine, audit));
    around(audited, shared)
}

/// All layers around `routes`.
fn around(routes: Router, shared: &Shared) -> Router {
    let layers = ServiceBuilder::new()
        .layer(from_fn(request_id::assign)) // first: every later line, metric and answer names the request
        .layer(from_fn_with_state(shared.clone(), measure::measure)) // before all that can refuse, to count refusals
        .layer(from_fn(trace::trace))
        .layer(from_fn_with_state(shared.clone(), problem::write)) // the one place that writes refusals
        .layer(from_fn(catch_panic::catch)) // inside `problem`, so that a panic is a problem document too
        .layer(from_fn_with_state(Admission::new(shared.clone()), admit)) // sheds before anything costs
        .layer(from_fn_with_state(shared.clone(), deadline::limit)) // holds for reading the body as well
        .layer(from_fn_with_state(shared.clone(), body_limit::limit)) // by Content-Length before a byte is read
        .layer(from_fn_with_state(shared.clone(), authenticate)); // last: behind it callers are known
    routes.layer(layers)
}
