//! Tries again what is worth it: exponential backoff with jitter, `Retry-After` honoured, never beyond the deadline.
//!
//! The error decides whether another attempt is worth it ([`Error::retry`]). A wait that would end after the deadline
//! is not begun: the caller gets the error at once instead of at the deadline.
//!
//! What the API asks of one call holds for all: the breaker is told at once, and no attempt is made while it is open.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use context_manager_protocol::config;

use crate::{
    breaker::Breaker,
    metrics::Metrics,
    ports::{
        Retry as Worth,
        embedder::{Deadline, Embedder, Error, Vector},
    },
};

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    max_attempts: usize,
    initial_delay: Duration,
    max_delay: Duration,
    jitter: f64,
}

impl From<&config::Retry> for Policy {
    fn from(config::Retry { max_attempts, initial_delay, max_delay, jitter }: &config::Retry) -> Self {
        Self {
            max_attempts: *max_attempts,
            initial_delay: initial_delay.get(),
            max_delay: max_delay.get(),
            jitter: jitter.clamp(0.0, 1.0),
        }
    }
}

impl Policy {
    fn backoff(self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.initial_delay)
            .with_max_delay(self.max_delay)
            .with_factor(2.0)
            .with_max_times(self.max_attempts.saturating_sub(1))
    }

    /// Varies a delay by up to the jitter's share either way; `random` lies in 0..1. The cap holds after it as well.
    fn jittered(self, delay: Duration, random: f64) -> Duration {
        let factor = self.jitter.mul_add(2.0 * random - 1.0, 1.0);
        delay.mul_f64(factor).min(self.max_delay)
    }

    /// How long to wait before the next attempt; `None` when there is none. The other side's wish is a lower bound
    /// that the cap does not shorten: asking earlier than it said only costs both sides a call.
    fn wait(self, error: &Error, backoff: Option<Duration>, deadline: Deadline, random: f64) -> Option<Duration> {
        let delay = self.jittered(backoff?, random);
        let delay = match error.retry() {
            Worth::Never => return None,
            Worth::Backoff => delay,
            Worth::After(asked) => delay.max(asked),
        };
        (delay < deadline.remaining()).then_some(delay)
    }
}

/// The layer.
pub struct Retry {
    inner: Arc<dyn Embedder>,
    policy: Policy,
    breaker: Arc<Breaker>,
    metrics: Arc<Metrics>,
}

impl Retry {
    /// Repeats failed calls of `inner`, which `breaker` stands before, as the policy says.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, policy: Policy, breaker: Arc<Breaker>, metrics: Arc<Metrics>) -> Self {
        Self { inner, policy, breaker, metrics }
    }

    async fn repeat<T, F>(&self, deadline: Deadline, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let attempts = (|| self.attempt(deadline, call()))
            .retry(self.policy.backoff())
            .when(|error| error.retry().is_worthwhile())
            .adjust(|error, backoff| self.policy.wait(error, backoff, deadline, rand::random::<f64>()))
            .notify(|error, wait| {
                self.metrics.embedding.retries.inc();
                tracing::debug!(error = %error, wait_ms = wait.as_millis(), "Trying the embedding API again");
            });
        deadline.bound(attempts).await
    }

    /// Makes one call as soon as the API is not to be left alone any more.
    async fn attempt<T>(&self, deadline: Deadline, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        while let Err(open) = self.breaker.patience() {
            if open.retry_after >= deadline.remaining() {
                return Err(Error::LeftAlone(open));
            }
            tokio::time::sleep(open.retry_after).await;
        }
        let result = call.await;
        if let Err(error) = &result
            && let Worth::After(patience) = error.retry()
            && !patience.is_zero()
        {
            self.breaker.told_to_wait(patience);
        }
        result
    }
}

#[async_trait]
impl Embedder for Retry {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        self.repeat(deadline, || self.inner.embed_documents(texts, deadline)).await
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        self.repeat(deadline, || self.inner.embed_query(text, deadline)).await
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }
}
