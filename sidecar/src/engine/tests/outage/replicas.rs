//! Two sidecars of one agent on one store.

use super::*;

impl Outage {
    /// Another sidecar of the same agent, with a journal of its own.
    async fn replica(&self) -> Engine {
        let mut config = self.config.clone();
        config.journal.path = Some(self.directory.path().join("journal of the replica"));
        let metrics = Arc::new(Metrics::new());
        let identity = Identity::new(Some("team-a"), Some("agent"), None).expect("valid names");
        let embedder =
            embedder::build(&config.embedding, &config.circuit_breaker, None, &metrics).expect("the built-in embedder");
        let store: Arc<dyn VectorStore> = Arc::clone(&self.switch) as _;
        Engine::with_store(&config, &identity, None, metrics, store, embedder).await.expect("an engine")
    }

    async fn point(&self, id: Uuid) -> Point {
        self.engine.inner.point_of(self.engine.owner(), id.into()).await.expect("in the store")
    }
}

fn turn(text: &str) -> Value {
    json!({"text": text, "session": "chat-42"})
}

#[tokio::test]
async fn a_session_goes_on_where_a_replica_left_it_and_its_newest_context_is_not_deleted_as_its_oldest() {
    let mut outage = Outage::new().await;
    outage.config.levels.short_term.capacity = Some(3);
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let replica = outage.replica().await;
    outage.store(turn("zero")).await;
    for text in ["one", "two", "three"] {
        store(&replica, turn(text)).await.expect("stored");
    }
    let newest = outage.store(turn("four")).await.id;
    assert_eq!(outage.point(newest).await.context.sequence, 4);
    outage.engine.tick().await.expect("regular work");
    replica.tick().await.expect("regular work");
    let mut left: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    left.sort_unstable();
    assert_eq!(left, ["four", "three", "two"]);
}

#[tokio::test]
async fn what_a_replica_deleted_is_not_in_the_index_of_what_comes_next() {
    let outage = Outage::new().await;
    let replica = outage.replica().await;
    let deleted = outage.store(turn("The password is swordfish.")).await.id;
    replica.delete(&mine(&replica), deleted).await.expect("deleted");
    let next = outage.store(turn("Thank you!")).await.id;
    let Point { context, vectors } = outage.point(next).await;
    assert_eq!(context.sequence, 0, "the session is empty");
    assert_eq!(vectors.sparse_ctx, vectors.sparse_self);
    assert_eq!(vectors.dense_ctx, vectors.dense_self);
}

#[tokio::test]
async fn a_batch_of_many_sessions_goes_on_with_each_of_them() {
    let outage = Outage::new().await;
    let replica = outage.replica().await;
    let batch = |engine: &Engine, text: &str| {
        let turns: Vec<Value> =
            (0..40).map(|number| json!({"text": format!("{text} {number}"), "session": number.to_string()})).collect();
        engine.permit_all(&caller(), message(json!(turns))).expect("one's own")
    };
    outage.engine.store_batch(batch(&outage.engine, "first"), None).await.expect("stored");
    replica.store_batch(batch(&replica, "second"), None).await.expect("stored");
    let last = outage.engine.store_batch(batch(&outage.engine, "third"), None).await.expect("stored");
    for acknowledged in last.acknowledgments {
        assert_eq!(outage.point(acknowledged.id).await.context.sequence, 2);
    }
}

async fn found(engine: &Engine, request: Value) -> (Vec<String>, Vec<String>) {
    let answer = search(engine, request).await.expect("an answer");
    let mut texts: Vec<String> = answer.contexts.into_iter().map(|found| found.context.text).collect();
    texts.sort_unstable();
    (texts, answer.degraded)
}

fn immediate(text: &str) -> Value {
    json!({"text": text, "level": "immediate", "session": "chat-42"})
}

fn whole(texts: &[&str]) -> (Vec<String>, Vec<String>) {
    (texts.iter().map(|&text| text.to_owned()).collect(), Vec::new())
}

