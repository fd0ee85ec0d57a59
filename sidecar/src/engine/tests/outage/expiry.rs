//! What expires while the store is away, and what lives on.

use super::*;
use crate::metrics::Dropped;

const DAY: i64 = 24 * 3_600;

impl Outage {
    /// Gives a context a time to live while the store is away, and says when it ends.
    async fn prolong(&self, id: Uuid, ttl: &str) -> Option<i64> {
        let change = message(json!({"ttl": ttl}));
        let changed = self.engine.update(&mine(&self.engine), id, change).await.expect("an acknowledgment");
        assert_eq!(changed.status, AckStatus::Journaled);
        changed.expires_at
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.engine.inner.metrics.journal.dropped.get(why)
    }
}

#[tokio::test]
async fn a_longer_life_that_was_acknowledged_while_the_store_was_away_is_kept() {
    for restarts in [false, true] {
        jump_to(0);
        let outage = Outage::new().await;
        let minute = |text: &str| json!({"text": text, "level": "immediate", "ttl": "1m"});
        let stored = outage.store(minute("in the store")).await.id;
        outage.cut();
        let waiting = outage.store(minute("in the journal")).await.id;
        outage.store(minute("for a minute")).await;
        jump_to(30);
        let mut ends = Vec::new();
        for id in [stored, waiting] {
            ends.push(outage.prolong(id, "1d").await);
            let change = message(json!({"metadata": {"kept": true}}));
            outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
        }
        jump_to(150);
        let outage = if restarts { outage.restarted(true).await } else { outage };
        // Garbage is collected before the changes get to the store, as soon as it is back.
        outage.switch.away.store(false, Ordering::Release);
        if !restarts {
            assert_eq!(outage.engine.collect_garbage(100).await.expect("collected"), 0);
        }
        outage.back().await;
        assert_eq!((outage.dropped(Dropped::Expired), outage.dropped(Dropped::Missing)), (1, 0), "{restarts}");
        let outage = outage.restarted(false).await;
        for (id, end) in [stored, waiting].into_iter().zip(ends) {
            let context = outage.engine.get(&mine(&outage.engine), id, None).await.expect("it lives on");
            assert_eq!((context.expires_at, context.version), (end, 3));
            assert_eq!(context.metadata["kept"], true);
        }
        assert_eq!(outage.listed().await.len(), 2);
        jump_to(2 * DAY);
        assert_eq!(outage.listed().await, [], "it is no longer than that");
    }
}

#[tokio::test]
async fn an_id_whose_context_has_expired_is_stored_anew_through_the_journal() {
    let outage = Outage::new().await;
    let status = |text: &str, id: Uuid| json!({"id": id, "text": text, "level": "short_term", "ttl": "5m"});
    let (same, other, gone) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    for id in [same, other, gone] {
        outage.store(status("all is well", id)).await;
    }
    outage.cut();
    jump_to(400);
    outage.store(status("all is well", gone)).await;
    jump_to(800);
    for (text, id) in [("all is well", same), ("it rains", other)] {
        let stored = outage.store(status(text, id)).await;
        assert_eq!((stored.status, stored.version), (AckStatus::Journaled, 1));
    }
    outage.back().await;
    let mut listed = outage.listed().await;
    listed.sort_unstable();
    assert_eq!(listed, [("all is well".to_owned(), 1), ("it rains".to_owned(), 1)]);
    assert_eq!(outage.dropped(Dropped::Expired), 1, "one has expired a second time");
    assert!(!outage.directory.path().join("data/journal/conflicts.jsonl").exists());

    // They are brought twice, and have expired meanwhile.
    let inner = &outage.engine.inner;
    let stored = inner.store.find(vec![same.into(), other.into()]).await.expect("found");
    jump_to(1_600);
    let brought = inner.drain_contexts(stored).await.expect("brought");
    assert_eq!((brought.new, brought.ids.len(), brought.conflicts.len()), (0, 2, 0));
}

#[tokio::test]
async fn what_has_expired_while_it_waits_is_not_there_to_be_changed_or_deleted() {
    let outage = Outage::new().await;
    outage.cut();
    for level in ["immediate", "long_term"] {
        let id = outage.store(json!({"text": "for a minute", "level": level, "ttl": "1m"})).await.id;
        jump_to(90);
        let (engine, change) = (&outage.engine, message(json!({"ttl": "1h"})));
        let changed = engine.update(&mine(engine), id, change).await;
        assert!(matches!(changed, Err(Error::NotFound(_))), "{level}: {changed:?}");
        let deleted = engine.delete(&mine(engine), id).await;
        assert!(matches!(deleted, Err(Error::NotFound(_))), "{level}: {deleted:?}");
        assert!(engine.get(&mine(engine), id, None).await.is_err(), "{level}");
        jump_to(0);
    }
    jump_to(90);
    outage.back().await;
    assert_eq!((outage.dropped(Dropped::Expired), outage.dropped(Dropped::Missing)), (2, 0));
    assert_eq!(outage.listed().await, []);
}

#[tokio::test]
async fn what_was_superseded_does_not_come_back_when_its_successor_has_expired_meanwhile() {
    for restarts in [false, true] {
        jump_to(0);
        let outage = Outage::new().await;
        let stored = outage.store(json!({"text": "Ann lives in Bonn", "level": "long_term"})).await.id;
        outage.cut();
        let waiting = outage.store(json!({"text": "Bob lives in Jena", "level": "long_term"})).await.id;
        let mut successors = Vec::new();
        for (text, old) in [("Ann travels", stored), ("Bob travels", waiting)] {
            let new = json!({"text": text, "level": "long_term", "ttl": "1m", "supersedes": [old]});
            successors.push((old, outage.store(new).await.id));
        }
        jump_to(300);
        let outage = if restarts { outage.restarted(true).await } else { outage };
        assert_eq!(outage.listed().await, [], "{restarts}");
        outage.back().await;
        assert_eq!(outage.dropped(Dropped::Expired), 2, "{restarts}");
        assert_eq!(outage.listed().await, [], "{restarts}");
        for (old, new) in successors {
            let closed = outage.engine.get(&mine(&outage.engine), old, None).await.expect("kept");
            assert_eq!(closed.superseded_by, Some(new), "{restarts}");
        }
    }
}
