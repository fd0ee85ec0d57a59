//! The way to a server: trust, keys, deadlines, round trips, and which collections are taken. What a store does is the contract of
//! the sidecar's `stores` suite.

#[path = "server/calls.rs"]
mod calls;
#[path = "server/collection.rs"]
mod collection;
#[path = "server/fixture.rs"]
mod fixture;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/together.rs"]
mod together;
