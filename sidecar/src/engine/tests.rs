//! The engine on the real store.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use context_manager_memory::Context as Stored;
use context_manager_protocol::{
    config::{self, Embedding as EmbeddingConfig, Provider},
    duration::HumanDuration,
    message::AckStatus,
    problem::Problem,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    access::Permission,
    identity::Verified,
    ports::vector_store::{Dense, Selection},
};

mod clock;
mod forgetting;
mod history;
mod models;
mod outage;
mod sharing;
mod transfer;

struct Fixture {
    engine: Engine,
    config: SidecarConfig,
    directory: TempDir,
}

async fn open(config: &SidecarConfig, agent: &str) -> Result<Engine, Error> {
    let identity = Identity::new(Some("team-a"), Some(agent), None).expect("valid names");
    Engine::open(config, &identity, &EnvironmentSecrets::default(), Arc::new(Metrics::new())).await
}

fn config(directory: &Path) -> SidecarConfig {
    SidecarConfig::embedded(directory.join("data"))
}

fn caller() -> Verified {
    Verified::for_test()
}

fn message<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a message")
}

/// The proof that one may do anything in one's own memory.
fn mine<O: Permission>(engine: &Engine) -> Granted<O> {
    engine.permit(&caller(), None, None).expect("one's own")
}

async fn store(engine: &Engine, value: Value) -> Result<Acknowledgment, Error> {
    let message: ContextStore = message(value);
    let granted = engine.permit(&caller(), message.scope.as_ref(), message.session.as_deref())?;
    engine.store(&granted, message, None).await
}

async fn search(engine: &Engine, value: Value) -> Result<ContextResponse, Error> {
    let message = message(value);
    engine.search(&engine.permit_search(&caller(), &message)?, message).await
}

async fn delete_matching(engine: &Engine, value: Value) -> Result<Cleared, Error> {
    let message: ContextDelete = message(value);
    let granted = engine.permit(&caller(), message.scope.as_ref(), message.session.as_deref())?;
    engine.delete_matching(&granted, message).await
}

async fn clear(engine: &Engine, session: &str) -> Result<Cleared, Error> {
    engine.clear_session(&engine.permit(&caller(), None, Some(session))?).await
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut SidecarConfig)) -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut config = config(directory.path());
        change(&mut config);
        Self { engine: open(&config, "agent").await.expect("an engine"), config, directory }
    }

    /// The same memory after a restart, perhaps as another agent.
    async fn reopened(self, agent: &str) -> Self {
        self.engine.shutdown().await.expect("a clean end");
        Self { engine: open(&self.config, agent).await.expect("an engine"), ..self }
    }

    /// All vectors that can be made, without waiting in between.
    async fn embed_missing(&self) {
        while self.engine.embed_missing().await.expect("vectors").is_some() {}
    }

    async fn store(&self, value: Value) -> Result<Acknowledgment, Error> {
        store(&self.engine, value).await
    }

    async fn stored(&self, value: Value) -> Uuid {
        self.store(value).await.expect("an acknowledgment").id
    }

    async fn search(&self, value: Value) -> ContextResponse {
        search(&self.engine, value).await.expect("an answer")
    }

    async fn texts(&self, value: Value) -> Vec<String> {
        self.search(value).await.contexts.into_iter().map(|found| found.context.text).collect()
    }

    async fn all(&self) -> Vec<Context> {
        self.engine
            .list(&mine(&self.engine), ListQuery { limit: Some(1_000), ..ListQuery::default() })
            .await
            .expect("a page")
            .contexts
    }

    async fn levels(&self) -> BTreeMap<String, Level> {
        self.all().await.into_iter().map(|context| (context.text, context.level)).collect()
    }

    async fn tick(&self) {
        self.engine.tick().await.expect("regular work");
    }
}

fn field(error: Error) -> (String, String) {
    match Problem::from(error) {
        Problem { field: Some(field), detail, .. } => (field, detail),
        problem => (String::new(), problem.detail),
    }
}

