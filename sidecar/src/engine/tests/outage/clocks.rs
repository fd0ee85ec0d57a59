//! Deletions while the store is away, after a restart with a clock that was set back: what they are about seems to be of the future.

use super::*;
use crate::metrics::Dropped;

const HOURS: i64 = 3 * 3_600;

fn long_term(text: &str) -> Value {
    json!({"text": text, "level": "long_term", "session": "s", "metadata": {"topic": "tea"}})
}

impl Outage {
    async fn delete(&self, id: Uuid) {
        let deleted = self.engine.delete(&mine(&self.engine), id).await.expect("an acknowledgment");
        assert_eq!(deleted.status, AckStatus::Journaled);
    }
}

#[tokio::test]
async fn a_deletion_reaches_what_was_stored_before_a_restart_that_the_clock_was_set_back_for() {
    for way in ["id", "session", "conditions"] {
        jump_to(0);
        let outage = Outage::new().await;
        let id = outage.store(long_term("tea")).await.id;
        outage.engine.tick().await.expect("regular work");
        jump_to(-HOURS);
        let outage = outage.restarted(true).await;
        match way {
            "id" => outage.delete(id).await,
            "session" => assert!(clear(&outage.engine, "s").await.expect("journaled").journaled),
            _ => {
                let deletion = json!({"filter": {"topic": {"eq": "tea"}}});
                assert!(delete_matching(&outage.engine, deletion).await.expect("journaled").journaled);
            }
        }
        outage.back().await;
        assert_eq!(outage.listed().await, [], "{way}");
    }
}

/// The process was killed before it noted what it had stored, but the journal tells.
#[tokio::test]
async fn a_deletion_reaches_what_was_stored_before_other_writes_that_wait() {
    let outage = Outage::new().await;
    let id = outage.store(long_term("tea")).await.id;
    outage.cut();
    outage.store(long_term("coffee")).await;
    jump_to(-HOURS);
    let outage = outage.restarted(true).await;
    outage.delete(id).await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("coffee".to_owned(), 1)]);
}

#[tokio::test]
async fn a_deletion_that_spares_its_context_is_set_aside() {
    let outage = Outage::new().await;
    let id = outage.store(long_term("tea")).await.id;
    jump_to(-HOURS);
    let outage = outage.restarted(true).await;
    outage.delete(id).await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("tea".to_owned(), 1)]);
    let kept = lines(&outage, Kind::RefusedChanges);
    assert_eq!(kept.iter().map(|line| line["delete"]["id"].clone()).collect::<Vec<_>>(), [json!(id)]);
    assert_eq!(outage.engine.inner.metrics.journal.dropped.get(Dropped::Conflict), 1);
}
