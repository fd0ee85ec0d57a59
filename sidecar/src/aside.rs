//! Work on large texts, done aside: there are as few workers as processors, and a worker that computes answers nobody.

use std::{future::poll_fn, pin::pin};

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes of text from which work is done aside. Less takes about as long as handing the worker's other tasks over.
pub(crate) const FROM_BYTES: usize = 16 << 10;

/// Does work that takes as long as `bytes` of text are many. If they are, the other tasks of this worker are handed to another thread
/// first, so that requests and probes are answered meanwhile. A runtime of one thread has no other: there the work is just done.
pub(crate) fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_others = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes >= FROM_BYTES && has_others { tokio::task::block_in_place(work) } else { work() }
}

/// The same of what waits in between: each of its steps is done aside.
pub(crate) async fn steps_aside<F: Future>(bytes: usize, steps: F) -> F::Output {
    let mut steps = pin!(steps);
    poll_fn(|ctx| aside(bytes, || steps.as_mut().poll(ctx))).await
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Whether a request is answered while the only worker works on so much text. The work ends when the answer was given.
    async fn is_answered_during(bytes: usize) -> bool {
        let (start, begun) = tokio::sync::oneshot::channel();
        let (answer, answered) = mpsc::channel();
        let work = tokio::spawn(async move {
            // As a large request: it has waited once, and there is work inside the work.
            let steps = async move {
                tokio::task::yield_now().await;
                aside(bytes, move || {
                    start.send(()).expect("somebody waits for it");
                    // The limit is that of the failure: without an answer nothing would end the work.
                    answered.recv_timeout(Duration::from_secs(2)).is_ok()
                })
            };
            steps_aside(bytes, steps).await
        });
        let request = tokio::spawn(async move {
            begun.await.expect("the work begins");
            answer.send(()).ok();
        });
        request.await.expect("a request");
        work.await.expect("work")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_request_is_answered_while_the_only_worker_works_on_a_large_text() {
        assert!(is_answered_during(FROM_BYTES).await);
        assert!(!is_answered_during(FROM_BYTES - 1).await, "small work stays on its worker");
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_the_work_itself() {
        assert_eq!(aside(usize::MAX, || 7), 7);
    }
}