#[tokio::test]
async fn the_context_that_answers_comes_first_and_explains_its_score() {
    let fixture = Fixture::new().await;
    for text in ["The parcel is at the neighbour's.", "Ann plays the violin.", "It rains."] {
        fixture.stored(json!({"text": text})).await;
    }
    let answer = fixture.search(json!({"query": "Who plays violin?", "explain": true})).await;
    let best = &answer.contexts[0];
    assert_eq!(best.context.text, "Ann plays the violin.");
    let explanation = best.explanation.as_ref().expect("it was asked for");
    let factors = ["recency_factor", "frequency_factor", "level_factor"];
    let sum: f64 = explanation.iter().filter(|(name, _)| !factors.contains(&name.as_str())).map(|(_, part)| part).sum();
    let product: f64 = factors.iter().map(|name| explanation[*name]).product();
    assert!((sum * product - best.score).abs() < 1e-9, "{explanation:?} is not {}", best.score);
    assert_eq!(answer.degraded, Vec::<String>::new());
}

#[tokio::test]
async fn storing_the_same_twice_is_storing_it_once() {
    let fixture = Fixture::new().await;
    let context = json!({"id": "0191e7f0-0000-7000-8000-000000000001", "text": "tea", "session": "s"});
    let first = fixture.store(context.clone()).await.expect("an acknowledgment");
    assert_eq!(fixture.store(context).await.expect("the same"), first);
    assert_eq!(fixture.all().await.len(), 1);
    let other = fixture.store(json!({"id": first.id, "text": "coffee"})).await.expect_err("another text");
    assert!(matches!(other, Error::IdTaken(_)), "{other}");
    assert_eq!(fixture.all().await[0].text, "tea");
}

#[tokio::test]
async fn another_agent_sees_nothing_and_cannot_take_an_id() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "a secret of the first agent", "level": "immediate", "session": "s"})).await;
    let other = fixture.reopened("other").await;
    assert!(matches!(other.engine.get(&mine(&other.engine), id, None).await, Err(Error::NotFound(_))));
    assert!(matches!(other.engine.delete(&mine(&other.engine), id).await, Err(Error::NotFound(_))));
    let update = message(json!({"text": "taken over"}));
    assert!(matches!(other.engine.update(&mine(&other.engine), id, update).await, Err(Error::NotFound(_))));
    assert!(matches!(other.store(json!({"id": id, "text": "mine now"})).await, Err(Error::IdTaken(_))));
    assert_eq!(other.texts(json!({"query": "secret first agent"})).await, Vec::<String>::new());
    assert_eq!(other.texts(json!({"query": "secret", "levels": ["immediate"]})).await, Vec::<String>::new());
    assert_eq!(clear(&other.engine, "s").await.expect("nothing to clear").deleted, 0);
    let first = other.reopened("agent").await;
    assert_eq!(
        first.engine.get(&mine(&first.engine), id, None).await.expect("still there").text,
        "a secret of the first agent"
    );
}

#[tokio::test]
async fn a_batch_is_stored_as_a_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let store = async |contexts: Value| {
        let contexts = fixture.engine.permit_all(&caller(), message(contexts))?;
        fixture.engine.store_batch(contexts, None).await
    };
    let many: Vec<Value> = (0..257).map(|number| json!({"text": number.to_string()})).collect();
    let id = "0191e7f0-0000-7000-8000-000000000001";
    for (contexts, at, hint) in [
        (json!([]), "contexts", "0 entries"),
        (json!(many), "contexts", "257 entries"),
        (json!([{"text": "a"}, {"text": "b"}, {"text": " "}]), "contexts[2].text", "blank"),
        (json!([{"text": "a"}, {"text": "b", "session": ""}]), "contexts[1].session", "empty"),
        (json!([{"text": "a", "ttl": "0s"}]), "contexts[0].ttl", "1ms"),
        (json!([{"text": "a", "id": id}, {"text": "b", "id": id}]), "contexts[1].id", "twice"),
    ] {
        let (field, detail) = field(store(contexts).await.expect_err(at));
        assert_eq!(field, at, "{detail}");
        assert!(detail.contains(hint), "{detail}");
    }
    assert_eq!(fixture.all().await, []);
    let stored = store(json!([{"text": "a", "session": "s"}, {"text": "b", "session": "s"}])).await.expect("valid");
    assert!(stored.acknowledgments.iter().all(|one| one.status == AckStatus::Stored && one.version == 1));
    assert_eq!(fixture.all().await.len(), 2);
}

