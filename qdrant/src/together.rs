//! Group commit: contexts that are stored at the same time are written by one call.
//!
//! Qdrant lets a conditional write wait until every write to the shard before it is applied, so such calls come one after another
//! whatever their number. While one is under way, those who come meanwhile wait, and the next call carries what all of them brought. Databases
//! do so with commits (*Implementation Techniques for Main Memory Database Systems*, SIGMOD 1984).
//!
//! The task whose turn it is makes the call for the others, in its own span. What it learns holds for all, but for a refusal: that is
//! about what one of them brought, so each is asked for by itself then. When the server fails, those who still wait are told so too
//! and need not wait for a second deadline.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prost::Message as _;
use qdrant_client::qdrant::PointStruct;
use tokio::sync::oneshot;

use crate::Error;

/// Most points of a call for several callers. One caller's are never torn apart.
const MOST_POINTS: usize = 64;
/// And most bytes, about: the server has as long for the call as for one that carries a single context.
const MOST_BYTES: usize = 512 << 10;

/// Where callers meet.
#[derive(Default)]
pub(crate) struct Together {
    /// Held by whoever makes the call.
    turn: tokio::sync::Mutex<()>,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    points: Vec<PointStruct>,
    outcome: oneshot::Sender<Result<(), Error>>,
}

impl Waiting {
    /// Says what became of it. A caller that has gone does not hear it.
    fn tell(self, outcome: Result<(), Error>) {
        let _ = self.outcome.send(outcome);
    }
}

impl Together {
    /// Writes points by `call`, with those of others if a call is under way. Points of a caller that goes away before its turn are not
    /// written; `call` must bear being repeated with the same points.
    ///
    /// # Errors
    /// What `call` says.
    pub(crate) async fn write<F>(
        &self,
        points: Vec<PointStruct>,
        call: impl Fn(Vec<PointStruct>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        if let Ok(_turn) = self.turn.try_lock() {
            let outcome = call(points).await;
            self.warn_others(&outcome);
            return outcome;
        }
        loop {
            let (outcome, mut told) = oneshot::channel();
            self.waiting().push(Waiting { points: points.clone(), outcome });
            // Told nothing, whoever wrote for this caller went away in the middle of it.
            if let Some(outcome) = self.told(&mut told, &call).await {
                return outcome;
            }
        }
    }

    /// Waits to be told, and writes for all whenever it is this caller's turn.
    async fn told<F>(
        &self,
        told: &mut oneshot::Receiver<Result<(), Error>>,
        call: impl Fn(Vec<PointStruct>) -> F,
    ) -> Option<Result<(), Error>>
    where
        F: Future<Output = Result<(), Error>>,
    {
        loop {
            tokio::select! {
                biased;
                outcome = &mut *told => return outcome.ok(),
                _turn = self.turn.lock() => self.write_all(self.take(), &call).await,
            }
        }
    }

    async fn write_all<F>(&self, group: Vec<Waiting>, call: impl Fn(Vec<PointStruct>) -> F)
    where
        F: Future<Output = Result<(), Error>>,
    {
        let points = |waiting: &Waiting| waiting.points.clone();
        let outcome = match group.as_slice() {
            [] => return,
            [one] => call(points(one)).await,
            several => call(several.iter().flat_map(points).collect()).await,
        };
        let mut group = group.into_iter();
        let mut last = outcome;
        if group.len() > 1 && last.as_ref().is_err_and(Error::is_refusal) {
            // One by one, as long as the server answers.
            last = Ok(());
            while last.as_ref().map_or_else(Error::is_refusal, |()| true) {
                let Some(waiting) = group.next() else { break };
                last = call(points(&waiting)).await;
                waiting.tell(last.clone());
            }
        }
        self.warn_others(&last);
        for waiting in group {
            waiting.tell(last.clone());
        }
    }

    /// What failed for one call because of the server would fail for the next.
    fn warn_others(&self, outcome: &Result<(), Error>) {
        let Err(error) = outcome else { return };
        if error.is_refusal() {
            return;
        }
        let others = std::mem::take(&mut *self.waiting());
        for waiting in others {
            waiting.tell(Err(error.clone()));
        }
    }

    /// Those who wait, as many as one call carries; whoever has gone is left out.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.retain(|waiting| !waiting.outcome.is_closed());
        let (mut points, mut bytes) = (0, 0);
        let group = waiting.iter().take_while(|waiting| {
            let is_first = points == 0;
            points += waiting.points.len();
            bytes += waiting.points.iter().map(PointStruct::encoded_len).sum::<usize>();
            is_first || (points <= MOST_POINTS && bytes <= MOST_BYTES)
        });
        let group = group.count();
        waiting.drain(..group).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
