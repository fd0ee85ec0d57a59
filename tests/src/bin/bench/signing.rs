//! What signing and verifying cost, by themselves and as a share of a request.

use std::time::Instant;

use anyhow::{Context as _, Result};
use context_manager_protocol::{
    codec::Format,
    keyring::{Key, KeyRing},
    signature::{self, Presented, Request},
};

use crate::{CLIENTS, CONTEXTS, corpus::Corpus, figure::Figures, load};

const ROUNDS: u32 = 5_000;
/// What signing may cost on both sides together.
const MOST_MILLISECONDS: f64 = 0.03;

pub fn measure(figures: &mut Figures, corpus: &mut Corpus) -> Result<()> {
    let key = Key::new("bench", vec![7; 32])?;
    let ring = KeyRing::new(key.clone());
    let body = Format::Json.encode(&corpus.context());
    let request = Request { method: "POST", path: "/v1/contexts", query: None, body: &body };
    let started = Instant::now();
    for round in 0..ROUNDS {
        let headers =
            signature::sign(&key, &request, 1_700_000_000, &format!("nonce-of-the-round-{round:08}")).to_header_map();
        let presented = Presented::from_headers(&headers)?;
        presented.verify(&ring, &request, &headers)?;
    }
    let both = started.elapsed().as_secs_f64() * 1_000.0 / f64::from(ROUNDS);
    figures.at_most("signing and verifying a request", both, "ms", MOST_MILLISECONDS);
    let base = load::name("store", CONTEXTS[0], CLIENTS[0]);
    let store = figures.value(&format!("{base}, p50")).context("storing was measured before")?;
    figures.add(format!("share of it in a {base}, p50"), both / store * 100.0, "%");
    Ok(())
}