#[tokio::test]
async fn an_expired_context_is_never_returned_and_then_collected() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for level in ["immediate", "short_term", "long_term"] {
        ids.push(
            fixture
                .stored(json!({"text": format!("green tea on {level}"), "level": level, "ttl": "60ms", "session": "s"}))
                .await,
        );
    }
    fixture.stored(json!({"text": "green tea that stays", "level": "long_term"})).await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    for id in ids {
        assert!(matches!(fixture.engine.get(&mine(&fixture.engine), id, None).await, Err(Error::NotFound(_))));
        assert!(matches!(fixture.engine.delete(&mine(&fixture.engine), id).await, Err(Error::NotFound(_))));
    }
    assert_eq!(fixture.texts(json!({"query": "green tea"})).await, ["green tea that stays"]);
    assert_eq!(fixture.texts(json!({"query": "green tea", "levels": ["immediate"]})).await, Vec::<String>::new());
    assert_eq!(fixture.all().await.len(), 1);
    assert_eq!(fixture.engine.collect_garbage(2).await.expect("a batch"), 2);
    assert_eq!(fixture.engine.collect_garbage(2).await.expect("the rest"), 1);
    assert_eq!(fixture.engine.collect_garbage(2).await.expect("nothing"), 0);
}

#[tokio::test]
async fn the_oldest_immediate_contexts_of_a_full_session_become_short_term() {
    let fixture = Fixture::with(|config| config.levels.immediate.capacity = Some(3)).await;
    for number in 0..5 {
        fixture.stored(json!({"text": format!("turn {number}"), "level": "immediate", "session": "s"})).await;
        fixture.stored(json!({"text": format!("aside {number}"), "level": "immediate", "session": "other"})).await;
    }
    let levels = fixture.levels().await;
    let on = |level| levels.iter().filter(|(_, on)| **on == level).map(|(text, _)| text.as_str()).collect::<Vec<_>>();
    assert_eq!(on(Level::ShortTerm), ["aside 0", "aside 1", "turn 0", "turn 1"]);
    assert_eq!(on(Level::Immediate).len(), 6);

    let again = fixture.reopened("agent").await;
    let found = again.texts(json!({"query": "turn", "levels": ["immediate"], "session": "s"})).await;
    assert_eq!(found.len(), 3, "L1 is rebuilt after a restart: {found:?}");
    again.stored(json!({"text": "turn 5", "level": "immediate", "session": "s"})).await;
    assert_eq!(again.levels().await["turn 2"], Level::ShortTerm);
}

#[tokio::test]
async fn the_oldest_short_term_contexts_of_a_full_session_make_room_unless_they_earned_their_place() {
    let fixture = Fixture::with(|config| {
        config.levels.short_term.capacity = Some(2);
        config.levels.promotion.min_accesses = Some(1);
    })
    .await;
    fixture.stored(json!({"text": "the harbour", "session": "s"})).await;
    assert_eq!(fixture.texts(json!({"query": "harbour"})).await, ["the harbour"]);
    for text in ["the mill", "the forge", "the well"] {
        fixture.stored(json!({"text": text, "session": "s"})).await;
    }
    for number in 0..4 {
        fixture.stored(json!({"text": format!("without a session {number}")})).await;
    }
    fixture.tick().await;
    let levels = fixture.levels().await;
    assert_eq!(levels["the harbour"], Level::LongTerm);
    assert_eq!(
        levels.keys().filter(|text| text.starts_with("the")).collect::<Vec<_>>(),
        ["the forge", "the harbour", "the well"]
    );
    assert_eq!(levels.len(), 7, "contexts without a session have no capacity: {levels:?}");
}

#[tokio::test]
async fn a_context_that_is_used_often_enough_is_kept() {
    let fixture = Fixture::with(|config| config.levels.promotion.min_accesses = Some(2)).await;
    let id = fixture.stored(json!({"text": "the blue door"})).await;
    let own = fixture.stored(json!({"text": "the blue door with a time to live of its own", "ttl": "1h"})).await;
    for _ in 0..2 {
        assert_eq!(fixture.search(json!({"query": "blue door"})).await.contexts.len(), 2);
    }
    fixture.tick().await;
    let kept = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("a context");
    assert_eq!((kept.level, kept.expires_at, kept.version), (Level::LongTerm, None, 2));
    assert_eq!(fixture.engine.get(&mine(&fixture.engine), own, None).await.expect("a context").level, Level::ShortTerm);
    assert_eq!(fixture.engine.inner.metrics.contexts.promoted.get(), 1);
}

