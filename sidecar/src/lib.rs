//! The sidecar: an authenticated memory protocol on localhost for the agent in the same pod.
//!
//! A request enters by a [`listener`], passes the layers that [`pipeline`] orders, and reaches a handler in [`routes`], which
//! decodes, asks the rules of [`access`], calls the [`engine`] and encodes; a [`stream`] makes requests of frames, which go the same
//! way. The engine decides by `context-manager-memory` and works through the [`ports`], which the [`adapters`] implement.
//! [`sidecar`] puts the parts together; [`reload`] and [`background`] keep them going, [`metrics`], the log and [`telemetry`] say how they do.

pub mod accepted;
pub mod access;
pub mod adapters;
pub mod admin;
pub mod args;
mod aside;
pub mod ask;
pub mod background;
pub mod breaker;
pub mod bytes_in_flight;
pub mod clock;
pub mod engine;
pub mod http_client;
pub mod identity;
pub mod layers;
pub mod listener;
pub mod live;
pub mod logging;
pub mod metrics;
pub mod nonces;
pub mod ongoing;
pub mod openapi;
pub mod pipeline;
pub mod ports;
pub mod readiness;
pub mod refusal;
pub mod reload;
pub mod routes;
pub mod set_aside;
pub mod settings;
pub mod shutdown;
pub mod sidecar;
pub mod space;
pub mod stream;
pub mod telemetry;

#[cfg(test)]
mod testing;
