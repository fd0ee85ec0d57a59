//! A request for as long as it is worked on, also when nobody waits for it any more.
//!
//! The engine finishes a write that was begun even if its caller hangs up, its time is up or its stream ends. What the request has taken
//! stays taken until then: its place among the requests in flight, the room of its body, and its line of the audit log. It goes with the
//! work from task to task as the span does: whoever moves work to a task of its own takes [`Ongoing::current`] along.

use std::sync::Arc;

use http::Extensions;
use tokio::task_local;

use crate::layers::{admission::Place, audit::Line, body_limit::Room};

task_local! {
    static CURRENT: Ongoing;
}

/// A request that is worked on; a clone is the same one. What it holds is given back, and its line written, when the last one is dropped.
#[derive(Clone)]
pub struct Ongoing(Arc<Held>);

struct Held {
    line: Line,
    _place: Option<Place>,
    _room: Option<Room>,
}

impl Ongoing {
    /// A request with its line and what the layers have taken for it, which its extensions do not hold any more then: a stream keeps those
    /// of the request that opened it, and neither its place nor its room.
    #[must_use]
    pub fn new(line: Line, extensions: &mut Extensions) -> Self {
        Self(Arc::new(Held { line, _place: extensions.remove(), _room: extensions.remove() }))
    }

    /// The request that the running task works on, if it is one.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Works on the request.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Its line of the audit log.
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.0.line
    }
}