#[tokio::test]
async fn the_newest_of_all_levels_take_no_more_room_than_other_candidates() {
    const BYTES: usize = 60 << 10;
    let fixture = Fixture::with(|config| config.levels.immediate.capacity = Some(100)).await;
    for number in 0..150 {
        let level = if number % 2 == 0 { "immediate" } else { "long_term" };
        let text = format!("{number:03} {}", "-".repeat(BYTES - 4));
        fixture.stored(json!({"text": text, "level": level})).await;
    }
    let found = fixture.search(json!({"query": "and then?", "limit": 1, "token_budget": 20_000})).await;
    assert_eq!(found.degraded, ["query"]);
    assert_eq!(found.contexts.len() + found.left_out.len(), (8 << 20) / BYTES);
    assert!(found.contexts[0].context.text.starts_with("149"), "the newest comes first");
}

/// In the directory of a sidecar nobody else collects anything.
#[tokio::test]
async fn what_expired_of_an_agent_that_was_here_before_is_collected_by_the_one_that_is_here_now() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "green tea", "level": "long_term", "ttl": "20ms"})).await;
    let fixture = fixture.reopened("renamed").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(fixture.engine.count_garbage().await.expect("counted"), 1);
    assert_eq!(fixture.engine.collect_garbage(10).await.expect("collected"), 1);
    fixture.store(json!({"text": "black tea", "id": id})).await.expect("its id is free");
}

#[tokio::test]
async fn an_answer_stays_within_its_budget_and_says_what_it_left_out() {
    let fixture = Fixture::new().await;
    for number in 0..20 {
        fixture.stored(json!({"text": format!("Harbour note {number}: the ferry leaves at {number} sharp.")})).await;
    }
    for budget in [1, 5, 20, 60, 10_000] {
        let answer =
            fixture.search(json!({"query": "When does the ferry leave the harbour?", "token_budget": budget})).await;
        assert!(answer.tokens_used <= usize::try_from(budget).expect("a small number"), "{answer:?}");
        assert_eq!(answer.tokens_used, answer.tokens_by_level.values().sum::<usize>());
        assert_eq!(answer.contexts.len() + answer.left_out.len(), 20);
        assert!(!answer.contexts.is_empty());
        let whole = answer.contexts.iter().all(|found| !found.truncated);
        assert!(whole || answer.contexts.len() == 1, "only a single context is shortened: {answer:?}");
    }
    let limited = fixture.search(json!({"query": "ferry", "limit": 2})).await;
    assert_eq!(limited.contexts.len(), 2);
}

#[tokio::test]
async fn tokens_are_counted_by_the_tokenizer_of_the_moment() {
    let mut fixture = Fixture::new().await;
    let word = "internationalization";
    let estimated = store(&fixture.engine, json!({"text": word})).await.expect("stored");
    fixture.config.retrieval.tokenizer = config::Tokenizer::O200kBase;
    fixture.engine.reconfigure(&fixture.config).await.expect("a valid configuration");
    let second = format!("{word} {word}");
    let counted = store(&fixture.engine, json!({"text": second})).await.expect("stored");
    assert_eq!((estimated.tokens, counted.tokens), (5, 4));

    // What was estimated when it was written is counted as well, and both fit where only one did.
    let answer = fixture.search(json!({"query": word, "token_budget": 6})).await;
    assert_eq!((answer.contexts.len(), answer.tokens_used), (2, 6), "{answer:?}");
    let read = fixture.engine.get(&mine(&fixture.engine), estimated.id, None).await.expect("a context");
    assert_eq!(read.tokens, 2);
    let short = fixture.search(json!({"query": word, "token_budget": 3, "limit": 1})).await;
    assert!(short.tokens_used <= 3 && short.contexts[0].context.tokens == short.tokens_used, "{short:?}");

    fixture.config.retrieval.tokenizer = config::Tokenizer::Estimate;
    fixture.engine.reconfigure(&fixture.config).await.expect("a valid configuration");
    let answer = fixture.search(json!({"query": word, "token_budget": 6})).await;
    assert_eq!((answer.contexts.len(), answer.left_out.len()), (1, 1), "{answer:?}");
}

