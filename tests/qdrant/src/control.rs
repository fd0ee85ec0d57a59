//! What a suite looks at and changes while the server runs: which calls came, whose keys count, and how it behaves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor};

use crate::access::Granted;

/// The handle; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Mutex<State>>);

/// How the server behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    #[default]
    Serves,
    /// It takes calls and never answers them.
    Hangs,
    /// Its limits are reached; it says when to come again.
    Exhausted(Duration),
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    calls: BTreeMap<&'static str, usize>,
    traces: Vec<String>,
    keys: Vec<String>,
    takes_tokens: bool,
}

impl Control {
    /// How it behaves from the next call on.
    pub fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    /// Serves only callers that send one of these as `api-key`; with none, everybody.
    pub fn accept_keys(&self, keys: impl IntoIterator<Item = String>) {
        self.state().keys = keys.into_iter().collect();
    }

    /// Takes tokens that are signed with one of the keys too.
    pub(crate) fn take_tokens(&self) {
        self.state().takes_tokens = true;
    }

    /// How often each call came since this was last asked, whatever became of it; calls without a valid key do not count.
    #[must_use]
    pub fn take_calls(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.state().calls)
    }

    /// The `traceparent` of each call that had one since this was last asked.
    #[must_use]
    pub fn take_traces(&self) -> Vec<String> {
        std::mem::take(&mut self.state().traces)
    }

    /// Counts a call, and lets it pass if the server behaves.
    pub(crate) async fn admit(&self, call: &'static str) -> Result<(), Status> {
        let mode = {
            let mut state = self.state();
            *state.calls.entry(call).or_default() += 1;
            state.mode
        };
        match mode {
            Mode::Serves => Ok(()),
            Mode::Hangs => std::future::pending().await,
            Mode::Exhausted(retry_after) => {
                let mut status = Status::resource_exhausted("Rate limit exceeded");
                status.metadata_mut().insert("retry-after", MetadataValue::from(retry_after.as_secs()));
                Err(status)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets calls pass that carry a key that counts.
#[derive(Clone, Debug)]
pub(crate) struct RequiredKey(pub(crate) Control);

impl Interceptor for RequiredKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let mut state = self.0.state();
        let trace = request.metadata().get("traceparent").and_then(|value| value.to_str().ok());
        state.traces.extend(trace.map(ToOwned::to_owned));
        if state.keys.is_empty() {
            return Ok(request);
        }
        let keys = || state.keys.iter().map(String::as_str);
        let granted = match request.metadata().get("api-key").map(|sent| sent.to_str().unwrap_or_default()) {
            None => return Err(Status::unauthenticated("Must provide an API key or an Authorization bearer token")),
            Some(sent) if keys().any(|key| key == sent) => Granted::Everything,
            Some(sent) => match state.takes_tokens.then(|| Granted::by_token(sent, keys())).flatten() {
                Some(granted) => granted?,
                None => return Err(Status::unauthenticated("Invalid API key or JWT")),
            },
        };
        drop(state);
        request.extensions_mut().insert(granted);
        Ok(request)
    }
}