#[tokio::test]
async fn immediate_contexts_of_a_replica_are_found_and_those_that_it_deleted_are_not() {
    let outage = Outage::new().await;
    let replica = outage.replica().await;
    let of_all = json!({"query": "kettle"});
    let of_immediate = json!({"query": "kettle", "levels": ["immediate"]});
    store(&replica, immediate("the kettle whistles")).await.expect("stored");
    for request in [&of_all, &of_immediate] {
        assert_eq!(found(&outage.engine, request.clone()).await, whole(&["the kettle whistles"]), "{request}");
    }
    let boils = outage.store(immediate("the kettle boils")).await.id;
    for engine in [&outage.engine, &replica] {
        for request in [&of_all, &of_immediate] {
            let both = whole(&["the kettle boils", "the kettle whistles"]);
            assert_eq!(found(engine, request.clone()).await, both, "{request}");
        }
    }
    replica.delete(&mine(&replica), boils).await.expect("deleted");
    for request in [&of_all, &of_immediate] {
        assert_eq!(found(&outage.engine, request.clone()).await, whole(&["the kettle whistles"]), "{request}");
    }
}

#[tokio::test]
async fn what_a_replica_changed_or_deleted_is_so_in_the_answers_of_an_outage_too() {
    let outage = Outage::new().await;
    let replica = outage.replica().await;
    let deleted = outage.store(immediate("the kettle is cracked")).await.id;
    let changed = outage.store(immediate("the kettle is red")).await.id;
    let moved = outage.store(immediate("the kettle is old")).await.id;
    outage.store(immediate("the kettle is loud")).await;
    replica.delete(&mine(&replica), deleted).await.expect("deleted");
    replica.update(&mine(&replica), changed, message(json!({"text": "the kettle is blue"}))).await.expect("changed");
    let superseding = json!({"text": "the kettle is new", "supersedes": [moved]});
    store(&replica, superseding).await.expect("stored");
    outage.engine.tick().await.expect("regular work");
    outage.cut();
    let (texts, degraded) = found(&outage.engine, json!({"query": "kettle"})).await;
    assert_eq!((texts, degraded), (whole(&["the kettle is blue", "the kettle is loud"]).0, vec!["store".to_owned()]));
}

#[tokio::test]
async fn all_immediate_contexts_are_compared_with_the_store_some_at_each_turn() {
    let mut outage = Outage::new().await;
    outage.config.levels.immediate.capacity = Some(1_000);
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let replica = outage.replica().await;
    let turns: Vec<Value> = (0..250).map(|number| immediate(&format!("turn {number}"))).collect();
    let granted = outage.engine.permit_all(&caller(), message(json!(turns))).expect("one's own");
    let stored = outage.engine.store_batch(granted, None).await.expect("stored").acknowledgments;
    for deleted in [&stored[0], &stored[120], &stored[249]] {
        replica.delete(&mine(&replica), deleted.id).await.expect("deleted");
        for _ in 0..3 {
            outage.engine.tick().await.expect("regular work");
        }
        let held = &outage.engine.inner.immediate;
        assert!(held.get(deleted.id.into(), now()).is_none(), "{deleted:?}");
        assert!(held.get(stored[1].id.into(), now()).is_some());
    }
}

#[tokio::test]
async fn what_a_replica_stored_is_in_the_memory_of_who_is_sent_it_again() {
    let outage = Outage::new().await;
    let replica = outage.replica().await;
    let id = Uuid::now_v7();
    let whistles = json!({"id": id, "text": "the kettle whistles", "level": "immediate", "session": "chat-42"});
    store(&replica, whistles.clone()).await.expect("stored");
    assert_eq!(outage.store(whistles).await.status, AckStatus::Stored);
    outage.cut();
    assert_eq!(outage.listed().await, [("the kettle whistles".to_owned(), 1)]);
}

#[tokio::test]
async fn what_a_replica_deleted_leaves_the_ring_when_it_is_to_make_room() {
    let mut outage = Outage::new().await;
    outage.config.levels.immediate.capacity = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let replica = outage.replica().await;
    let deleted = outage.store(immediate("one")).await.id;
    replica.delete(&mine(&replica), deleted).await.expect("deleted");
    outage.store(immediate("two")).await;
    assert!(outage.engine.inner.immediate.get(deleted.into(), now()).is_none());
    assert_eq!(outage.listed().await, [("two".to_owned(), 1)]);
}