#[tokio::test]
async fn an_update_merges_metadata_and_finds_by_the_new_words() {
    let fixture = Fixture::new().await;
    let id = fixture
        .stored(json!({"text": "Bob likes tea.", "metadata": {"a": 1, "b": 2}, "level": "immediate", "session": "s"}))
        .await;
    let granted = mine(&fixture.engine);
    let update = |value: Value| fixture.engine.update(&granted, id, message(value));
    let changed = update(json!({"text": "Bob prefers cocoa.", "metadata": {"b": null, "c": 3}, "if_version": 1})).await;
    assert_eq!(changed.expect("a change").version, 2);
    let context = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("a context");
    assert_eq!((context.version, json!(context.metadata)), (2, json!({"a": 1, "c": 3})));
    for levels in [json!(["immediate"]), json!(["immediate", "short_term", "long_term"])] {
        let explained = fixture.search(json!({"query": "cocoa", "levels": levels, "explain": true})).await;
        let parts = explained.contexts[0].explanation.clone().expect("it was asked for");
        assert!(parts["sparse"] > 0.0, "{parts:?}");
        let old = fixture.search(json!({"query": "tea", "levels": levels, "explain": true})).await;
        assert!(
            old.contexts.iter().all(|found| found.explanation.as_ref().is_some_and(|parts| parts["sparse"] <= 0.0))
        );
    }
    assert!(matches!(update(json!({"text": "stale", "if_version": 1})).await, Err(Error::Version(_))));
    assert_eq!(field(update(json!({})).await.expect_err("nothing to change")).0, "text");
    assert_eq!(field(update(json!({"text": ""})).await.expect_err("blank")).0, "text");
    let unknown = fixture.engine.update(&mine(&fixture.engine), Uuid::now_v7(), message(json!({"text": "x"}))).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn what_was_deleted_is_gone_from_every_answer() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for (number, session) in ["s", "s", "t"].into_iter().enumerate() {
        let level = if number == 0 { "immediate" } else { "long_term" };
        ids.push(fixture.stored(json!({"text": format!("apple {number}"), "session": session, "level": level})).await);
    }
    assert_eq!(
        fixture.engine.delete(&mine(&fixture.engine), ids[0]).await.expect("a deletion").status,
        AckStatus::Deleted
    );
    assert!(matches!(fixture.engine.delete(&mine(&fixture.engine), ids[0]).await, Err(Error::NotFound(_))));
    assert_eq!(fixture.texts(json!({"query": "apple", "levels": ["immediate"]})).await, Vec::<String>::new());
    assert_eq!(clear(&fixture.engine, "s").await.expect("a deletion").deleted, 1);
    assert_eq!(fixture.texts(json!({"query": "apple"})).await, ["apple 2"]);
    let again = fixture.reopened("agent").await;
    assert_eq!(again.texts(json!({"query": "apple"})).await, ["apple 2"]);
}

#[tokio::test]
async fn conditions_on_metadata_mean_the_same_in_the_store_and_in_memory() {
    let fixture = Fixture::new().await;
    for level in ["immediate", "long_term"] {
        for (number, metadata) in
            [json!({"n": 1, "tag": "a", "on": true}), json!({"n": 2.5, "tag": ["b", "c"]}), json!({"tag": null})]
                .iter()
                .enumerate()
        {
            fixture
                .stored(json!({"text": format!("pear {level} {number}"), "metadata": metadata, "level": level}))
                .await;
        }
    }
    for (filter, expected) in [
        (json!({}), vec![0, 1, 2]),
        (json!({"tag": {"eq": "a"}}), vec![0]),
        (json!({"tag": {"any": ["c", "a"]}}), vec![0, 1]),
        (json!({"n": {"eq": 1}}), vec![0]),
        (json!({"n": {"range": {"gt": 1}}}), vec![1]),
        (json!({"n": {"range": {"gte": 1, "lte": 2.5}}}), vec![0, 1]),
        (json!({"n": {"range": {"lt": 2.5}}}), vec![0]),
        (json!({"on": {"eq": true}}), vec![0]),
        (json!({"on": {"eq": true}, "tag": {"eq": "b"}}), vec![]),
    ] {
        for level in ["immediate", "long_term"] {
            let request = json!({"query": "pear", "filter": filter, "levels": [level]});
            let found: BTreeSet<String> = fixture.texts(request).await.into_iter().collect();
            let expected: BTreeSet<String> = expected.iter().map(|number| format!("pear {level} {number}")).collect();
            assert_eq!(found, expected, "{filter} on {level}");
        }
    }
    for (filter, hint) in [
        (json!({"a": {"eq": {"b": 1}}}), "not a string, a number or a boolean"),
        (json!({"a": {"any": []}}), "any is empty"),
        (json!({"a": {"range": {}}}), "no bound"),
        (json!({"a": {"range": {"gt": 2, "lt": 1}}}), "range is empty"),
        (json!({"": {"eq": 1}}), "not empty"),
    ] {
        let refused = search(&fixture.engine, json!({"query": "pear", "filter": filter})).await;
        let (field, detail) = field(refused.expect_err(hint));
        assert!(field.starts_with("filter.") && detail.contains(hint), "{field}: {detail}");
    }
}

