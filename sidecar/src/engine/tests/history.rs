//! What contexts were: earlier versions, and what was superseded.

use context_manager_memory::{Level as StoredLevel, history};

use super::*;
use crate::clock::jump_to;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

impl Fixture {
    async fn read(&self, id: Uuid, as_of: Option<i64>) -> Option<String> {
        self.engine.get(&mine(&self.engine), id, as_of).await.ok().map(|context| context.text)
    }

    async fn found(&self, query: &str, as_of: Option<i64>) -> Vec<String> {
        let request = json!({"query": query, "as_of": as_of});
        let answer = search(&self.engine, request).await.expect("an answer");
        let mut texts: Vec<String> = answer.contexts.into_iter().map(|found| found.context.text).collect();
        texts.sort_unstable();
        texts
    }

    async fn change(&self, id: Uuid, change: Value) -> Context {
        // The next change must be at a later millisecond, or nothing was between them.
        tokio::time::sleep(Duration::from_millis(3)).await;
        self.engine.update(&mine(&self.engine), id, message(change)).await.expect("changed");
        self.engine.get(&mine(&self.engine), id, None).await.expect("there")
    }
}

#[tokio::test]
async fn a_changed_context_is_read_and_found_as_it_was() {
    let fixture = Fixture::new().await;
    let id = fixture.store(json!({"text": "Ann drinks tea", "session": "s"})).await.expect("stored").id;
    let first = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("there");
    let second = fixture.change(id, json!({"text": "Ann drinks coffee"})).await;
    let third = fixture.change(id, json!({"text": "Ann drinks water"})).await;

    assert_eq!(fixture.read(id, None).await.as_deref(), Some("Ann drinks water"));
    assert_eq!(fixture.read(id, Some(third.updated_at)).await.as_deref(), Some("Ann drinks water"));
    assert_eq!(fixture.read(id, Some(second.updated_at)).await.as_deref(), Some("Ann drinks coffee"));
    assert_eq!(fixture.read(id, Some(second.updated_at - 1)).await.as_deref(), Some("Ann drinks tea"));
    assert_eq!(fixture.read(id, Some(first.updated_at)).await.as_deref(), Some("Ann drinks tea"));
    assert_eq!(fixture.read(id, Some(first.created_at - 1)).await, None, "it was not there yet");

    assert_eq!(fixture.found("what does Ann drink", None).await, ["Ann drinks water"]);
    assert_eq!(fixture.found("what does Ann drink", Some(second.updated_at)).await, ["Ann drinks coffee"]);
    assert_eq!(fixture.found("tea", None).await, ["Ann drinks water"], "past words are not found, the vector still is");
    let listed = |as_of| {
        let query = ListQuery { as_of, ..ListQuery::default() };
        let engine = fixture.engine.clone();
        async move {
            let page = engine.list(&mine(&engine), query).await.expect("a page");
            page.contexts.into_iter().map(|context| (context.text, context.version)).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed(None).await, [("Ann drinks water".to_owned(), 3)]);
    assert_eq!(listed(Some(first.updated_at)).await, [("Ann drinks tea".to_owned(), 1)]);
    let stats = fixture.engine.stats(&mine(&fixture.engine)).await.expect("figures");
    assert_eq!(stats.contexts.values().sum::<usize>(), 1, "what is past does not count");

    // An earlier version cannot be changed, and goes with its context.
    let earlier = context_manager_memory::history::version_id(id.into(), 1).as_uuid();
    let refused = fixture.engine.update(&mine(&fixture.engine), earlier, message(json!({"text": "x"}))).await;
    assert!(matches!(refused, Err(Error::Past { .. })), "{refused:?}");
    fixture.engine.delete(&mine(&fixture.engine), id).await.expect("deleted");
    assert_eq!(fixture.read(id, Some(first.updated_at)).await, None);
    assert!(fixture.found("what does Ann drink", Some(second.updated_at)).await.is_empty());
    assert_eq!(fixture.engine.inner.store.stats().await.expect("figures").points, 0);
}

#[tokio::test]
async fn what_was_superseded_is_found_no_more_but_by_its_id_and_its_time() {
    let fixture = Fixture::new().await;
    let old = fixture.store(json!({"text": "Ann lives in Bonn", "session": "s"})).await.expect("stored").id;
    let before = fixture.engine.get(&mine(&fixture.engine), old, None).await.expect("there");
    tokio::time::sleep(Duration::from_millis(3)).await;
    let message_of_new =
        json!({"id": Uuid::now_v7(), "text": "Ann lives in Rome", "session": "s", "supersedes": [old]});
    let new = fixture.store(message_of_new.clone()).await.expect("stored").id;

    assert_eq!(fixture.found("where does Ann live", None).await, ["Ann lives in Rome"]);
    assert_eq!(fixture.found("where does Ann live", Some(before.updated_at)).await, ["Ann lives in Bonn"]);
    let closed = fixture.engine.get(&mine(&fixture.engine), old, None).await.expect("by its id");
    assert_eq!((closed.superseded_by, closed.version), (Some(new), 2));
    assert!(closed.valid_until.is_some() && closed.expires_at.is_some(), "{closed:?}");
    assert!(fixture.engine.get(&mine(&fixture.engine), old, closed.valid_until).await.is_err());
    let refused =
        fixture.engine.update(&mine(&fixture.engine), old, message(json!({"text": "x"}))).await.map_err(Problem::from);
    let refused = refused.expect_err("what is past cannot be changed");
    assert!(refused.detail.contains(&new.to_string()), "{}", refused.detail);
    // The same again changes nothing; a number of the session is not given twice.
    assert_eq!(fixture.store(message_of_new).await.expect("stored before").id, new);
    let next = fixture.store(json!({"text": "next", "session": "s"})).await.expect("stored").id;
    assert_eq!(
        fixture.engine.inner.point_of(fixture.engine.owner(), next.into()).await.expect("there").context.sequence,
        2
    );

    for (supersedes, field) in [(json!([Uuid::from_u128(9)]), "supersedes[0]"), (json!(vec![old; 17]), "supersedes")] {
        let refused = fixture.store(json!({"text": "x", "supersedes": supersedes})).await;
        assert!(matches!(&refused, Err(Error::Field { field: named, .. }) if named == field), "{refused:?}");
    }
}

#[tokio::test]
async fn without_history_nothing_past_is_kept() {
    let fixture = Fixture::with(|config| config.history.keep_for = HumanDuration::from_secs(0)).await;
    let old = fixture.store(json!({"text": "Ann lives in Bonn"})).await.expect("stored").id;
    let first = fixture.engine.get(&mine(&fixture.engine), old, None).await.expect("there");
    fixture.change(old, json!({"text": "Ann lives in Ulm"})).await;
    assert_eq!(fixture.read(old, Some(first.updated_at)).await, None);
    let stored = fixture.store(json!({"text": "Ann lives in Rome", "supersedes": [old]})).await;
    stored.expect("stored");
    assert_eq!(fixture.read(old, None).await, None);
    assert_eq!(fixture.found("where does Ann live", None).await, ["Ann lives in Rome"]);
}

async fn store_by_key(fixture: &Fixture, value: Value) -> Result<Acknowledgment, Error> {
    let key = IdempotencyKey::new("k").expect("a key");
    fixture.engine.store(&mine(&fixture.engine), message(value), Some(key)).await
}

#[tokio::test]
async fn what_was_changed_or_superseded_since_may_be_sent_again_under_its_key() {
    let mut fixture = Fixture::new().await;
    let tea = json!({"text": "tea at four"});
    let first = store_by_key(&fixture, tea.clone()).await.expect("stored").id;
    fixture.change(first, json!({"text": "tea at five"})).await;
    let again = store_by_key(&fixture, tea).await.expect("the same write");
    assert_eq!((again.id, again.version), (first, 2));
    let other = store_by_key(&fixture, json!({"text": "coffee at four"})).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");

    // Nothing past is kept, so what was superseded is gone when the write is sent again.
    fixture.config.history.keep_for = HumanDuration::from_secs(0);
    fixture.engine.reconfigure(&fixture.config).await.expect("a valid configuration");
    let old = fixture.stored(json!({"text": "supper at seven"})).await;
    let key = || Some(IdempotencyKey::new("l").expect("a key"));
    let new = json!({"text": "supper at eight", "supersedes": [old]});
    let stored = fixture.engine.store(&mine(&fixture.engine), message(new.clone()), key()).await.expect("stored");
    assert!(fixture.engine.get(&mine(&fixture.engine), old, None).await.is_err(), "nothing past is kept");
    let again = fixture.engine.store(&mine(&fixture.engine), message(new), key()).await.expect("the same write");
    assert_eq!(again.id, stored.id);
}

#[tokio::test]
async fn what_a_promoted_context_was_is_kept_as_long_as_history_is() {
    let fixture = Fixture::with(|config| config.levels.promotion.min_accesses = Some(1)).await;
    let tea = json!({"text": "tea at four"});
    let id = store_by_key(&fixture, tea.clone()).await.expect("stored").id;
    let first = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("there");
    fixture.change(id, json!({"text": "tea at five"})).await;
    assert_eq!(fixture.found("tea", None).await, ["tea at five"]);
    fixture.tick().await;

    jump_to(2 * HOUR);
    let now = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("kept");
    assert_eq!((now.level, now.expires_at), (Level::LongTerm, None));
    assert_eq!(fixture.read(id, Some(first.updated_at)).await.as_deref(), Some("tea at four"));
    assert_eq!(fixture.found("tea", Some(first.updated_at)).await, ["tea at four"]);
    assert_eq!(store_by_key(&fixture, tea).await.expect("the same write").id, id);

    jump_to(31 * DAY);
    assert_eq!(fixture.read(id, Some(first.updated_at)).await, None);
    assert!(fixture.found("tea", Some(first.updated_at)).await.is_empty());
}

#[tokio::test]
async fn what_was_promoted_before_it_was_changed_may_be_sent_again_under_its_key() {
    let fixture = Fixture::with(|config| config.levels.promotion.min_accesses = Some(1)).await;
    let tea = json!({"text": "tea at four"});
    let id = store_by_key(&fixture, tea.clone()).await.expect("stored").id;
    assert_eq!(fixture.found("tea", None).await, ["tea at four"]);
    fixture.tick().await;
    for text in ["tea at five", "tea at six"] {
        fixture.change(id, json!({"text": text})).await;
    }
    assert_eq!(store_by_key(&fixture, tea).await.expect("the same write").id, id);
    for other in ["tea at five", "coffee at four"] {
        let refused = store_by_key(&fixture, json!({"text": other})).await;
        assert!(matches!(refused, Err(Error::KeyReused)), "{refused:?}");
    }
}

#[tokio::test]
async fn what_a_context_was_leaves_the_immediate_level_with_it() {
    let fixture = Fixture::with(|config| config.levels.immediate.capacity = Some(1)).await;
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    let id = fixture.stored(turn("Ann drinks tea")).await;
    let first = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("there");
    fixture.change(id, json!({"text": "Ann drinks coffee"})).await;
    jump_to(HOUR / 2);
    fixture.stored(turn("Bob drinks water")).await;
    jump_to(HOUR + HOUR / 4);
    assert_eq!(fixture.read(id, None).await.as_deref(), Some("Ann drinks coffee"));
    assert_eq!(fixture.read(id, Some(first.updated_at)).await.as_deref(), Some("Ann drinks tea"));
}

#[tokio::test]
async fn what_a_context_was_lives_as_long_as_it_when_that_gets_more_time() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "Ann drinks tea", "ttl": "1h"})).await;
    let first = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("there");
    fixture.change(id, json!({"text": "Ann drinks coffee"})).await;
    fixture.change(id, json!({"ttl": "10d"})).await;
    jump_to(2 * HOUR);
    assert_eq!(fixture.found("what does Ann drink", Some(first.updated_at)).await, ["Ann drinks tea"]);
    assert_eq!(fixture.read(id, Some(first.updated_at)).await.as_deref(), Some("Ann drinks tea"));
    jump_to(11 * DAY);
    assert!(fixture.found("what does Ann drink", Some(first.updated_at)).await.is_empty());
}

