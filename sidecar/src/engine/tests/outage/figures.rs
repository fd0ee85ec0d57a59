//! Figures and exports while writes wait: counted is what every read sees, and what is taken away is whole or refused.

use context_manager_protocol::config::{AccessRule, AccessTarget};

use super::*;

impl Outage {
    /// The contexts of each level, and how many of them a deletion of all of the level would delete.
    async fn counts(&self) -> BTreeMap<Level, (usize, usize)> {
        let figures = self.engine.stats(&mine(&self.engine)).await.expect("figures");
        let mut counts = BTreeMap::new();
        for level in [Level::Immediate, Level::ShortTerm, Level::LongTerm] {
            let dry_run = json!({"levels": [level], "dry_run": true});
            let would_be = delete_matching(&self.engine, dry_run).await.expect("counted").deleted;
            counts.insert(level, (figures.contexts.get(&level).copied().unwrap_or_default(), would_be));
        }
        counts
    }
}

#[tokio::test]
async fn what_waits_is_counted_as_it_is_read() {
    let outage = Outage::new().await;
    let fresh = outage.store(json!({"text": "fresh tea", "level": "immediate", "session": "s"})).await.id;
    let gone = outage.store(json!({"text": "cold tea", "level": "long_term"})).await.id;
    let outdated = outage.store(json!({"text": "Ann drinks tea", "level": "long_term"})).await.id;
    for number in 0..3 {
        outage.store(json!({"text": format!("{number} cups"), "session": "cleared"})).await;
    }
    outage.store(json!({"text": "kept tea"})).await;
    let expected = |immediate, short_term, long_term| {
        let levels = [(Level::Immediate, immediate), (Level::ShortTerm, short_term), (Level::LongTerm, long_term)];
        levels.map(|(level, count)| (level, (count, count))).into()
    };
    assert_eq!(outage.counts().await, expected(1, 4, 2));

    outage.cut();
    let change = message(json!({"metadata": {"cups": 2}}));
    outage.engine.update(&mine(&outage.engine), fresh, change).await.expect("journaled");
    outage.engine.delete(&mine(&outage.engine), gone).await.expect("journaled");
    clear(&outage.engine, "cleared").await.expect("journaled");
    outage.store(json!({"text": "Ann drinks coffee", "level": "long_term", "supersedes": [outdated]})).await;
    outage.store(json!({"text": "more tea"})).await;
    outage.store(json!({"text": "soon no tea", "ttl": "1ms"})).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // The store answers again before the journal is drained.
    outage.switch.away.store(false, Ordering::Release);
    assert_eq!(outage.counts().await, expected(1, 2, 1));
    let session = json!({"session": "cleared", "dry_run": true});
    assert_eq!(delete_matching(&outage.engine, session).await.expect("counted").deleted, 0);
    outage.back().await;
    assert_eq!(outage.counts().await, expected(1, 2, 1), "and the same when all of it is there");
}

#[tokio::test]
async fn what_has_got_there_is_counted_once_while_a_change_of_it_waits() {
    let outage = Outage::new().await;
    outage.cut();
    let id = outage.store(json!({"text": "tea", "level": "long_term"})).await.id;
    let change = message(json!({"metadata": {"cups": 2}}));
    outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    outage.switch.away.store(false, Ordering::Release);
    assert_eq!(outage.counts().await[&Level::LongTerm], (1, 1));
    assert!(outage.engine.drain().await.expect("drained"), "the change is next");
    assert_eq!(outage.counts().await[&Level::LongTerm], (1, 1));
    outage.back().await;
    assert_eq!(outage.counts().await[&Level::LongTerm], (1, 1));
}

#[tokio::test]
async fn figures_take_few_calls_whatever_is_to_be_deleted() {
    for (sessions, contexts, calls) in [(1, 100, 12), (1, 1_100, 4), (20, 1, 4)] {
        let outage = Outage::new().await;
        for session in 0..sessions {
            let session = session.to_string();
            let turn = json!({"text": "tea", "session": session, "level": "long_term"});
            let turn = || {
                let granted = outage.engine.permit(&caller(), None, Some(&session)).expect("one's own");
                (granted, message(turn.clone()))
            };
            for start in (0..contexts).step_by(100) {
                let batch = (start..contexts.min(start + 100)).map(|_| turn());
                outage.engine.store_batch(batch.collect(), None).await.expect("stored");
            }
        }
        outage.cut();
        for session in 0..sessions {
            assert!(clear(&outage.engine, &session.to_string()).await.expect("journaled").journaled);
        }
        outage.switch.away.store(false, Ordering::Release);
        let before = outage.switch.calls.load(Ordering::Acquire);
        let figures = outage.engine.stats(&mine(&outage.engine)).await.expect("figures");
        let made = outage.switch.calls.load(Ordering::Acquire) - before;
        assert!(made <= calls, "{made} calls for {contexts} contexts of each of {sessions} sessions");
        let expected = if contexts == 100 { 0 } else { sessions * contexts };
        assert_eq!(figures.contexts.get(&Level::LongTerm).copied().unwrap_or_default(), expected);
        outage.back().await;
        assert_eq!(outage.counts().await[&Level::LongTerm], (0, 0));
    }
}

#[tokio::test]
async fn nothing_is_exported_while_writes_wait_for_it_would_not_be_whole() {
    let mut outage = Outage::new().await;
    let target = AccessTarget { tenant: true, ..AccessTarget::default() };
    let operations = vec![Operation::Export];
    outage.config.access =
        vec![AccessRule { agents: vec!["agent".to_owned()], operations, levels: Vec::new(), target }];
    outage.engine.reconfigure(&outage.config).await.expect("a rule");
    let id = outage.store(json!({"text": "Ann drinks tea", "level": "immediate"})).await.id;
    outage.cut();
    outage
        .engine
        .update(&mine(&outage.engine), id, message(json!({"text": "Ann drinks coffee"})))
        .await
        .expect("journaled");
    outage.switch.away.store(false, Ordering::Release);
    let engine = &outage.engine;
    let one = async |after| engine.export(&mine(engine), after).await;
    let all = async |after| engine.export_tenant(&engine.permit_tenant(&caller()).expect("permitted"), after).await;
    // Neither from the beginning nor from where an export has come to.
    for after in [None, Some(Uuid::nil())] {
        for refused in [one(after).await, all(after).await] {
            let problem = Problem::from(refused.expect_err("it waits"));
            assert_eq!(problem.code, Code::StoreUnavailable);
            assert!(problem.detail.contains("writes wait in the journal"), "{}", problem.detail);
        }
    }
    outage.back().await;
    for exported in [one(None).await, all(None).await] {
        let mut texts: Vec<String> = exported.expect("an export").into_iter().map(|context| context.text).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["Ann drinks coffee", "Ann drinks tea"], "with what it was");
    }
}