#[tokio::test]
async fn a_request_names_no_more_levels_than_there_are_and_each_counts_once() {
    let fixture = Fixture::new().await;
    fixture.stored(json!({"text": "pear", "level": "long_term"})).await;
    let twice = ["long_term", "immediate", "long_term"];
    assert_eq!(fixture.texts(json!({"query": "pear", "levels": twice})).await, ["pear"]);
    let granted: Granted<access::Read> = mine(&fixture.engine);
    let named = filter::levels(Some(vec![Level::LongTerm, Level::Immediate, Level::LongTerm]), granted.reach());
    assert_eq!(named.expect("levels"), [domain_level(Level::Immediate), domain_level(Level::LongTerm)]);
    let many = ["long_term"; 4];
    let searched = search(&fixture.engine, json!({"query": "pear", "levels": many})).await.map(drop);
    let deleted = delete_matching(&fixture.engine, json!({"levels": many})).await.map(drop);
    for refused in [searched, deleted] {
        let (field, detail) = field(refused.expect_err("too many"));
        assert!(field == "levels" && detail.contains("4 entries; at most 3"), "{field}: {detail}");
    }
}

#[tokio::test]
async fn a_query_of_stop_words_alone_gets_the_newest_and_says_so() {
    let fixture = Fixture::new().await;
    for number in 0..30 {
        let level = if number % 3 == 0 { "immediate" } else { "long_term" };
        fixture.stored(json!({"text": format!("lantern {number}"), "level": level, "session": "s"})).await;
    }
    let answer = fixture.search(json!({"query": "and then?", "limit": 3})).await;
    // Neighbours and floors move them a little, as in every search.
    let is_new = |text: &str| (20..30).any(|number| text == format!("lantern {number}"));
    assert!(answer.contexts.len() == 3 && answer.contexts.iter().all(|one| is_new(&one.context.text)), "{answer:?}");
    assert_eq!(answer.degraded, ["query"]);
    let of_one_level = fixture.search(json!({"query": "what is it", "levels": ["immediate"]})).await;
    assert!(!of_one_level.contexts.is_empty() && of_one_level.degraded == ["query"], "{of_one_level:?}");
    let answer = fixture.search(json!({"query": "what about the lantern"})).await;
    assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
}

#[tokio::test]
async fn the_newest_are_those_that_were_stored_last_whatever_their_ids() {
    let fixture = Fixture::new().await;
    // More than one search takes, and their ids, made of a key, say nothing of when they were made.
    for minutes in (0..4).rev() {
        crate::clock::jump_to(-60 * minutes - 30);
        let contexts =
            (0..60).map(|number| json!({"text": format!("{minutes} minutes, {number}"), "level": "long_term"}));
        let contexts = fixture.engine.permit_all(&caller(), message(contexts.collect())).expect("permitted");
        let key = IdempotencyKey::new(&minutes.to_string()).expect("a key");
        fixture.engine.store_batch(contexts, Some(key)).await.expect("stored");
    }
    crate::clock::jump_to(0);
    for text in ["one", "two", "three"] {
        tokio::time::sleep(Duration::from_millis(2)).await;
        fixture.stored(json!({"text": text, "level": "long_term"})).await;
    }
    assert_eq!(fixture.texts(json!({"query": "and then?", "limit": 3})).await, ["three", "two", "one"]);
    let answer = fixture.search(json!({"query": "and then?", "limit": 60, "token_budget": 10_000})).await;
    assert_eq!(answer.contexts.len(), 60);
    assert!(answer.contexts[3..].iter().all(|found| found.context.text.starts_with("0 minutes")), "{answer:?}");
}

