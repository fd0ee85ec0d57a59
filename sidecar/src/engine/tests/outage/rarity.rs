//! What a search reads to tell the rarity of words while writes wait.

use super::*;

/// How many contexts a search reads with their vectors, while those of a session are to be deleted.
async fn read_by_a_search(outage: &Outage, session: &str) -> usize {
    let before = outage.switch.points_read.load(Ordering::Acquire);
    let found = outage.texts("kettle").await;
    assert!(found.contains(&"the kettle stays".to_owned()), "{found:?}");
    assert!(found.iter().all(|text| !text.ends_with(session)), "what is deleted is not found: {found:?}");
    outage.switch.points_read.load(Ordering::Acquire) - before
}

#[tokio::test]
async fn a_search_reads_no_more_than_some_contexts_for_the_rarity_of_words_whatever_is_to_be_deleted() {
    let outage = Outage::new().await;
    outage.store(json!({"text": "the kettle stays", "level": "long_term"})).await;
    for (session, contexts) in [("few", 10), ("many", 300)] {
        for number in 0..contexts {
            let text = format!("kettle number {number} of {session}");
            outage.store(json!({"text": text, "level": "long_term", "session": session})).await;
        }
    }
    for (session, read) in [("few", 10), ("many", 0)] {
        outage.cut();
        let cleared = clear(&outage.engine, session).await.expect("journaled");
        assert!(cleared.journaled, "{cleared:?}");
        outage.switch.away.store(false, Ordering::Release);
        assert_eq!(read_by_a_search(&outage, session).await, read, "{session}");
    }
    outage.back().await;
    assert_eq!(read_by_a_search(&outage, "many").await, 0);
}