#[tokio::test]
async fn what_a_context_was_does_not_outlive_it_when_that_gets_less_time() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "Ann drinks tea", "level": "long_term"})).await;
    let first = fixture.engine.get(&mine(&fixture.engine), id, None).await.expect("there");
    let second = fixture.change(id, json!({"text": "Ann drinks coffee"})).await;
    fixture.change(id, json!({"ttl": "1h"})).await;
    for (at, text) in [(first.updated_at, "Ann drinks tea"), (second.updated_at, "Ann drinks coffee")] {
        assert_eq!(fixture.found("what does Ann drink", Some(at)).await, [text]);
    }
    jump_to(2 * HOUR);
    for at in [first.updated_at, second.updated_at] {
        assert!(fixture.found("what does Ann drink", Some(at)).await.is_empty());
    }
    assert_eq!(fixture.engine.collect_garbage(10).await.expect("collected"), 3);
}

#[tokio::test]
async fn what_is_past_is_not_kept_longer_because_it_is_looked_at() {
    let fixture = Fixture::with(|config| config.levels.promotion.min_accesses = Some(1)).await;
    let changed = fixture.stored(json!({"text": "Ann drinks tea"})).await;
    let old = fixture.stored(json!({"text": "Ann lives in Bonn"})).await;
    let before = fixture.engine.get(&mine(&fixture.engine), old, None).await.expect("there");
    fixture.change(changed, json!({"text": "Ann drinks coffee"})).await;
    fixture.stored(json!({"text": "Ann lives in Rome", "supersedes": [old]})).await;
    let seen = fixture.found("what does Ann drink, and where does she live", Some(before.updated_at)).await;
    assert_eq!(seen, ["Ann drinks tea", "Ann lives in Bonn"]);
    fixture.tick().await;
    let past = vec![history::version_id(changed.into(), 1), old.into()];
    for context in fixture.engine.inner.store.find(past).await.expect("read") {
        assert_eq!((context.level, context.access_count), (StoredLevel::ShortTerm, 1), "{context:?}");
        assert!(context.expires_at.is_some(), "{context:?}");
    }
}