#[tokio::test]
async fn contexts_that_say_the_same_are_shown_once_with_the_ids_of_the_others() {
    let fixture = Fixture::new().await;
    let store = |text: &'static str| fixture.stored(json!({"text": text, "level": "long_term"}));
    let first = store("The lighthouse keeper likes tea.").await;
    let second = store("the lighthouse keeper really likes tea").await;
    let other = store("The lighthouse keeper never likes tea.").await;
    let answer = fixture.search(json!({"query": "what does the lighthouse keeper like"})).await;
    let folded: Vec<Vec<Uuid>> = answer.contexts.iter().map(|one| one.folded.clone()).collect();
    let shown: Vec<Uuid> = answer.contexts.iter().map(|one| one.context.id).collect();
    assert!(shown.len() == 2 && shown.contains(&other), "{answer:?}");
    assert_eq!(folded.concat().len(), 1, "{answer:?}");
    let of_pair: std::collections::BTreeSet<Uuid> =
        shown.into_iter().chain(folded.concat()).filter(|id| *id != other).collect();
    assert_eq!(of_pair, [first, second].into());
}

/// Starts an embeddings API that answers so.
async fn api(route: axum::routing::MethodRouter) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/v1/embeddings", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/v1/embeddings", route)).await });
    url
}

/// Embeds by an API, in two dimensions.
fn embedded_by(url: String, model: &str) -> EmbeddingConfig {
    EmbeddingConfig {
        provider: Provider::OpenAi,
        url: Some(url),
        model: Some(model.to_owned()),
        dimensions: 2,
        ..EmbeddingConfig::default()
    }
}

#[tokio::test]
async fn contexts_are_stored_and_found_while_the_embedding_is_down_and_get_their_vectors_later() {
    let fixture = Fixture::with(|config| {
        config.embedding = EmbeddingConfig {
            timeout: HumanDuration::from_secs(1),
            ..embedded_by("http://127.0.0.1:9/v1/embeddings".to_owned(), "length")
        };
    })
    .await;
    for number in 0..3 {
        fixture
            .stored(json!({"text": format!("the lighthouse keeper {number}"), "session": "s", "level": "immediate"}))
            .await;
    }
    let answer = fixture.search(json!({"query": "lighthouse"})).await;
    assert_eq!((answer.contexts.len(), answer.degraded), (3, vec!["embedding".to_owned()]));
    let missing = || async {
        let selection =
            Selection { dense: Dense::Missing, ..Selection::alive(fixture.engine.inner.owner.clone(), now()) };
        fixture.engine.inner.store.count(selection).await.expect("a count")
    };
    assert!(fixture.engine.embed_missing().await.is_err(), "the embedding is still down");
    assert_eq!(missing().await, 3);
    let degraded = fixture.engine.readiness().into_iter().find(|part| part.name == "embedding").expect("a part");
    assert!(degraded.ready && degraded.degraded, "{degraded:?}");

    let route = axum::routing::post(|axum::Json(body): axum::Json<Value>| async move {
        let texts = body["input"].as_array().cloned().unwrap_or_default();
        let data = texts
            .iter()
            .enumerate()
            .map(|(index, text)| json!({"index": index, "embedding": [text.as_str().map_or(0, str::len), 1]}));
        axum::Json(json!({"data": data.collect::<Vec<_>>()}))
    });
    let mut config = fixture.config.clone();
    config.embedding.url = Some(api(route).await);
    fixture.engine.reconfigure(&config).await.expect("the same model elsewhere");
    let answer = fixture.search(json!({"query": "lighthouse"})).await;
    assert_eq!(
        (answer.contexts.len(), answer.degraded),
        (3, vec!["re_embedding".to_owned()]),
        "the words alone answer"
    );
    fixture.embed_missing().await;
    assert_eq!(missing().await, 0);
    let answer = fixture.search(json!({"query": "lighthouse", "explain": true})).await;
    assert_eq!((answer.contexts.len(), answer.degraded), (3, Vec::new()));
    assert!(fixture.all().await.iter().all(|context| context.version == 1), "for the caller nothing has changed");
}

