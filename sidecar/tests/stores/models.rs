//! What every store must do when the embedding model changes.

use std::sync::Arc;

use context_manager_memory::{
    ContextId, QueryVectors, Timestamp, history, lexical,
    store::{Dense, NewDense, OnModelChange, Point, Search, Selection, Updated, Validity},
};
use context_manager_sidecar::ports::vector_store::{Error, VectorStore};

use super::fixture::{DIMENSIONS, Kind, LATER, MODEL, NOW, Place, id, model, owner, point};

/// Of the same length, so that nothing but its name tells it from the other one.
const OTHER: &str = "another-model";

on_both! {
    vectors_of_two_models_are_never_compared,
    contexts_get_new_vectors_and_all_else_about_them_stays,
    only_the_version_that_was_embedded_gets_vectors,
    earlier_versions_get_vectors_as_well,
    going_back_finds_the_former_vectors,
    former_vectors_go_when_they_are_dropped,
    the_model_changes_while_the_store_is_open,
    models_of_other_dimensions_take_turns,
}

async fn vectors_of_two_models_are_never_compared(place: Place) {
    let store = with_contexts(&place, 3).await;
    store.close().await.expect("closed");
    let store = changed(&place).await;
    assert_eq!(by_vector(&store).await, [], "no vector is this model's");
    assert_eq!(by_words(&store).await, [id(0), id(1), id(2)], "the words are the same");
    assert_eq!(missing(&store).await, [id(0), id(1), id(2)]);
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
    assert_eq!((read.vectors.dense_self, read.vectors.dense_ctx), (None, None));
    assert!(!read.vectors.sparse_self.is_empty());
    store.upsert(vec![point("t", 7, "tea")]).await.expect("stored");
    assert_eq!(by_vector(&store).await, [id(7)], "what is new has its vectors at once");
    assert_eq!(missing(&store).await.len(), 3);
}

async fn contexts_get_new_vectors_and_all_else_about_them_stays(place: Place) {
    let store = with_contexts(&place, 3).await;
    let before = store.get(&owner("t"), vec![id(0), id(1), id(2)], NOW).await.expect("read");
    store.upsert(vec![point("other", 9, "tea")]).await.expect("stored");
    store.close().await.expect("closed");
    let store = changed(&place).await;
    let wanted = vec![new(0, 1), new(1, 1), new(9, 1), new(77, 1)];
    store.set_vectors(&owner("t"), wanted.clone()).await.expect("what is not there or another's is left out");
    store.set_vectors(&owner("t"), wanted).await.expect("repeating it changes nothing");
    store.set_vectors(&owner("t"), Vec::new()).await.expect("nothing to do");
    assert_eq!(by_vector(&store).await, [id(0), id(1)]);
    assert_eq!(missing(&store).await, [id(2)]);
    let after = store.get(&owner("t"), vec![id(0), id(1), id(2)], NOW).await.expect("read");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.context, before.context, "the version too: for the caller nothing has changed");
        assert_eq!(after.vectors.sparse_self, before.vectors.sparse_self);
        assert_eq!(after.vectors.sparse_ctx, before.vectors.sparse_ctx);
    }
    assert_eq!(missing_of(&store, "other").await, [id(9)], "another owner's is not ours to change");
    for wrong in [vec![1.0; DIMENSIONS + 1], vec![f32::NAN; DIMENSIONS]] {
        let refused = store.set_vectors(&owner("t"), vec![new(2, 1), NewDense { own: wrong, ..new(0, 1) }]).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
}

async fn only_the_version_that_was_embedded_gets_vectors(place: Place) {
    let store = with_contexts(&place, 2).await;
    store.close().await.expect("closed");
    let store = changed(&place).await;
    let mut changed = point("t", 0, "coffee");
    changed.context.version = 2;
    changed.vectors.dense_self = None;
    changed.vectors.dense_ctx = None;
    let updated = store.update(changed.context, Some(changed.vectors), 1).await.expect("updated");
    assert_eq!(updated, Updated::Applied);
    store.set_vectors(&owner("t"), vec![new(0, 1), new(1, 1)]).await.expect("set");
    assert_eq!(missing(&store).await, [id(0)], "its text is another one by now");
    store.set_vectors(&owner("t"), vec![new(0, 2)]).await.expect("set");
    assert_eq!(missing(&store).await, []);
}

