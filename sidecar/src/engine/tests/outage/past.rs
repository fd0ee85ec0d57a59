//! Questions about an earlier time while writes wait for the store: they are answered as they are after those have reached it.

use super::*;

/// What is seen of the past: each context by its id, all in pages, and all that is found; texts and versions.
type Seen = (Vec<Option<(String, i64)>>, Vec<(String, i64)>, Vec<(String, i64)>);

impl Outage {
    async fn seen(&self, ids: &[Uuid], at: i64) -> Seen {
        let mut read = Vec::new();
        for id in ids {
            let context = self.engine.get(&mine(&self.engine), *id, Some(at)).await.ok();
            read.push(context.map(|context| (context.text, context.version)));
        }
        let (mut listed, mut cursor) = (Vec::new(), None);
        loop {
            let query = ListQuery { limit: Some(2), cursor, as_of: Some(at), ..ListQuery::default() };
            let page = self.engine.list(&mine(&self.engine), query).await.expect("a page");
            listed.extend(page.contexts.into_iter().map(|context| (context.text, context.version)));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let found =
            search(&self.engine, json!({"query": "what does Ann drink", "as_of": at})).await.expect("an answer");
        let found = found.contexts.into_iter().map(|found| (found.context.text, found.context.version));
        let mut found: Vec<_> = found.collect();
        listed.sort_unstable();
        found.sort_unstable();
        (read, listed, found)
    }

    async fn time(&self) -> i64 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let time = now().as_millis();
        tokio::time::sleep(Duration::from_millis(3)).await;
        time
    }

    async fn change(&self, id: Uuid, change: Value) {
        let changed = self.engine.update(&mine(&self.engine), id, message(change)).await.expect("changed");
        assert_eq!(changed.status, AckStatus::Journaled);
    }
}

#[tokio::test]
async fn what_waits_has_the_past_that_it_has_in_the_store() {
    let outage = Outage::new().await;
    let mut ids = Vec::new();
    for text in ["Ann drinks tea", "Bob drinks ale", "Cid drinks gin", "Dan drinks rum", "Eve drinks whey"] {
        ids.push(outage.store(json!({"text": text, "session": "s"})).await.id);
    }
    let mut times = vec![outage.time().await];
    outage
        .engine
        .update(&mine(&outage.engine), ids[4], message(json!({"text": "Eve drinks milk"})))
        .await
        .expect("changed");
    times.push(outage.time().await);
    // Once something waits, everything does, although the store answers.
    outage.cut();
    ids.push(outage.store(json!({"text": "Fay drinks sap"})).await.id);
    outage.switch.away.store(false, Ordering::Release);
    times.push(outage.time().await);
    outage.change(ids[0], json!({"text": "Ann drinks coffee"})).await;
    times.push(outage.time().await);
    outage.change(ids[0], json!({"metadata": {"cups": 2}})).await;
    times.push(outage.time().await);
    outage.change(ids[0], json!({"text": "Ann drinks water"})).await;
    outage.change(ids[5], json!({"text": "Fay drinks cider"})).await;
    times.push(outage.time().await);
    outage.engine.delete(&mine(&outage.engine), ids[1]).await.expect("journaled");
    ids.push(outage.store(json!({"text": "Cid drinks cola", "supersedes": [ids[2]]})).await.id);
    times.push(outage.time().await);
    outage.change(ids[4], json!({"text": "Eve drinks broth"})).await;
    delete_matching(&outage.engine, json!({"session": "t"})).await.expect("journaled");
    times.push(outage.time().await);

    let mut waiting = Vec::new();
    for time in &times {
        waiting.push(outage.seen(&ids, *time).await);
    }
    assert!(outage.engine.inner.pending.is_active(), "nothing was drained meanwhile");
    outage.back().await;
    for (time, waiting) in times.iter().zip(waiting) {
        assert_eq!(waiting, outage.seen(&ids, *time).await, "{} ms after the first", time - times[0]);
    }
}

#[tokio::test]
async fn what_a_failed_change_has_kept_is_seen_once_and_goes_with_its_context() {
    let outage = Outage::new().await;
    let mut ids = Vec::new();
    for text in ["Ann drinks tea", "Bob drinks ale", "Cid drinks gin"] {
        ids.push(outage.store(json!({"text": text, "level": "long_term"})).await.id);
    }
    let time = outage.time().await;
    outage.switch.refuse(Some("coffee"));
    let change = message(json!({"text": "Ann drinks coffee"}));
    let refused = outage.engine.update(&mine(&outage.engine), ids[0], change).await.expect_err("it is refused");
    assert!(refused.is_refusal(), "{refused:?}");
    outage.switch.refuse(None);

    let all = ["Ann drinks tea", "Bob drinks ale", "Cid drinks gin"].map(|text| (text.to_owned(), 1));
    let of_ann = |found: &[(String, i64)]| found.iter().filter(|(text, _)| text.starts_with("Ann")).count();
    let (read, listed, found) = outage.seen(&ids, time).await;
    assert_eq!((read[0].as_ref(), of_ann(&found)), (Some(&all[0]), 1));
    assert_eq!(listed, all);
    outage.engine.delete(&mine(&outage.engine), ids[0]).await.expect("deleted");
    let (read, listed, found) = outage.seen(&ids, time).await;
    assert_eq!((read[0].as_ref(), of_ann(&found)), (None, 0));
    assert_eq!(listed, all[1..]);
    assert_eq!(outage.switch.store.stats().await.expect("figures").points, 2);
}

#[tokio::test]
async fn what_a_journaled_change_has_kept_goes_with_a_context_that_is_deleted_meanwhile() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "Ann drinks tea", "level": "long_term"})).await.id;
    outage.cut();
    outage.store(json!({"text": "Bob drinks ale", "level": "long_term"})).await;
    outage.switch.away.store(false, Ordering::Release);
    outage.change(id, json!({"text": "Ann drinks coffee"})).await;
    outage.switch.deletes_first.store(true, Ordering::Release);
    outage.back().await;
    assert_eq!(outage.listed().await, [("Bob drinks ale".to_owned(), 1)]);
    assert_eq!(outage.switch.store.stats().await.expect("figures").points, 1);
}
