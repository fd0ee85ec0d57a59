//! What a replica changes passes here, at the API server and at the Qdrant servers, and only while it leads: one that was stopped or cut off
//! for longer than its lease must not go on where it was, since another one leads by then.
//!
//! What remains: a request that had left before the fence closed. It is given up, but may arrive.

use std::{sync::Arc, time::SystemTime};

use http::{Method, Request};
use kube::{Client, client::Body};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tower::{BoxError, service_fn};

/// Why a change was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead any more")]
pub(super) struct Closed;

/// Open until some time, which can be put off.
#[derive(Clone, Debug)]
pub(super) struct Fence(Arc<watch::Sender<End>>);

/// By both clocks: one stands still while the machine sleeps, the other one can be set.
#[derive(Clone, Copy, Debug)]
struct End {
    monotonic: Instant,
    wall: SystemTime,
}

impl End {
    fn at(monotonic: Instant) -> Self {
        let left = monotonic.saturating_duration_since(Instant::now());
        Self { monotonic, wall: SystemTime::now() + left }
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.monotonic || SystemTime::now() >= self.wall
    }
}

impl Fence {
    pub(super) fn until(end: Instant) -> Self {
        Self(Arc::new(watch::Sender::new(End::at(end))))
    }

    /// Puts the end off. What is closed stays closed.
    pub(super) fn extend(&self, end: Instant) {
        self.0.send_if_modified(|current| {
            let open = !current.is_over();
            if open {
                *current = End::at(end);
            }
            open
        });
    }

    pub(super) fn close(&self) {
        self.0.send_replace(End::at(Instant::now()));
    }

    /// Returns when the end has come.
    pub(super) async fn closed(&self) {
        let mut end = self.0.subscribe();
        loop {
            let current = *end.borrow_and_update();
            if current.is_over() {
                return;
            }
            tokio::select! {
                () = sleep_until(current.monotonic) => {}
                // The sender is held by `self`.
                _ = end.changed() => {}
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.0.borrow().is_over()
    }

    /// Has something changed while it is open. What is under way when it closes is given up.
    pub(super) async fn guard<T>(&self, change: impl Future<Output = T>) -> Result<T, Closed> {
        if self.is_closed() {
            return Err(Closed);
        }
        tokio::select! {
            biased;
            () = self.closed() => Err(Closed),
            made = change => Ok(made),
        }
    }

    /// The same client, which reads for ever but writes only until the end.
    pub(super) fn client(&self, client: &Client, namespace: &str) -> Client {
        let (client, fence) = (client.clone(), self.clone());
        let service = service_fn(move |request: Request<Body>| {
            let (client, fence) = (client.clone(), fence.clone());
            async move {
                if request.method() == Method::GET {
                    return client.send(request).await.map_err(BoxError::from);
                }
                fence.guard(client.send(request)).await.map_err(BoxError::from)?.map_err(BoxError::from)
            }
        });
        Client::new(service, namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_closed_stays_closed() {
        let later = Instant::now() + Duration::from_mins(1);
        let fence = Fence::until(later);
        assert!(!fence.is_closed());
        fence.extend(later + Duration::from_mins(1));
        assert!(!fence.is_closed());
        fence.close();
        fence.closed().await;
        fence.extend(later);
        assert!(fence.is_closed());
    }

    #[tokio::test]
    async fn a_change_is_made_while_it_is_open_and_given_up_when_it_closes() {
        let fence = Fence::until(Instant::now() + Duration::from_mins(1));
        assert_eq!(fence.guard(async { 1 }).await, Ok(1));
        let under_way = fence.guard(std::future::pending::<()>());
        let closing = async { fence.close() };
        assert_eq!(futures::future::join(under_way, closing).await.0, Err(Closed));
        let begun = std::cell::Cell::new(false);
        assert_eq!(fence.guard(async { begun.set(true) }).await, Err(Closed));
        assert!(!begun.get(), "it was begun");
    }
}
