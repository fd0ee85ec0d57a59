//! The operator of Context Manager: the controller that provisions what a `ContextManager` asks for ([`controller`]), the
//! webhook that injects sidecars ([`webhook`]), the pure decision it makes ([`inject`]), and the certificates of both ([`pki`]).

mod chain;
pub mod controller;
pub mod inject;
pub mod pki;
pub mod pods;
pub mod scope;
pub mod selector;
mod slim;
pub mod upgrade;
pub mod watches;
pub mod webhook;
mod weight;

#[cfg(test)]
mod documented;
