//! Makes the embedder that the configuration asks for, with its layers in order: cache, measurement, split, retry, API.

use std::sync::Arc;

use context_manager_protocol::config::{self, Provider};
use secrecy::SecretString;

use super::{
    builtin::Builtin,
    layers::{cache::Cache, measure::Measure, retry::Retry, split::Split},
    openai::OpenAi,
};
use crate::{
    metrics::Metrics,
    ports::embedder::{Embedder, Error},
};

/// The embedder for `config`; `token` is the API key from the environment, used when the configuration names no file.
///
/// # Errors
/// When the URL or the CA file cannot be used.
pub fn build(
    config: &config::Embedding,
    token: Option<&SecretString>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Embedder>, Error> {
    match config.provider {
        Provider::Builtin => Ok(Arc::new(Measure::new(Arc::new(Builtin::new(config.dimensions)), Arc::clone(metrics)))),
        Provider::OpenAi => {
            let api = Arc::new(OpenAi::new(config, token)?);
            let retried = Arc::new(Retry::new(api, (&config.retry).into(), Arc::clone(metrics)));
            let split = Arc::new(Split::new(retried, config.batch_size));
            let measured = Arc::new(Measure::new(split, Arc::clone(metrics)));
            if config.cache.capacity.bytes() == 0 {
                return Ok(measured);
            }
            Ok(Arc::new(Cache::new(measured, &config.cache, Arc::clone(metrics))))
        }
    }
}
