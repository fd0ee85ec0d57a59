//! Changes that wait, of contexts that only the store has, after the end of the process that took them.

use super::*;

const DAY: i64 = 24 * 3_600;

impl Outage {
    /// Journals a change of a stored context while the store answers: as soon as something waits, everything does.
    async fn change_behind(&self, id: Uuid, change: Value) -> Acknowledgment {
        self.switch.away.store(false, Ordering::Release);
        let changed = self.engine.update(&mine(&self.engine), id, message(change)).await.expect("an acknowledgment");
        assert_eq!(changed.status, AckStatus::Journaled);
        changed
    }

    async fn something_waits() -> (Self, Vec<Uuid>) {
        let outage = Self::new().await;
        let mut ids = Vec::new();
        for (text, ttl) in [("Ann lives in Bonn", "30d"), ("Bob lives in Jena", "1m"), ("Cid lives in Kiel", "30d")] {
            ids.push(outage.store(json!({"text": text, "level": "long_term", "session": "s", "ttl": ttl})).await.id);
        }
        outage.cut();
        outage.store(json!({"text": "the first that waits", "level": "long_term", "session": "t"})).await;
        (outage, ids)
    }
}

#[tokio::test]
async fn a_change_of_what_only_the_store_has_is_seen_after_a_restart_before_it_gets_there() {
    for is_back_at_the_start in [true, false] {
        let (outage, ids) = Outage::something_waits().await;
        outage.change_behind(ids[0], json!({"text": "Ann lives in Ulm"})).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let between = now().as_millis();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let changed = outage.change_behind(ids[0], json!({"metadata": {"since": 2026}, "if_version": 2})).await;
        assert_eq!(changed.version, 3);
        outage.change_behind(ids[2], json!({"text": "Cid lives in Rome"})).await;
        outage.engine.delete(&mine(&outage.engine), ids[2]).await.expect("journaled");

        let outage = outage.restarted(!is_back_at_the_start).await;
        outage.switch.away.store(false, Ordering::Release);
        let read = outage.engine.get(&mine(&outage.engine), ids[0], None).await.expect("there");
        assert_eq!((read.text.as_str(), read.version), ("Ann lives in Ulm", 3));
        assert_eq!(read.metadata["since"], 2026);
        let then = outage.engine.get(&mine(&outage.engine), ids[0], Some(between)).await.expect("there");
        assert_eq!((then.text.as_str(), then.version), ("Ann lives in Ulm", 2));
        assert_eq!(outage.texts("where does Ann live").await.first().map(String::as_str), Some("Ann lives in Ulm"));
        let stale = message(json!({"text": "Ann lives in Rome", "if_version": 1}));
        let refused = outage.engine.update(&mine(&outage.engine), ids[0], stale).await.expect_err("it is another one");
        assert!(matches!(refused, Error::Version(_)), "{refused:?}");
        let change = json!({"text": "Ann lives in Trier", "if_version": 3});
        assert_eq!(outage.change_behind(ids[0], change).await.version, 4);
        let expected = [
            ("Ann lives in Trier".to_owned(), 4),
            ("Bob lives in Jena".to_owned(), 1),
            ("the first that waits".to_owned(), 1),
        ];
        assert_eq!(outage.listed().await, expected);
        assert!(outage.engine.inner.pending.is_active(), "nothing was drained meanwhile");
        outage.back().await;
        assert_eq!(outage.listed().await, expected);
        assert_eq!(lines(&outage, Kind::RefusedChanges), Vec::<Value>::new());
    }
}

/// The store reads, and is too full for what waits.
#[tokio::test]
async fn what_a_store_that_takes_no_writes_has_is_seen_as_it_was_changed() {
    let (outage, ids) = Outage::something_waits().await;
    outage.change_behind(ids[0], json!({"metadata": {"topic": "rivers"}})).await;
    outage.change_behind(ids[1], json!({"ttl": "30d"})).await;
    // What is deleted is so as it was changed.
    let changed = outage.change_behind(ids[2], json!({"metadata": {"topic": "lakes"}})).await;
    assert_eq!(changed.version, 2);
    delete_matching(&outage.engine, json!({"filter": {"topic": {"eq": "lakes"}}})).await.expect("journaled");
    let rivers = json!({"query": "who lives where", "filter": {"topic": {"eq": "rivers"}}});
    let seen = async |outage: &Outage| {
        let found = search(&outage.engine, rivers.clone()).await.expect("an answer").contexts;
        let mut listed = outage.listed().await;
        listed.sort_unstable();
        (found.into_iter().map(|found| found.context.text).collect::<Vec<_>>(), listed)
    };
    let expected = (
        vec!["Ann lives in Bonn".to_owned()],
        vec![
            ("Ann lives in Bonn".to_owned(), 2),
            ("Bob lives in Jena".to_owned(), 2),
            ("the first that waits".to_owned(), 1),
        ],
    );
    assert_eq!(seen(&outage).await, expected);

    let outage = outage.restarted(false).await;
    outage.switch.refuse(Some("waits"));
    assert!(outage.engine.drain().await.expect_err("it takes nothing").is_refusal());
    assert_eq!(seen(&outage).await, expected);
    // One would have expired.
    jump_to(DAY);
    assert_eq!(outage.engine.collect_garbage(100).await.expect("collected"), 0);
    assert_eq!(seen(&outage).await, expected);
    outage.switch.refuse(None);
    outage.back().await;
    assert_eq!(seen(&outage).await, expected);
}

/// Another sidecar has changed or deleted what waiting changes are of; what will be set aside is not seen.
#[tokio::test]
async fn a_change_that_will_not_be_made_is_not_seen() {
    let (outage, ids) = Outage::something_waits().await;
    outage.change_behind(ids[0], json!({"text": "Ann lives in Ulm", "if_version": 1})).await;
    outage.change_behind(ids[1], json!({"text": "Bob lives in Ulm"})).await;
    outage.change_behind(ids[2], json!({"text": "Cid lives in Ulm"})).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let store = &outage.switch.store;
    let owner = outage.engine.owner().clone();
    store.delete(&owner, vec![ids[1].into()]).await.expect("deleted");
    for (id, text) in [(ids[0], "Ann lives in Bern"), (ids[2], "Cid lives in Bern")] {
        let there = store.find(vec![id.into()]).await.expect("found").remove(0);
        let changed = Stored { text: text.to_owned(), version: 2, updated_at: now(), ..there };
        assert_eq!(store.update(changed, None, 1).await.expect("answered"), Updated::Applied);
    }
    let outage = outage.restarted(false).await;
    let expected = [
        ("Ann lives in Bern".to_owned(), 2),
        ("Cid lives in Ulm".to_owned(), 3),
        ("the first that waits".to_owned(), 1),
    ];
    assert_eq!(outage.listed().await, expected);
    outage.back().await;
    assert_eq!(outage.listed().await, expected);
    assert_eq!(lines(&outage, Kind::RefusedChanges).len(), 1);
}
