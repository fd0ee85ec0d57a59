//! A part of the product that runs in this process, on a thread and runtime of its own: each test has a runtime that ends
//! with it, and parts that tests share must outlive it.

use std::{future::Future, thread::JoinHandle};

use anyhow::{Result, anyhow};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cluster;

/// A running part; dropping it ends it in order, and waits for that.
pub struct Background {
    name: &'static str,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Background {
    /// Runs `work` until it is told to stop.
    pub fn start<W, F>(name: &'static str, work: W) -> Self
    where
        W: FnOnce(Client, CancellationToken) -> F + Send + 'static,
        F: Future<Output = Result<()>>,
    {
        let stop = CancellationToken::new();
        let shutdown = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async { work(cluster::client().await?, shutdown).await })
        });
        Self { name, stop, thread: Some(thread) }
    }

    /// Tells it to stop, waits for its end, and says how it ended.
    ///
    /// # Errors
    /// When it failed.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// Whether it ended by itself.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn end(&mut self) -> Result<()> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("it panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{} failed: {error:#}", self.name);
        }
    }
}
