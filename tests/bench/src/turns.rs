//! Calls of several subjects in turns: A, B, C, A, B, C … so that what else the machine does falls on all alike.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{future::BoxFuture, stream, stream::StreamExt as _, stream::TryStreamExt as _};

use crate::figure::Latencies;

/// Makes the call with a number; every subject is asked the same thing under the same number.
pub type Call = Arc<dyn Fn(usize) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// How long each call takes, for each subject. A turn is one call with one client, and four calls of each client with several.
///
/// # Errors
/// When a call fails.
pub async fn measure(calls: &[Call], clients: usize, rounds: usize) -> Result<Vec<Latencies>> {
    let of_a_turn = if clients == 1 { 1 } else { clients * 4 };
    let mut latencies = vec![Vec::with_capacity(rounds * of_a_turn); calls.len()];
    // The first turn finds caches and connections cold, so it does not count.
    for round in 0..=rounds {
        for (call, latencies) in calls.iter().zip(&mut latencies) {
            let numbers = round * of_a_turn..(round + 1) * of_a_turn;
            let timed = stream::iter(numbers).map(|number| tokio::spawn(timed(call(number)))).buffer_unordered(clients);
            let turn: Vec<Result<Duration>> = timed.try_collect().await?;
            if round > 0 {
                latencies.extend(turn.into_iter().collect::<Result<Vec<_>>>()?);
            }
        }
    }
    Ok(latencies.into_iter().map(Latencies::new).collect())
}

/// How many different numbers a measurement uses.
pub const fn numbers(clients: usize, rounds: usize) -> usize {
    (rounds + 1) * if clients == 1 { 1 } else { clients * 4 }
}

async fn timed(call: BoxFuture<'static, Result<()>>) -> Result<Duration> {
    let since = Instant::now();
    call.await?;
    Ok(since.elapsed())
}