#[tokio::test]
async fn another_model_is_refused_at_the_start_and_while_it_runs_if_that_is_wanted() {
    let fixture = Fixture::with(|config| config.embedding.on_model_change = config::OnModelChange::Refuse).await;
    let mut other = fixture.config.clone();
    other.embedding.dimensions = 64;
    let error = fixture.engine.reconfigure(&other).await.expect_err("other dimensions").to_string();
    assert!(error.contains("384 dimensions") && error.contains("64 dimensions"), "{error}");
    fixture.stored(json!({"text": "still works"})).await;
    fixture.engine.shutdown().await.expect("a clean end");
    let refused = open(&other, "agent").await.err().expect("a refusal");
    let chain = crate::refusal::chain(&refused);
    assert!(chain.contains("384") && chain.contains("64"), "{chain}");
    let _directory = fixture.directory;
}

#[tokio::test]
async fn without_the_store_memory_answers_and_writes_are_refused() {
    let fixture = Fixture::new().await;
    fixture.stored(json!({"text": "the last words", "level": "immediate"})).await;
    fixture.stored(json!({"text": "older words", "level": "long_term"})).await;
    fixture.engine.shutdown().await.expect("a clean end");
    let answer = fixture.search(json!({"query": "words"})).await;
    assert_eq!(answer.contexts[0].context.text, "the last words");
    assert_eq!((answer.contexts.len(), answer.degraded), (1, vec!["store".to_owned()]));
    let problem = Problem::from(fixture.store(json!({"text": "more"})).await.expect_err("no store"));
    assert_eq!(problem.code.as_str(), "store-unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_stored_at_once_in_one_session_have_places_of_their_own() {
    let fixture = Fixture::new().await;
    let stores = (0..40)
        .map(|number| fixture.store(json!({"text": format!("turn {number}"), "session": "s", "level": "long_term"})));
    assert!(futures::future::join_all(stores).await.into_iter().all(|stored| stored.is_ok()));
    let page =
        fixture.engine.inner.store.list(Selection::alive(fixture.engine.inner.owner.clone(), now()), None, 100).await;
    let places: BTreeSet<i64> = page.expect("a page").contexts.iter().map(|context| context.sequence).collect();
    assert_eq!(places.into_iter().collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn pages_hold_every_context_once() {
    let fixture = Fixture::new().await;
    for number in 0..7 {
        fixture.stored(json!({"text": number.to_string(), "session": if number < 5 { "s" } else { "t" }})).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let query = ListQuery { limit: Some(2), cursor, ..ListQuery::default() };
        let granted = fixture.engine.permit(&caller(), None, Some("s")).expect("one's own");
        let page = fixture.engine.list(&granted, query).await.expect("a page");
        assert!(page.contexts.len() <= 2);
        seen.extend(page.contexts.into_iter().map(|context| context.text));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    let query = ListQuery { cursor: Some("nonsense".to_owned()), ..ListQuery::default() };
    assert_eq!(field(fixture.engine.list(&mine(&fixture.engine), query).await.expect_err("no cursor")).0, "cursor");
}

#[tokio::test]
async fn figures_and_gauges_show_what_there_is() {
    let fixture = Fixture::new().await;
    fixture.stored(json!({"text": "a", "level": "long_term"})).await;
    fixture.stored(json!({"text": "b"})).await;
    let stats = fixture.engine.stats(&mine(&fixture.engine)).await.expect("figures");
    assert_eq!(stats.contexts, BTreeMap::from([(Level::Immediate, 0), (Level::ShortTerm, 1), (Level::LongTerm, 1)]));
    assert!(stats.disk_bytes.is_some_and(|bytes| bytes > 0));
    fixture.tick().await;
    let text = fixture.engine.inner.metrics.render().expect("metrics");
    assert!(text.contains("context_manager_contexts{level=\"long_term\"} 1\n"), "{text}");
    assert!(
        text.contains("context_manager_vector_store_duration_seconds_count{operation=\"upsert\",outcome=\"ok\"} 2\n"),
        "{text}"
    );
}
