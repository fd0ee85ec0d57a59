//! The subjects at a size: a sidecar on the embedded store, the engine on a copy of its files, a sidecar beside a Qdrant server, and the
//! server by itself, all with the same contexts of one agent.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{qdrant::Qdrant, sidecar::Sidecar};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{corpus::Corpus, engine::Engine, server::Server};

/// What every sidecar of the bench is configured with.
pub const CONFIG: &str = "[levels.short_term]\n[log]\nlevel = \"warn\"\n";
const COLLECTION: &str = "bench";
const BATCH: usize = 200;
const END: Duration = Duration::from_mins(1);

/// Everything that grows from size to size.
pub struct Stage {
    folder: PathBuf,
    contexts: usize,
    /// It is killed when dropped.
    _server: Qdrant,
    bare_server: Server,
    beside: Sidecar,
    on_server: BTreeSet<qdrant_edge::PointId>,
}

/// The subjects at one size.
pub struct Subjects<'a> {
    pub embedded: Sidecar,
    pub engine: Engine,
    pub beside: &'a Sidecar,
    pub server: &'a Server,
}

impl Stage {
    /// Starts the server and the sidecar beside it, which makes the collection.
    pub async fn start(folder: &Path) -> Result<Self> {
        let server = Qdrant::start(&folder.join("server")).await?;
        let url = format!("http://{}", server.address());
        let beside_folder = folder.join("beside");
        std::fs::create_dir_all(&beside_folder)?;
        let store =
            format!("[store.qdrant]\nurl = \"{url}\"\ncollection = \"{COLLECTION}\"\ntimeout = \"1m\"\n{CONFIG}");
        let beside = Sidecar::start(&beside_folder, &store).await?;
        let bare_server = Server::new(&url, COLLECTION)?;
        let contexts = 0;
        Ok(Self {
            folder: folder.to_owned(),
            contexts,
            _server: server,
            bare_server,
            beside,
            on_server: BTreeSet::new(),
        })
    }

    /// Where the embedded sidecar's configuration and data lie.
    pub fn home(&self) -> PathBuf {
        self.folder.join("embedded")
    }

    /// Stores contexts in the embedded sidecar until there are so many, and ends it.
    pub async fn grow(&mut self, corpus: &mut Corpus, contexts: usize) -> Result<()> {
        std::fs::create_dir_all(self.home())?;
        let mut sidecar = Sidecar::start(&self.home(), CONFIG).await?;
        fill(&sidecar, corpus, contexts - self.contexts).await?;
        self.contexts = contexts;
        end(&mut sidecar).await
    }

    /// Brings all subjects to what the embedded sidecar has.
    pub async fn subjects(&mut self) -> Result<Subjects<'_>> {
        let copy = self.folder.join(format!("copy-{}", self.contexts));
        let engine = Engine::copy_of(&self.home().join("data"), &copy)?;
        self.bare_server.fill(&engine, &mut self.on_server).await?;
        let embedded = Sidecar::start(&self.home(), CONFIG).await?;
        Ok(Subjects { embedded, engine, beside: &self.beside, server: &self.bare_server })
    }
}

/// Ends a sidecar in order.
pub async fn end(sidecar: &mut Sidecar) -> Result<()> {
    sidecar.signal(Signal::SIGTERM)?;
    let code = sidecar.wait(END).await?;
    ensure!(code == Some(0), "the sidecar ended with {code:?}: {}", sidecar.log()?);
    Ok(())
}

/// Stores contexts in batches, unmeasured.
async fn fill(sidecar: &Sidecar, corpus: &mut Corpus, contexts: usize) -> Result<()> {
    let client = sidecar.client()?;
    let mut left = contexts;
    while left > 0 {
        let batch: Vec<Value> = (0..left.min(BATCH)).map(|_| corpus.context()).collect();
        left -= batch.len();
        let answer = client.post("/v1/contexts/batch", &json!({"contexts": batch})).await.context("storing a batch")?;
        ensure!(answer.status == 201, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(())
}
