//! Changes of a version that their caller names, while the store is away and another sidecar goes on.

use context_manager_memory::history;

use super::*;
use crate::metrics::Dropped;

impl Outage {
    async fn change_version(&self, id: Uuid, text: &str, if_version: i64) -> Result<i64, Error> {
        let change = message(json!({"text": text, "if_version": if_version}));
        let changed = self.engine.update(&mine(&self.engine), id, change).await?;
        assert_eq!(changed.status, AckStatus::Journaled);
        Ok(changed.version)
    }

    /// Another sidecar changes a context, and keeps what it was.
    async fn changed_elsewhere(&self, id: Uuid, text: &str) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let store = &self.switch.store;
        let point = store.get(self.engine.owner(), vec![id.into()], now()).await.expect("read").remove(0);
        let (version, at) = (point.context.version, now());
        let kept = history::earlier(&point.context, at, Timestamp::from_millis(i64::MAX));
        store.upsert(vec![Point { context: kept, vectors: point.vectors }]).await.expect("kept");
        let changed = Stored { text: text.to_owned(), version: version + 1, updated_at: at, ..point.context };
        assert_eq!(store.update(changed, None, version).await.expect("answered"), Updated::Applied);
    }

    fn set_aside(&self) -> Vec<Value> {
        let directory = self.directory.path().join("data/journal");
        crate::set_aside::lines(&Kind::RefusedChanges.file(&directory)).expect("read")
    }

    fn conflicts_counted(&self) -> u64 {
        self.engine.inner.metrics.journal.dropped.get(Dropped::Conflict)
    }
}

#[tokio::test]
async fn a_change_of_a_version_that_is_past_when_the_store_is_back_is_set_aside() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "Ann lives in Bonn", "level": "immediate"})).await.id;
    outage.cut();
    assert_eq!(outage.change_version(id, "Ann lives in Ulm", 1).await.expect("journaled"), 2);
    // Behind it, one whose version has the number that the other sidecar's has.
    assert_eq!(outage.change_version(id, "Ann lives in Ulm, on the Danube", 2).await.expect("journaled"), 3);
    assert!(
        matches!(outage.change_version(id, "Ann lives in Rome", 2).await, Err(Error::Version(_))),
        "it is seen at once"
    );
    outage.changed_elsewhere(id, "Ann lives in Kiel").await;

    let outage = outage.restarted(true).await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("Ann lives in Kiel".to_owned(), 2)]);
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Kiel"]);
    let kept = outage.set_aside();
    let of = |line: &Value| (line["update"]["text"].clone(), line["update"]["if_version"]["version"].clone());
    let expected = [(json!("Ann lives in Ulm"), json!(1)), (json!("Ann lives in Ulm, on the Danube"), json!(2))];
    assert_eq!(kept.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!(outage.conflicts_counted(), 2);
    // What names no version is made to what is there, as ever.
    outage.cut();
    let change = message(json!({"metadata": {"since": 2026}}));
    outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    outage.changed_elsewhere(id, "Ann lives in Jena").await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("Ann lives in Jena".to_owned(), 4)]);
    assert_eq!(outage.conflicts_counted(), 2);
}

#[tokio::test]
async fn changes_of_versions_that_wait_one_behind_the_other_are_all_made() {
    let mut outage = Outage::new().await;
    outage.config.levels.immediate.capacity = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("another capacity");
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    let first = outage.store(turn("first tea")).await.id;
    outage.cut();
    // When this reaches the store, the first one makes room for it, which takes a version.
    let second = outage.store(turn("second tea")).await.id;
    for id in [first, second] {
        for version in 1..=3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let text = format!("tea {version}");
            assert_eq!(outage.change_version(id, &text, version).await.expect("journaled"), version + 1);
        }
    }
    outage.back().await;
    let mut listed = outage.listed().await;
    listed.sort_unstable();
    assert_eq!(listed, [("tea 3".to_owned(), 4), ("tea 3".to_owned(), 5)]);
    assert_eq!((outage.set_aside(), outage.conflicts_counted()), (Vec::new(), 0));
}

#[tokio::test]
async fn a_change_that_was_made_before_another_sidecars_is_not_taken_for_a_conflict() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "Ann lives in Bonn", "level": "immediate"})).await.id;
    outage.switch.mute_update.store(true, Ordering::Release);
    assert_eq!(outage.change_version(id, "Ann lives in Ulm", 1).await.expect("journaled"), 2);
    outage.switch.mute_update.store(false, Ordering::Release);
    outage.back().await;
    assert_eq!(outage.listed().await, [("Ann lives in Ulm".to_owned(), 2)], "made once");

    // It is made when it is brought, and the sidecar ends before it is marked as done.
    outage.cut();
    assert_eq!(outage.change_version(id, "Ann lives in Rome", 2).await.expect("journaled"), 3);
    outage.switch.away.store(false, Ordering::Release);
    outage.switch.mute_update.store(true, Ordering::Release);
    assert!(outage.engine.drain().await.is_err());
    outage.switch.mute_update.store(false, Ordering::Release);
    outage.changed_elsewhere(id, "Ann lives in Kiel").await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("Ann lives in Kiel".to_owned(), 4)]);
    assert_eq!((outage.set_aside(), outage.conflicts_counted()), (Vec::new(), 0));
}

#[tokio::test]
async fn a_time_to_live_that_is_given_again_counts_from_then_whatever_else_changed() {
    let outage = Outage::new().await;
    let context = json!({"text": "Ann lives in Bonn", "level": "immediate", "ttl": "1h"});
    let id = outage.store(context).await.id;
    outage.cut();
    jump_to(1_800);
    let change = message(json!({"ttl": "1h"}));
    let changed = outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    outage.changed_elsewhere(id, "Ann lives in Kiel").await;
    outage.back().await;
    let context = outage.engine.get(&mine(&outage.engine), id, None).await.expect("there");
    assert_eq!((context.text.as_str(), context.version), ("Ann lives in Kiel", 3));
    assert_eq!(context.expires_at, changed.expires_at);
}

#[tokio::test]
async fn a_change_that_took_effect_without_an_answer_is_not_made_again_over_a_later_one() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "Ann lives in Bonn", "level": "immediate"})).await.id;
    outage.switch.mute_update.store(true, Ordering::Release);
    let change = message(json!({"text": "Ann lives in Ulm"}));
    let changed = outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    assert_eq!((changed.status, changed.version), (AckStatus::Journaled, 2));
    outage.switch.mute_update.store(false, Ordering::Release);
    // Another one waits behind it, of what it made.
    let change = message(json!({"metadata": {"since": 2026}}));
    let changed = outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    assert_eq!((changed.status, changed.version), (AckStatus::Journaled, 3));
    outage.changed_elsewhere(id, "Ann lives in Kiel").await;
    outage.changed_elsewhere(id, "Ann lives in Jena").await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("Ann lives in Jena".to_owned(), 5)]);
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Jena"]);
    let context = outage.engine.get(&mine(&outage.engine), id, None).await.expect("there");
    assert_eq!(context.metadata["since"], 2026);
}
