//! What only the owner of a collection does, and what a token may.

use std::net::SocketAddr;

use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp, Vectors, lexical, store::Point};
use context_manager_qdrant::{Collection, Error, Failure, Found, Options, Orphans};
use context_manager_test_qdrant::Server;
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

async fn serve(change: impl FnOnce(Server) -> Server) -> (SocketAddr, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let server = change(Server::open(directory.path().to_owned()).expect("a server"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(server.serve(listener, std::future::pending()));
    (address, directory)
}

fn connect(address: SocketAddr, collection: &str, dimensions: usize) -> Collection {
    Collection::connect(Options::new(format!("http://{address}"), collection, dimensions, "model")).expect("usable")
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a name")
}

fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("a name")
}

/// A context that expires so many milliseconds after [`NOW`], or never.
fn point(of: &str, by: &str, expires: Option<i64>) -> Point {
    let id = ContextId::new(Uuid::new_v4());
    let mut context = Context::new(id, tenant(of), agent(by), Level::ShortTerm, "a text", NOW);
    context.expires_at = expires.map(|after| Timestamp::from_millis(NOW.as_millis() + after));
    let terms = lexical::Bm25::default().document("a text");
    Point {
        context,
        vectors: Vectors { dense_self: None, dense_ctx: None, sparse_self: terms.clone(), sparse_ctx: terms },
    }
}

#[tokio::test]
async fn looking_at_a_collection_neither_makes_nor_changes_it() {
    let (address, _directory) = serve(|server| server).await;
    let collection = connect(address, "memory", 4);
    assert_eq!(collection.inspect().await.expect("an answer"), Found::Nothing);
    assert_eq!(collection.inspect().await.expect("an answer"), Found::Nothing, "the look made it");
    assert!(!collection.drop_collection().await.expect("an answer"), "there was nothing to drop");
    collection.open().await.expect("made");
    assert_eq!(collection.inspect().await.expect("an answer"), Found::Fitting);
    assert!(collection.drop_collection().await.expect("dropped"));
    assert_eq!(collection.inspect().await.expect("an answer"), Found::Nothing);
}

#[tokio::test]
async fn orphans_are_counted_and_deleted_by_tenant_time_and_agent() {
    let (address, _directory) = serve(|server| server).await;
    let collection = connect(address, "memory", 4);
    collection.open().await.expect("made");
    let points = [
        point("team", "dead", Some(-10)),
        point("team", "dead", Some(-10)),
        point("team", "dead", Some(-10)),
        point("team", "dead", Some(0)),
        point("team", "dead", None),
        point("team", "living", Some(-10)),
        point("others", "dead", Some(-10)),
    ];
    collection.upsert(&points).await.expect("stored");
    let orphans = Orphans { tenant: tenant("team"), expired_before: NOW, living: vec![agent("living")] };
    assert_eq!(collection.count_orphans(&orphans).await.expect("counted"), 3);
    assert_eq!(collection.stats().await.expect("counted").points, 7, "counting deletes nothing");
    assert_eq!(collection.delete_orphans(&orphans, 2).await.expect("deleted"), 2);
    assert_eq!(collection.delete_orphans(&orphans, 2).await.expect("deleted"), 1);
    assert_eq!(collection.stats().await.expect("counted").points, 4);
    let nobody_lives = Orphans { living: Vec::new(), ..orphans };
    assert_eq!(collection.delete_orphans(&nobody_lives, 10).await.expect("deleted"), 1);
}

#[tokio::test]
async fn a_tenant_is_deleted_whole_and_others_are_left() {
    let (address, _directory) = serve(|server| server).await;
    let collection = connect(address, "memory", 4);
    collection.open().await.expect("made");
    let points = [point("team", "a", None), point("team", "b", Some(-10)), point("others", "a", None)];
    collection.upsert(&points).await.expect("stored");
    assert_eq!(collection.count_of_others(&tenant("team")).await.expect("counted"), 1);
    collection.delete_tenant(&tenant("team")).await.expect("deleted");
    assert_eq!(collection.stats().await.expect("counted").points, 1);
    assert_eq!(collection.count_of_others(&tenant("others")).await.expect("counted"), 0);
}

#[tokio::test]
async fn what_is_the_matter_is_told_from_what_failed() {
    let (address, _directory) = serve(|server| server.with_api_key("right".to_owned())).await;
    let collection = connect(address, "memory", 4);
    let failure = |failed: Result<Found, Error>| failed.expect_err("it fails").failure();
    assert_eq!(failure(collection.inspect().await), Failure::Unauthorized);
    collection.set_api_key(Some("right")).expect("a key");
    collection.open().await.expect("made");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = listener.local_addr().expect("an address");
    drop(listener);
    assert_eq!(failure(connect(nobody, "memory", 4).inspect().await), Failure::Unreachable);
    let tls = Collection::connect(Options::new(format!("https://{address}"), "memory", 4, "model")).expect("usable");
    assert_eq!(failure(tls.inspect().await), Failure::Unreachable, "a server without TLS");
}
