//! What was set aside, and what is journaled of the same contexts afterwards.

use super::*;

fn context(id: Uuid, text: &str) -> Value {
    json!({"id": id, "text": text, "level": "long_term"})
}

/// It is of what the store has, also after a restart.
#[tokio::test]
async fn what_was_set_aside_says_nothing_of_changes_that_are_journaled_when_nothing_waits_any_more() {
    let outage = Outage::new().await;
    let [deleted, changed] = [(); 2].map(|()| Uuid::now_v7());
    for id in [deleted, changed] {
        outage.store(context(id, "the first")).await;
    }
    outage.cut();
    for id in [deleted, changed] {
        assert_eq!(outage.store(context(id, "the second")).await.status, AckStatus::Journaled);
    }
    outage.back().await;
    assert_eq!(outage.conflicts().len(), 2);

    outage.cut();
    let gone = outage.engine.delete(&mine(&outage.engine), deleted).await.expect("journaled");
    assert_eq!(gone.status, AckStatus::Journaled);
    // The store answers before the journal is drained.
    outage.switch.away.store(false, Ordering::Release);
    let change = message(json!({"text": "the first, changed"}));
    let change = outage.engine.update(&mine(&outage.engine), changed, change).await.expect("journaled");
    assert_eq!(change.status, AckStatus::Journaled);
    let outage = outage.restarted(true).await;
    outage.back().await;
    assert_eq!(outage.listed().await, [("the first, changed".to_owned(), 2)]);
    assert_eq!(lines(&outage, Kind::RefusedChanges), Vec::<Value>::new());
}

/// While other writes wait, a change of the same id may be of what was set aside; but not if it says of which version it is.
#[tokio::test]
async fn a_change_of_the_version_that_the_store_has_is_made_whatever_was_set_aside() {
    let outage = Outage::new().await;
    let taken = Uuid::now_v7();
    outage.store(context(taken, "the first")).await;
    outage.cut();
    assert_eq!(outage.store(context(taken, "the second")).await.status, AckStatus::Journaled);
    let of_the_second = message(json!({"metadata": {"of": "the second"}}));
    outage.engine.update(&mine(&outage.engine), taken, of_the_second).await.expect("journaled");
    outage.store(context(Uuid::now_v7(), "poison")).await;
    outage.switch.refuse(Some("poison"));
    outage.switch.away.store(false, Ordering::Release);
    while let Ok(more) = outage.engine.drain().await {
        assert!(more, "the last one is refused, and waits");
    }
    assert_eq!((outage.conflicts().len(), lines(&outage, Kind::RefusedChanges).len()), (1, 1));

    let outage = outage.restarted(false).await;
    for message in [json!({"text": "the first, changed", "if_version": 1}), json!({"metadata": {"of": "whichever"}})] {
        let change = outage.engine.update(&mine(&outage.engine), taken, super::message(message)).await;
        assert_eq!(change.expect("journaled").status, AckStatus::Journaled);
    }
    outage.back().await;
    assert_eq!(outage.listed().await, [("the first, changed".to_owned(), 2), ("poison".to_owned(), 1)]);
    let aside: Vec<String> = lines(&outage, Kind::RefusedChanges).iter().map(Value::to_string).collect();
    assert!(aside.len() == 2 && aside[1].contains("whichever"), "{aside:?}");
}
