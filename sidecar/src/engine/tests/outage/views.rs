//! How many searches hold what waits.

use super::*;

#[tokio::test]
async fn searches_take_turns_while_something_waits_and_only_then() {
    let outage = Outage::new().await;
    outage.store(json!({"text": "green tea"})).await;
    let inner = &outage.engine.inner;
    let most = u32::try_from(SEARCHES_AT_ONCE).expect("a small number");
    let all = inner.searches.acquire_many(most).await.expect("open");
    assert_eq!(outage.texts("tea").await, ["green tea"], "nothing waits");

    outage.cut();
    outage.store(json!({"text": "black tea"})).await;
    // A slow store lets as many searches as there may be hold the view. A further one has none, so the next write copies none for it.
    let mut further = Box::pin(outage.texts("tea"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut further).await.is_err(), "it does not wait");
    drop(all);
    assert_eq!(further.await, ["black tea"]);
}
