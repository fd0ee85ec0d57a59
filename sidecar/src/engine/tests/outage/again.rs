//! Writes that are sent again while the store is away, after their contexts were changed.

use super::*;

fn tea(id: Uuid, level: &str) -> Value {
    json!({"id": id, "text": "tea at four", "level": level})
}

impl Outage {
    async fn move_to_five(&self, id: Uuid) {
        let change = message(json!({"text": "tea at five"}));
        self.engine.update(&mine(&self.engine), id, change).await.expect("changed");
    }

    async fn text(&self, id: Uuid) -> String {
        self.engine.get(&mine(&self.engine), id, None).await.expect("there").text
    }
}

#[tokio::test]
async fn a_write_of_what_was_changed_since_is_the_same_write_and_what_follows_it_is_made() {
    let outage = Outage::new().await;
    let [kept, deleted, other] = [(); 3].map(|()| Uuid::now_v7());
    for id in [kept, deleted, other] {
        outage.store(tea(id, "long_term")).await;
        outage.move_to_five(id).await;
    }
    outage.cut();
    for id in [kept, deleted] {
        assert_eq!(outage.store(tea(id, "long_term")).await.status, AckStatus::Journaled);
    }
    outage.store(json!({"id": other, "text": "coffee at four", "level": "long_term"})).await;
    outage.engine.delete(&mine(&outage.engine), deleted).await.expect("journaled");
    outage.back().await;
    assert_eq!(outage.listed().await, [("tea at five".to_owned(), 2), ("tea at five".to_owned(), 2)]);
    assert!(!outage.switch.has(deleted).await);
    let aside: Vec<String> = outage.conflicts().into_iter().map(|context| context.text).collect();
    assert_eq!(aside, ["coffee at four"]);
    assert_eq!(lines(&outage, Kind::RefusedChanges), Vec::<Value>::new());
}

#[tokio::test]
async fn a_write_that_waits_and_was_changed_is_the_same_write_too() {
    for level in ["immediate", "long_term"] {
        let outage = Outage::new().await;
        outage.cut();
        let id = outage.store(tea(Uuid::now_v7(), level)).await.id;
        outage.move_to_five(id).await;
        let again = outage.store(tea(id, level)).await;
        assert_eq!((again.status, again.version), (AckStatus::Journaled, 2), "{level}");
        let other = json!({"id": id, "text": "coffee at four", "level": level});
        let refused = store(&outage.engine, other).await.expect_err("it says something else");
        assert!(matches!(refused, Error::IdTaken(_)), "{level}: {refused:?}");
        assert_eq!(outage.text(id).await, "tea at five", "{level}");
        outage.back().await;
        assert_eq!(outage.listed().await, [("tea at five".to_owned(), 2)], "{level}");
    }
}

/// Whether it is the same write, the store would have to say.
#[tokio::test]
async fn a_write_of_what_is_known_as_it_was_changed_has_to_wait_for_the_store() {
    let outage = Outage::new().await;
    let id = outage.store(tea(Uuid::now_v7(), "immediate")).await.id;
    outage.move_to_five(id).await;
    outage.cut();
    let refused = store(&outage.engine, tea(id, "immediate")).await.expect_err("nobody knows");
    assert!(matches!(refused, Error::Journaling), "{refused:?}");
    assert_eq!(outage.text(id).await, "tea at five");
    outage.back().await;
    let again = outage.store(tea(id, "immediate")).await;
    assert_eq!((again.status, again.version), (AckStatus::Stored, 2));
}
