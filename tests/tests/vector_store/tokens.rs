//! Tokens of a resource's own, in the place of the API key.

use anyhow::{Result, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use context_manager_protocol::names;
use context_manager_qdrant::{Failure, Found};
use context_manager_tests::{
    cluster::{Namespace, eventually},
    operator::{Operator, PATIENCE, condition, provision, wait_for},
};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::server::{KEY, Qdrant, change, change_key, count, merge, mounted, namespace, store, with_key, with_tokens};

fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).unwrap_or_default();
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part)?)?)
}

async fn token(namespace: &Namespace) -> Result<String> {
    mounted(namespace, names::QDRANT_API_KEY_FILE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_get_a_token_for_their_collection_and_no_other() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_tokens).await?);
    let namespace = namespace(&operator, "token").await?;
    let resource = provision(&namespace, "memory", server.spec(json!({}))).await?;
    ensure!(condition(&resource, "StoreReady").is_some_and(|said| said.message.contains("tokens of their own")));
    let token = token(&namespace).await?;
    ensure!(token != KEY && !token.contains(KEY));
    let own = format!("ctx_{}_memory", namespace.name);
    let said = claims(&token)?;
    ensure!(said["access"] == json!([{"collection": own, "access": "rw"}]), "{said}");
    let sidecar = server.reach(&own, Some(&token))?;
    // What a sidecar does at its start and then.
    sidecar.open().await?;
    store(&sidecar, &namespace.name, "agent", None).await?;
    ensure!(count(&sidecar).await? == 1);
    let refused = |failed: context_manager_qdrant::Error| failed.failure() == Failure::Unauthorized;
    ensure!(sidecar.drop_collection().await.is_err_and(refused), "the collection can be dropped");
    let other = server.named("other")?;
    other.open().await?;
    ensure!(server.reach("other", Some(&token))?.inspect().await.is_err_and(refused), "another collection can be seen");
    ensure!(server.reach("new", Some(&token))?.open().await.is_err_and(refused), "a collection can be made");
    ensure!(other.inspect().await? == Found::Fitting);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_its_end_and_stays_until_then() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_tokens).await?);
    let namespace = namespace(&operator, "renewal").await?;
    let lifetime = json!({"token": {"policy": "PerResource", "lifetime": "10m"}});
    provision(&namespace, "memory", server.spec(lifetime)).await?;
    let first = token(&namespace).await?;
    let rest = claims(&first)?["exp"].as_i64().unwrap_or_default() - jiff::Timestamp::now().as_second();
    ensure!((540..=600).contains(&rest), "it lasts for {rest} s");
    tokio::time::sleep(3 * context_manager_tests::operator::RESYNC).await;
    ensure!(token(&namespace).await? == first, "it is made anew without need");
    // A life three times as long makes this one a token at its end.
    change(&namespace, json!({"spec": {"vectorStore": {"qdrant": {"token": {"lifetime": "30m"}}}}})).await?;
    let renewed = eventually("another token", PATIENCE, || async {
        let now = token(&namespace).await?;
        ensure!(now != first, "still the first");
        Ok(now)
    })
    .await?;
    server.reach(&format!("ctx_{}_memory", namespace.name), Some(&renewed))?.inspect().await?;
    // What somebody else puts there is put right.
    merge::<Secret>(&namespace, "memory-context-store", json!({"stringData": {"qdrant-api-key": "theirs"}})).await?;
    eventually("a token again", PATIENCE, || async {
        let now = token(&namespace).await?;
        ensure!(claims(&now).is_ok(), "it is no token");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tokens_gets_the_key_unless_the_resource_insists() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "insists").await?;
    let resource = provision(&namespace, "memory", server.spec(json!({"token": {"policy": "PerResource"}}))).await;
    ensure!(resource.is_err(), "it is ready without tokens");
    let stalled = wait_for(&namespace, "memory", "StoreReady", "False", Some("StoreTokensRefused")).await?;
    ensure!(condition(&stalled, "StoreReady").is_some_and(|said| said.message.contains("service.jwt_rbac")));
    ensure!(token(&namespace).await? != KEY, "the key was given away");
    change(&namespace, json!({"spec": {"vectorStore": {"qdrant": {"token": {"policy": "Auto"}}}}})).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    eventually("the key", PATIENCE, || async {
        ensure!(token(&namespace).await? == KEY, "still a token");
        Ok(())
    })
    .await?;
    // Another server key is a Secret's change, and follows it.
    change_key(&namespace, &format!("{KEY} ")).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await.map(drop)
}