async fn earlier_versions_get_vectors_as_well(place: Place) {
    let store = with_contexts(&place, 1).await;
    let Point { context, vectors } = point("t", 0, "tea");
    let context = history::earlier(&context, LATER, Timestamp::from_millis(i64::MAX / 2));
    let version = context.id;
    store.upsert(vec![Point { context, vectors }]).await.expect("stored");
    store.close().await.expect("closed");
    let store = changed(&place).await;
    let all = Selection { dense: Dense::Missing, validity: Validity::Any, ..Selection::alive(owner("t"), NOW) };
    assert_eq!(store.count(all.clone()).await.expect("counted"), 2);
    store.set_vectors(&owner("t"), vec![new(0, 1), NewDense { id: version, ..new(0, 1) }]).await.expect("set");
    assert_eq!(store.count(all).await.expect("counted"), 0);
}

async fn going_back_finds_the_former_vectors(place: Place) {
    let store = with_contexts(&place, 3).await;
    store.close().await.expect("closed");
    let store = changed(&place).await;
    store.set_vectors(&owner("t"), vec![new(1, 1)]).await.expect("set");
    store.upsert(vec![point("t", 7, "tea")]).await.expect("stored");
    store.close().await.expect("closed");
    let store = place.open().await;
    assert_eq!(by_vector(&store).await, [id(0), id(1), id(2)], "also with a policy that refuses new models");
    assert_eq!(missing(&store).await, [id(7)]);
    store.close().await.expect("closed");
    let store = place.open_for(model(OTHER, DIMENSIONS), OnModelChange::Refuse).await.expect("it has its place");
    assert_eq!(by_vector(&store).await, [id(1), id(7)]);
    assert_eq!(store.stats().await.expect("stats").points, 4);
}

async fn former_vectors_go_when_they_are_dropped(place: Place) {
    let store = with_contexts(&place, 5).await;
    assert_eq!(store.drop_former_vectors(&owner("t"), 10).await.expect("nothing to do"), 0);
    store.close().await.expect("closed");
    let store = changed(&place).await;
    store.set_vectors(&owner("t"), (0..5).map(|number| new(number, 1)).collect()).await.expect("set");
    while store.drop_former_vectors(&owner("t"), 2).await.expect("dropped") == 2 {}
    assert_eq!(by_vector(&store).await.len(), 5, "those of the current model stay");
    assert_eq!(by_words(&store).await.len(), 5);
    store.close().await.expect("closed");
    let store = place.open_for(model(MODEL, DIMENSIONS), OnModelChange::ReEmbed).await.expect("a store");
    assert_eq!(by_vector(&store).await, []);
    assert_eq!((missing(&store).await.len(), store.stats().await.expect("stats").points), (5, 5));
}

async fn the_model_changes_while_the_store_is_open(place: Place) {
    let store = with_contexts(&place, 3).await;
    store.switch_model(model(OTHER, DIMENSIONS * 2)).await.expect("switched");
    assert_eq!(missing(&store).await.len(), 3);
    let refused = store.upsert(vec![point("t", 8, "tea")]).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "the former model's vectors are too short: {refused:?}");
    let long = |number| NewDense { own: vec![1.0; 8], with_previous: vec![1.0; 8], ..new(number, 1) };
    store.set_vectors(&owner("t"), vec![long(0)]).await.expect("set");
    store.switch_model(model(MODEL, DIMENSIONS)).await.expect("switched back");
    assert_eq!(by_vector(&store).await, [id(0), id(1), id(2)]);
    store.upsert(vec![point("t", 8, "tea")]).await.expect("stored");
    store.switch_model(model(OTHER, DIMENSIONS * 2)).await.expect("and forth");
    assert_eq!(missing(&store).await, [id(1), id(2), id(8)]);
}

