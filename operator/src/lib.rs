//! The operator of Context Manager: the webhook that injects sidecars ([`webhook`]), the pure decision it makes ([`inject`]),
//! and the certificates it serves with ([`pki`]).

pub mod inject;
pub mod pki;
pub mod webhook;
