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
