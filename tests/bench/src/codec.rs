//! What signing and the codec cost on both sides together: sign, verify, encode and decode of the request and of its answer.

use std::{hint::black_box, time::Instant};

use anyhow::Result;
use context_manager_protocol::{
    codec::Format,
    keyring::{Key, KeyRing},
    message::{AckStatus, Acknowledgment, ContextStore},
    signature::{self, Presented, Request},
};
use serde_json::from_value;

use crate::{corpus::Corpus, figure::Figures};

const ROUNDS: u32 = 500;
/// The median of this many repetitions counts.
const REPETITIONS: usize = 21;
/// What both may cost, in milliseconds.
const MOST: f64 = 0.03;

pub fn measure(figures: &mut Figures, corpus: &mut Corpus) -> Result<()> {
    let key = Key::new("bench", vec![7; 32])?;
    let ring = KeyRing::new(key.clone());
    let message: ContextStore = from_value(corpus.context())?;
    let acknowledgment = Acknowledgment {
        id: uuid::Uuid::now_v7(),
        status: AckStatus::Stored,
        version: 1,
        tokens: 40,
        expires_at: None,
    };
    let body = Format::Json.encode(&message);
    let signing = median(|| {
        let request = Request { method: "POST", path: "/v1/contexts", query: None, body: &body };
        let headers = signature::sign(&key, &request, 1_700_000_000, "nonce-of-a-round").to_header_map();
        let presented = Presented::from_headers(&headers)?;
        Ok(presented.verify(&ring, &request, &headers)?)
    })?;
    let codec = median(|| {
        let sent = Format::Json.encode(black_box(&message));
        black_box(Format::Json.decode::<ContextStore>(&sent)?);
        let answer = Format::Json.encode(black_box(&acknowledgment));
        black_box(Format::Json.decode::<Acknowledgment>(&answer)?);
        Ok(())
    })?;
    figures.add("signing and verifying a request", signing, "ms");
    figures.add("encoding and decoding a message and its answer", codec, "ms");
    figures.at_most("signing and codec of a request", signing + codec, "ms", MOST);
    Ok(())
}

/// Milliseconds of one call.
fn median(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(REPETITIONS);
    for _ in 0..REPETITIONS {
        let since = Instant::now();
        for _ in 0..ROUNDS {
            call()?;
        }
        times.push(since.elapsed().as_secs_f64() * 1_000.0 / f64::from(ROUNDS));
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[REPETITIONS / 2])
}
