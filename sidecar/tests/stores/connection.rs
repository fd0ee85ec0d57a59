//! What the adapter of a Qdrant server does about keys that rotate and limits that are reached.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use context_manager_protocol::config::{CircuitBreaker, SidecarConfig, Store};
use context_manager_sidecar::{
    adapters::qdrant::Qdrant,
    breaker::Breaker,
    metrics::{Metrics, Neighbour},
    ports::vector_store::{Error, OnModelChange, VectorStore as _},
};
use context_manager_test_qdrant::{Control, Mode, Server};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::sleep};

use super::fixture::{DIMENSIONS, MODEL, model, point};

/// A server and an adapter that takes its key from the file `key`.
async fn setup(keys: &[&str]) -> (TempDir, Control, Arc<Qdrant>) {
    let folder = TempDir::new().expect("a folder");
    let server = Server::open(folder.path().join("server")).expect("a server");
    let control = server.control();
    control.accept_keys(keys.iter().map(|&key| key.to_owned()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(server.serve(listener, std::future::pending()));
    let key = folder.path().join("key");
    fs::write(&key, "old\n").expect("written");
    let key = key.display();
    let toml = format!("[store.qdrant]\nurl = \"{url}\"\ncollection = \"memory\"\napi_key_file = \"{key}\"\n");
    let config = SidecarConfig::from_toml(&toml).expect("a configuration");
    let Store::Qdrant(config) = config.store else { unreachable!("it names a Qdrant server") };
    let metrics = Arc::new(Metrics::new());
    let breaker = Breaker::new(Neighbour::Store, &CircuitBreaker::default(), Arc::clone(&metrics));
    let opening = Qdrant::open(&config, None, model(MODEL, DIMENSIONS), OnModelChange::Refuse, breaker, metrics);
    let store = Box::pin(opening).await.expect("a store");
    (folder, control, Arc::new(store))
}

fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).expect("written");
    fs::rename(new, file).expect("renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_rotates_costs_no_call() {
    let (folder, control, store) = setup(&["old"]).await;
    let key = folder.path().join("key");
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (store, stop, calls) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    store.upsert(vec![point("t", caller, "tea")]).await.expect("no call fails");
                    calls.fetch_add(1, Ordering::AcqRel);
                }
            })
        })
        .collect();
    let made = async |more: usize| {
        let target = calls.load(Ordering::Acquire) + more;
        while calls.load(Ordering::Acquire) < target {
            sleep(Duration::from_millis(5)).await;
        }
    };
    made(20).await;
    // As Qdrant's `alt_api_key` is used: first the server takes both, then the callers change, then the old one ends.
    control.accept_keys(["old".to_owned(), "new".to_owned()]);
    replace(&key, "new");
    made(20).await;
    control.accept_keys(["new".to_owned()]);
    made(20).await;
    for unusable in [Some(""), None] {
        match unusable {
            Some(content) => replace(&key, content),
            None => fs::remove_file(&key).expect("removed"),
        }
        made(20).await;
    }
    stop.store(true, Ordering::Release);
    for caller in callers {
        caller.await.expect("no call failed");
    }
    control.accept_keys(["newest".to_owned()]);
    let refused = store.stats().await;
    assert!(matches!(refused, Err(Error::Failed(_))), "a key that does not count any more is noticed: {refused:?}");
    replace(&key, "newest");
    store.stats().await.expect("the file is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_its_limits_is_left_alone_for_as_long_as_it_asks() {
    let (_folder, control, store) = setup(&["old"]).await;
    store.stats().await.expect("it answers");
    control.set(Mode::Exhausted(Duration::from_secs(1)));
    assert!(matches!(store.stats().await, Err(Error::Failed(_))));
    control.set(Mode::Serves);
    let _ = control.take_calls();
    for _ in 0..20 {
        assert!(matches!(store.stats().await, Err(Error::Failed(_))), "nobody asks before the time");
    }
    assert!(control.take_calls().is_empty());
    sleep(Duration::from_millis(1_050)).await;
    store.stats().await.expect("asked again after the time");
}
