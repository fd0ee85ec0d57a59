//! Makes the embedder that the configuration asks for, with its layers in order: cache, breaker, measurement, split, retry, API.

use std::sync::Arc;

use context_manager_protocol::config::{self, Provider};
use secrecy::SecretString;

use super::{
    builtin::Builtin,
    layers::{cache::Cache, guard::Guard, measure::Measure, retry::Retry, split::Split},
    openai::OpenAi,
};
use crate::{
    breaker::Breaker,
    metrics::{Metrics, Neighbour},
    ports::embedder::{Embedder, Error},
};

/// The embedder for `config`; `token` is the API key from the environment, used when the configuration names no file.
///
/// # Errors
/// When the URL or the CA file cannot be used.
pub fn build(
    config: &config::Embedding,
    breaker: &config::CircuitBreaker,
    token: Option<&SecretString>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Embedder>, Error> {
    match config.provider {
        Provider::Builtin => Ok(Arc::new(Measure::new(Arc::new(Builtin::new(config.dimensions)), Arc::clone(metrics)))),
        Provider::OpenAi => {
            let api = Arc::new(OpenAi::new(config, token)?);
            let breaker = Arc::new(Breaker::new(Neighbour::Embedding, breaker, Arc::clone(metrics)));
            let policy = (&config.retry).into();
            let retried = Arc::new(Retry::new(api, policy, Arc::clone(&breaker), Arc::clone(metrics)));
            let split = Arc::new(Split::new(retried, config.batch_size));
            let measured = Arc::new(Measure::new(split, Arc::clone(metrics)));
            let guarded = Arc::new(Guard::new(measured, breaker));
            if config.cache.capacity.bytes() == 0 {
                return Ok(guarded);
            }
            Ok(Arc::new(Cache::new(guarded, &config.cache, Arc::clone(metrics))))
        }
    }
}
