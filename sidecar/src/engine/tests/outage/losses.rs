//! A store that loses all that it held while the sidecar runs.

use super::*;

#[tokio::test]
async fn what_the_store_has_lost_is_not_found_in_memory_either() {
    let outage = Outage::new().await;
    let level = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    let lost = outage.store(level("tea is hot")).await.id;
    let immediate = async || {
        let answer = search(&outage.engine, json!({"query": "tea", "levels": ["immediate"]})).await.expect("an answer");
        answer.contexts.into_iter().map(|found| found.context.text).collect::<Vec<_>>()
    };
    assert_eq!(immediate().await, ["tea is hot"]);
    outage.switch.lose_everything(outage.engine.owner()).await;

    assert_eq!(immediate().await, Vec::<String>::new());
    outage.cut();
    let found = outage.engine.get(&mine(&outage.engine), lost, None).await;
    assert!(found.is_err(), "it is not remembered while the store is away: {found:?}");
    assert_eq!(outage.texts("tea").await, Vec::<String>::new());
    outage.back().await;

    let kept = outage.store(level("tea is cold")).await.id;
    let point = outage.engine.inner.point_of(outage.engine.owner(), kept.into()).await.expect("stored");
    assert_eq!(point.context.sequence, 0, "its session begins anew");
    assert_eq!(immediate().await, ["tea is cold"]);
    outage.engine.tick().await.expect("regular work");
    outage.cut();
    assert_eq!(outage.texts("tea").await, ["tea is cold"], "L1 has all of them again");
}
