//! Connections that ask an injector without a pause.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    review::{Review, ask, client},
    server::Server,
};

/// Reviews of each connection before the first that counts.
const WARM: usize = 20;

/// Open connections.
pub struct Load {
    review: Arc<Review>,
    url: Arc<str>,
    clients: Vec<reqwest::Client>,
}

impl Load {
    /// Opens the connections and lets each ask a few times.
    pub async fn connect(server: &Server, review: &Arc<Review>, connections: usize) -> Result<Self> {
        let clients = (0..connections).map(|_| client()).collect::<Result<Vec<_>>>()?;
        let load = Self { review: Arc::clone(review), url: server.url.as_str().into(), clients };
        load.each(|_, calls| calls < WARM).await?;
        Ok(load)
    }

    /// Asks for this long: what each answer took, and how long it was in fact.
    pub async fn run(&self, turn: Duration) -> Result<(Vec<Duration>, Duration)> {
        let since = Instant::now();
        let latencies = self.each(move |now, _| now.duration_since(since) < turn).await?;
        Ok((latencies, since.elapsed()))
    }

    /// Lets each connection ask for as long as `more` says, which is told the time and the number of its answers.
    async fn each(&self, more: impl Fn(Instant, usize) -> bool + Copy + Send + 'static) -> Result<Vec<Duration>> {
        let tasks: Vec<_> = self
            .clients
            .iter()
            .map(|client| {
                let (client, review, url) = (client.clone(), Arc::clone(&self.review), Arc::clone(&self.url));
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut now = Instant::now();
                    while more(now, latencies.len()) {
                        let body = review.body();
                        now = Instant::now();
                        ask(&client, &url, body).await?;
                        latencies.push(now.elapsed());
                        now = Instant::now();
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.append(&mut task.await??);
        }
        Ok(all)
    }
}