async fn models_of_other_dimensions_take_turns(place: Place) {
    let store = with_contexts(&place, 2).await;
    store.close().await.expect("closed");
    for (round, dimensions) in [8, 2, 16, 8].into_iter().enumerate() {
        let store = place.open_for(model(MODEL, dimensions), OnModelChange::ReEmbed).await.expect("a store");
        let expected = if round == 3 { 0 } else { 2 };
        assert_eq!(missing(&store).await.len(), expected, "round {round}");
        let vector = vec![1.0; dimensions];
        let new = |number| NewDense { own: vector.clone(), with_previous: vector.clone(), ..new(number, 1) };
        store.set_vectors(&owner("t"), vec![new(0), new(1)]).await.expect("set");
        store.close().await.expect("closed");
    }
    assert_eq!(by_vector(&place.open().await).await, [id(0), id(1)]);
}

/// A rolling change: for a while sidecars of both configurations use one collection.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_of_two_models_share_a_collection() {
    let place = Place::new(Kind::Qdrant).await;
    let old = with_contexts(&place, 4).await;
    let new_one = changed(&place).await;
    new_one.set_vectors(&owner("t"), vec![new(0, 1), new(1, 1)]).await.expect("set");
    assert_eq!(by_vector(&old).await.len(), 4, "the former model's vectors are all there");
    old.upsert(vec![point("t", 5, "tea")]).await.expect("stored");
    new_one.upsert(vec![point("t", 6, "tea")]).await.expect("stored");
    assert_eq!(by_vector(&old).await, [id(0), id(1), id(2), id(3), id(5)]);
    assert_eq!(by_vector(&new_one).await, [id(0), id(1), id(6)]);
    assert_eq!(by_words(&old).await, by_words(&new_one).await, "everything is found by its words");
    let third = place.open_for(model(OTHER, DIMENSIONS), OnModelChange::ReEmbed).await.expect("a second new one");
    assert_eq!(missing(&third).await, [id(2), id(3), id(5)]);
    assert_eq!(third.drop_former_vectors(&owner("other"), 10).await.expect("dropped"), 0, "each drops its own");
    assert_eq!(by_vector(&old).await.len(), 5);
}

async fn with_contexts(place: &Place, count: u16) -> Arc<dyn VectorStore> {
    let store = place.open().await;
    store.upsert((0..count).map(|number| point("t", number, "tea")).collect()).await.expect("stored");
    store
}

async fn changed(place: &Place) -> Arc<dyn VectorStore> {
    place.open_for(model(OTHER, DIMENSIONS), OnModelChange::ReEmbed).await.expect("a store")
}

fn new(number: u32, version: i64) -> NewDense {
    NewDense { id: id(number), version, own: vec![0.5; DIMENSIONS], with_previous: vec![0.5; DIMENSIONS] }
}

async fn by_vector(store: &Arc<dyn VectorStore>) -> Vec<ContextId> {
    found(store, QueryVectors { dense: Some(vec![1.0, 1.0, 0.0, 0.0]), sparse: None }).await
}

async fn by_words(store: &Arc<dyn VectorStore>) -> Vec<ContextId> {
    found(store, QueryVectors { dense: None, sparse: Some(lexical::query("tea")) }).await
}

async fn found(store: &Arc<dyn VectorStore>, query: QueryVectors) -> Vec<ContextId> {
    let search =
        Search { query, selection: Selection::alive(owner("t"), NOW), per_leg: Search::PER_LEG, frequencies: None };
    let found = store.candidates(vec![search]).await.expect("found");
    let mut ids: Vec<_> = found.into_iter().map(|candidate| candidate.context.id).collect();
    ids.sort();
    ids
}

async fn missing(store: &Arc<dyn VectorStore>) -> Vec<ContextId> {
    missing_of(store, "t").await
}

async fn missing_of(store: &Arc<dyn VectorStore>, tenant: &str) -> Vec<ContextId> {
    let selection = Selection { dense: Dense::Missing, ..Selection::alive(owner(tenant), NOW) };
    let listed = store.list(selection, None, 100).await.expect("listed").contexts;
    listed.into_iter().map(|context| context.id).collect()
}
