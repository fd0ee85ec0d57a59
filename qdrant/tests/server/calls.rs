//! Keys, deadlines, limits, and how often the server is asked.

use std::{collections::BTreeMap, time::Duration};

use context_manager_memory::{
    Level, QueryVectors, SessionId, lexical,
    store::{Access, Search, Selection},
};
use context_manager_qdrant::{Collection, Error, Options, Trust};
use context_manager_test_qdrant::{Mode, Server};
use tokio::net::TcpListener;

use super::fixture::{DIMENSIONS, NOW, Running, connect, id, options, owner, point};

#[tokio::test]
async fn the_key_is_changed_while_calls_go_on() {
    // A JSON Web Token travels the same way.
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJhY2Nlc3MiOiJyIn0.c2lnbmF0dXJl";
    let server = Running::start(|server| server.with_api_key("right".to_owned())).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    for key in [None, Some("wrong")] {
        collection.set_api_key(key).expect("a key that a header can carry");
        let refused = collection.open().await.expect_err("not let in");
        let message = format!("{refused:?}");
        assert!(message.contains("API key"), "{message}");
        assert!(!message.contains("wrong"), "the key stays out of messages: {message}");
    }
    collection.set_api_key(Some("right")).expect("a key that a header can carry");
    collection.open().await.expect("let in");
    assert!(collection.set_api_key(Some("two\nlines")).is_err());
    assert_eq!(collection.stats().await.expect("the former key stays").points, 0);
    server.control.accept_keys(["right".to_owned(), token.to_owned()]);
    collection.set_api_key(Some(token)).expect("a key that a header can carry");
    server.control.accept_keys([token.to_owned()]);
    assert_eq!(collection.stats().await.expect("the token is sent").points, 0);
}

/// Makes every kind of call, each of which must fail the same way.
async fn make_every_call(collection: &Collection, fails: impl Fn(&Error) -> bool) {
    let (me, session, all) = (owner(), SessionId::new("s").expect("a name"), Selection::alive(owner(), NOW));
    let stored = point(1, Level::LongTerm, "tea");
    let search = Search { query: words("tea"), selection: all.clone(), per_leg: 10, frequencies: None };
    let access = Access { id: id(1), times: 1, at: NOW };
    macro_rules! fail {
        ($($call:expr),* $(,)?) => {
            $(match $call.await {
                Err(error) if fails(&error) => {}
                other => unreachable!("{}: {other:?}", stringify!($call)),
            })*
        };
    }
    fail!(
        collection.open(),
        collection.upsert(std::slice::from_ref(&stored)),
        collection.update(&stored.context, Some(&stored.vectors), 1),
        collection.update(&stored.context, None, 1),
        collection.find(&[id(1)]),
        collection.get_points(&me, &[id(1)], NOW),
        collection.search(&[search]),
        collection.list(&all, None, 10),
        collection.count(&all),
        collection.counts_by_level(&me, NOW),
        collection.newest(&me, &session),
        collection.last(&me, &session, NOW),
        collection.before(&me, &session, 5, NOW),
        collection.count_accesses(&me, &[access]),
        collection.delete(&me, &[id(1)]),
        collection.delete_selected(&all, 10),
        collection.delete_expired(Some(std::slice::from_ref(&me)), &[], NOW, 10),
        collection.stats(),
    );
}

#[tokio::test]
async fn every_call_ends_by_its_deadline() {
    let is_late = |error: &Error| matches!(error, Error::Deadline { .. });
    // One that takes calls and never answers, and one that takes connections and never says a word.
    let server = Running::start(|server| server).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    server.control.set(Mode::Hangs);
    for url in [server.plain(), silent] {
        let options = Options { timeout: Duration::from_millis(100), ..options(url) };
        Box::pin(make_every_call(&Collection::connect(options).expect("usable options"), is_late)).await;
    }
    server.control.set(Mode::Serves);
    connect(server.plain(), Trust::WebRoots).open().await.expect("nothing was done to the server");
}

#[tokio::test]
async fn a_server_at_its_limits_says_when_to_come_again() {
    let server = Running::start(|server| server).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    server.control.set(Mode::Exhausted(Duration::from_secs(7)));
    let is_told = |error: &Error| error.retry_after() == Some(Duration::from_secs(7));
    Box::pin(make_every_call(&collection, is_told)).await;
    server.control.set(Mode::Serves);
    collection.open().await.expect("it answers again");
}

#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let collection = connect(format!("http://{address}"), Trust::WebRoots);
    assert!(matches!(collection.open().await, Err(Error::Server { .. })));
    let directory = tempfile::TempDir::new().expect("a directory");
    let server = Server::open(directory.path().to_owned()).expect("a server");
    let listener = TcpListener::bind(address).await.expect("the same port");
    tokio::spawn(server.serve(listener, std::future::pending()));
    collection.open().await.expect("reached without a new channel");
}

#[tokio::test]
async fn candidates_of_all_levels_come_in_one_round_trip_and_their_exact_scores_in_at_most_one_more() {
    let server = Running::start(|server| server).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    collection.open().await.expect("made");
    let levels = [Level::Immediate, Level::ShortTerm, Level::LongTerm];
    let points: Vec<_> = (0..60).map(|number| point(number, levels[usize::from(number % 3)], "green tea")).collect();
    collection.upsert(&points).await.expect("stored");
    let search = |of: &[Level], per_leg| {
        let selection = Selection { levels: Some(of.to_vec()), ..Selection::alive(owner(), NOW) };
        Search { query: words("tea"), selection, per_leg, frequencies: None }
    };
    for per_leg in [5, 1_000] {
        let _ = server.control.take_calls();
        let searches = [search(&levels[..1], per_leg), search(&levels[1..], per_leg)];
        let found = collection.search(&searches).await.expect("found");
        assert!(levels.iter().all(|level| found.iter().any(|found| found.context.level == *level)), "{found:?}");
        let calls = server.control.take_calls();
        assert!(calls.keys().all(|call| *call == "query_batch"), "{calls:?}");
        assert!(calls["query_batch"] <= 2, "{per_leg} per leg: {calls:?}");
    }
    let nothing = search(&[Level::ShortTerm], 5);
    let nothing = Search { query: words("unheard"), ..nothing };
    assert_eq!(collection.search(&[nothing]).await.expect("searched"), []);
    assert_eq!(server.control.take_calls(), BTreeMap::from([("query_batch", 1)]), "nothing to score");
}

fn words(text: &str) -> QueryVectors {
    let dense = (text == "tea").then(|| vec![1.0; DIMENSIONS]);
    QueryVectors { dense, sparse: Some(lexical::query(text)) }
}
