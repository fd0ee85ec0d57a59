//! How the collection is made, and which ones that are there already are taken.

use context_manager_memory::store::{Model, OnModelChange, schema};
use context_manager_qdrant::{Collection, Error, Options, Sizing, Trust};
use qdrant_client::qdrant::{
    CollectionConfig, CreateCollection, Distance, GetCollectionInfoRequest, Modifier, SparseVectorConfig,
    SparseVectorParams, Value, VectorParams, VectorParamsMap, VectorsConfig, collections_client::CollectionsClient,
    vectors_config::Config,
};
use tonic::transport::Channel;

use super::fixture::{DIMENSIONS, Running, connect, options};

async fn client(server: &Running) -> CollectionsClient<Channel> {
    CollectionsClient::connect(server.plain()).await.expect("a client")
}

async fn described(server: &Running) -> CollectionConfig {
    let request = GetCollectionInfoRequest { collection_name: "memory".to_owned() };
    let info = client(server).await.get(request).await.expect("described").into_inner();
    info.result.and_then(|info| info.config).expect("a configuration")
}

#[tokio::test]
async fn how_it_is_spread_reaches_the_server_when_it_is_made() {
    let server = Running::start(|server| server).await;
    let sizing = Sizing { shards: Some(3), replication_factor: Some(2), write_consistency: Some(2) };
    let options = Options { sizing, ..options(server.plain()) };
    let collection = Collection::connect(options.clone()).expect("usable options");
    collection.open().await.expect("made");
    let params = described(&server).await.params.expect("parameters");
    assert_eq!(
        (params.shard_number, params.replication_factor, params.write_consistency_factor),
        (3, Some(2), Some(2))
    );
    let other = Options { sizing: Sizing::default(), ..options };
    Collection::connect(other).expect("usable options").open().await.expect("sizing does not tell collections apart");
}

/// What the product makes, as a message that a test can change before it is sent.
fn ours() -> CreateCollection {
    let dense = VectorParams { size: DIMENSIONS as u64, distance: Distance::Cosine.into(), ..VectorParams::default() };
    let sparse = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..SparseVectorParams::default() };
    let named = |names: [&str; 2]| names.map(str::to_owned);
    let dense =
        VectorParamsMap { map: named([schema::DENSE_SELF, schema::DENSE_CTX]).map(|name| (name, dense)).into() };
    let sparse = named([schema::SPARSE_SELF, schema::SPARSE_CTX]).map(|name| (name, sparse)).into();
    let metadata = [("context_manager_schema", Value::from(1)), ("context_manager_model", Value::from("model"))];
    CreateCollection {
        collection_name: "memory".to_owned(),
        vectors_config: Some(VectorsConfig { config: Some(Config::ParamsMap(dense)) }),
        sparse_vectors_config: Some(SparseVectorConfig { map: sparse }),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        ..CreateCollection::default()
    }
}

fn dense(made: &mut CreateCollection) -> &mut VectorParamsMap {
    match made.vectors_config.as_mut().and_then(|vectors| vectors.config.as_mut()) {
        Some(Config::ParamsMap(map)) => map,
        other => unreachable!("{other:?}"),
    }
}

fn sparse(made: &mut CreateCollection) -> &mut SparseVectorConfig {
    made.sparse_vectors_config.as_mut().expect("sparse vectors")
}

#[tokio::test]
async fn a_collection_that_is_not_ours_is_refused_with_both_values_and_left_as_it_is() {
    type Change = fn(&mut CreateCollection);
    let cases: [(&str, Change, [&str; 2]); 8] = [
        (
            "another distance",
            |made| dense(made).map.values_mut().for_each(|vector| vector.distance = Distance::Dot.into()),
            ["Dot", "Cosine"],
        ),
        ("no schema version", |made| drop(made.metadata.remove("context_manager_schema")), ["none", "1"]),
        (
            "a later schema version",
            |made| drop(made.metadata.insert("context_manager_schema".into(), Value::from(99))),
            ["99", "1"],
        ),
        (
            "no dense vector for the context with the one before",
            |made| _ = dense(made).map.remove(schema::DENSE_CTX),
            ["no dense_ctx", "dense_self"],
        ),
        ("no sparse vector", |made| _ = sparse(made).map.remove(schema::SPARSE_CTX), ["no sparse_ctx", "IDF"]),
        (
            "a sparse vector without IDF",
            |made| sparse(made).map.values_mut().for_each(|vector| vector.modifier = None),
            ["no sparse_self", "IDF"],
        ),
        ("no model", |made| drop(made.metadata.remove("context_manager_model")), ["none", "model"]),
        (
            "two sizes",
            |made| dense(made).map.get_mut(schema::DENSE_CTX).into_iter().for_each(|vector| vector.size = 9),
            ["9", "4"],
        ),
    ];
    for (what, change, values) in cases {
        let server = Running::start(|server| server).await;
        let mut made = ours();
        change(&mut made);
        client(&server).await.create(made).await.expect("made");
        let before = described(&server).await;
        // A policy for models is none for anything else.
        for (name, on_model_change) in [("model", OnModelChange::Refuse), ("another", OnModelChange::ReEmbed)] {
            let wanted = Model { name: name.to_owned(), dimensions: DIMENSIONS };
            let collection = connect(server.plain(), Trust::WebRoots).for_model(wanted, on_model_change);
            let refused = collection.open().await.expect_err(what);
            assert!(matches!(refused, Error::Incompatible { .. }) && refused.is_configuration(), "{what}: {refused:?}");
            let message = refused.to_string();
            assert!(values.iter().all(|value| message.contains(value)) || name == "another", "{what}: {message}");
        }
        assert_eq!(described(&server).await, before, "{what}");
    }
    let server = Running::start(|server| server).await;
    client(&server).await.create(ours()).await.expect("made");
    connect(server.plain(), Trust::WebRoots).open().await.expect("what is the same is taken");
}

#[tokio::test]
async fn a_place_for_another_model_is_made_once_and_noted_in_the_metadata() {
    let server = Running::start(|server| server).await;
    let first = connect(server.plain(), Trust::WebRoots);
    first.open().await.expect("made");
    let other = Model { name: "another".to_owned(), dimensions: DIMENSIONS * 2 };
    let refused = first.for_model(other.clone(), OnModelChange::Refuse).open().await.expect_err("no place for it");
    assert!(refused.to_string().contains("embedding model model, but another is wanted"), "{refused}");
    for _ in 0..2 {
        first.for_model(other.clone(), OnModelChange::ReEmbed).open().await.expect("a place");
    }
    first.for_model(other.clone(), OnModelChange::Refuse).open().await.expect("it has its place now");
    first.open().await.expect("the first model has its own");
    let described = described(&server).await;
    let noted = described.metadata.values().filter(|value| value.to_string().contains("another with 8 dimensions"));
    assert_eq!(noted.count(), 1, "{:?}", described.metadata);
    let Some(Config::ParamsMap(vectors)) = described.params.and_then(|params| params.vectors_config?.config) else {
        unreachable!("named vectors")
    };
    let sizes: Vec<u64> = vectors.map.values().map(|vector| vector.size).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (4, 2 * 4 + 2 * 8));
}
