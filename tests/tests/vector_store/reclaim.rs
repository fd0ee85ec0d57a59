//! What becomes of the contexts when their resource is deleted.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::controller::{ABANDON, COPIES_FINALIZER, FINALIZER};
use context_manager_protocol::names;
use context_manager_qdrant::Found;
use context_manager_tests::{
    cluster::{Namespace, eventually},
    operator::{Operator, PATIENCE, RESYNC, condition, provision},
    unreadable::Unreadable,
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::server::{Qdrant, change, count, event, namespace, store, with_key, with_tokens};

fn deleting(server: &Qdrant, more: Value) -> Value {
    let mut spec = server.spec(more);
    spec["reclaimPolicy"] = json!("Delete");
    spec
}

async fn delete(namespace: &Namespace, name: &str) -> Result<()> {
    namespace.api::<ContextManager>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

async fn gone(namespace: &Namespace, name: &str) -> Result<()> {
    eventually("the end of the resource", PATIENCE, || async {
        let found = namespace.resources().get_opt(name).await?;
        ensure!(
            found.is_none(),
            "it is there: {:?}",
            found.map(|found| found.data["status"]["conditions"].to_string())
        );
        Ok(())
    })
    .await
}

/// Waits until a deletion says what it waits for.
async fn waits(namespace: &Namespace, reason: &str) -> Result<String> {
    eventually(reason, PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let ready = condition(&found, "Ready").context("a condition")?;
        let of_the_deletion = ready.message.contains("the deletion waits");
        ensure!(ready.status == "False" && ready.reason == reason && of_the_deletion, "{ready:?}");
        Ok(ready.message)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_of_its_own_is_dropped_with_the_resource_and_a_retained_one_never() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_tokens).await?);
    let namespace = namespace(&operator, "drop").await?;
    let resource = provision(&namespace, "memory", deleting(&server, json!({}))).await?;
    ensure!(resource.finalizers() == [FINALIZER], "{:?}", resource.finalizers());
    let kept = provision(&namespace, "kept", server.spec(json!({}))).await?;
    ensure!(kept.finalizers().is_empty(), "a retained collection needs no finalizer");
    let own = server.collection(&namespace)?;
    store(&own, &namespace.name, "agent", None).await?;
    for name in ["memory", "kept"] {
        delete(&namespace, name).await?;
        gone(&namespace, name).await?;
    }
    ensure!(own.inspect().await? == Found::Nothing, "the collection is there");
    ensure!(event(&namespace, "DataDeleted").await?.contains("Dropped the collection"));
    let retained = server.named(&format!("ctx_{}_kept", namespace.name))?;
    ensure!(retained.inspect().await? == Found::Fitting, "a retained collection is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_shared_collection_only_the_own_contexts_go() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let (one, other) = (namespace(&operator, "share-a").await?, namespace(&operator, "share-b").await?);
    let spec = deleting(&server, json!({"collection": "shared"}));
    for (namespace, name) in [(&one, "memory"), (&one, "second"), (&other, "memory")] {
        provision(namespace, name, spec.clone()).await?;
    }
    let shared = server.named("shared")?;
    store(&shared, &one.name, "agent", None).await?;
    store(&shared, &other.name, "agent", None).await?;
    // Another resource of the namespace uses the same contexts.
    delete(&one, "memory").await?;
    gone(&one, "memory").await?;
    ensure!(event(&one, "DataKept").await?.contains("second"));
    ensure!(count(&shared).await? == 2, "contexts that are in use are gone");
    delete(&one, "second").await?;
    gone(&one, "second").await?;
    ensure!(count(&shared).await? == 1, "the contexts of the last resource of a namespace stay, or others went");
    // Somebody who is no resource of this cluster: the collection stays for them.
    store(&shared, "elsewhere", "agent", None).await?;
    delete(&other, "memory").await?;
    gone(&other, "memory").await?;
    ensure!(count(&shared).await? == 1, "contexts of others are gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_stay_while_a_resource_that_cannot_be_read_may_use_them() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "unread").await?;
    let spec = deleting(&server, json!({"collection": "halves"}));
    provision(&namespace, "memory", spec.clone()).await?;
    let odd = Unreadable::make(&namespace, "odd", spec).await?;
    let halves = server.named("halves")?;
    store(&halves, &namespace.name, "agent", None).await?;
    delete(&namespace, "memory").await?;
    let message = waits(&namespace, "OthersUnreadable").await?;
    ensure!(message.contains(&format!("odd of namespace {}", namespace.name)) && message.contains("spec"), "{message}");
    ensure!(event(&namespace, "DeletionWaits").await?.contains("odd"));
    tokio::time::sleep(2 * RESYNC).await;
    ensure!(count(&halves).await? == 1, "contexts that are in use are gone");
    // It is in the way no longer than it is there.
    drop(odd);
    gone(&namespace, "memory").await?;
    ensure!(halves.inspect().await? == Found::Nothing, "the collection is there");
    Ok(())
}

/// A server has more names than one.
#[tokio::test(flavor = "multi_thread")]
async fn contexts_stay_while_a_resource_may_use_them_by_another_name_of_the_server() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let (one, other) = (namespace(&operator, "names-a").await?, namespace(&operator, "names-b").await?);
    let spec = deleting(&server, json!({"collection": "named"}));
    let mut renamed = spec.clone();
    renamed["vectorStore"]["qdrant"]["url"] = json!(format!("http://localhost:{}", server.port()));
    provision(&one, "memory", spec.clone()).await?;
    provision(&one, "second", renamed.clone()).await?;
    provision(&other, "memory", renamed).await?;
    let named = server.named("named")?;
    store(&named, &one.name, "agent", None).await?;
    delete(&one, "memory").await?;
    let message = waits(&one, "OthersPossible").await?;
    println!("{message}");
    for part in [&format!("second of namespace {}", one.name), "http://localhost:", "the same url", ABANDON] {
        ensure!(message.contains(part), "{part:?} is not in {message:?}");
    }
    ensure!(!message.contains(&other.name), "what another namespace stores is not in question: {message}");
    ensure!(event(&one, "DeletionWaits").await?.contains("second"));
    tokio::time::sleep(2 * RESYNC).await;
    ensure!(count(&named).await? == 1, "contexts that may be in use are gone");
    // None of two that go together waits for the other. The collection stays for the other namespace, which has nothing in it yet.
    delete(&one, "second").await?;
    for name in ["memory", "second"] {
        gone(&one, name).await?;
    }
    ensure!(named.inspect().await? == Found::Fitting && count(&named).await? == 0, "the contexts are there");

    // The same when nobody in question shares its namespace.
    provision(&one, "alone", spec).await?;
    store(&named, &one.name, "agent", None).await?;
    delete(&one, "alone").await?;
    gone(&one, "alone").await?;
    ensure!(named.inspect().await? == Found::Fitting && count(&named).await? == 0, "it was dropped, or left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_what_cannot_be_read_waits_and_says_so_once() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "unread").await?;
    let _odd = Unreadable::make(&namespace, "odd", deleting(&server, json!({}))).await?;
    let resources = namespace.resources();
    let change = async |metadata: Value| {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        resources.patch("odd", &PatchParams::default(), &patch).await
    };
    change(json!({"finalizers": [FINALIZER]})).await?;
    resources.delete("odd", &DeleteParams::default()).await?;
    let said = eventually("what it waits for", PATIENCE, || async {
        let found = resources.get("odd").await?;
        let conditions = found.data["status"]["conditions"].to_string();
        ensure!(conditions.contains("the deletion waits") && conditions.contains(ABANDON), "{conditions}");
        Ok(found.resource_version())
    })
    .await?;
    tokio::time::sleep(4 * RESYNC).await;
    ensure!(resources.get("odd").await?.resource_version() == said, "it is said again and again");
    change(json!({"annotations": {ABANDON: "true"}})).await?;
    gone(&namespace, "odd").await
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_of_allowed_namespaces_go_with_the_resource_and_not_before() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let (owner, guest) = (namespace(&operator, "host").await?, namespace(&operator, "guest").await?);
    let mut spec = deleting(&server, json!({"collection": "hosted"}));
    provision(&guest, "memory", spec.clone()).await?;
    spec["allowedNamespaces"] = json!([guest.name]);
    let resource = provision(&owner, "memory", spec).await?;
    ensure!(resource.finalizers() == [FINALIZER, COPIES_FINALIZER], "{:?}", resource.finalizers());
    let hosted = server.named("hosted")?;
    for tenant in [&owner.name, &guest.name] {
        store(&hosted, tenant, "agent", None).await?;
    }
    // The guest's contexts may have been stored by pods of either resource.
    delete(&guest, "memory").await?;
    gone(&guest, "memory").await?;
    ensure!(event(&guest, "DataKept").await?.contains("memory") && count(&hosted).await? == 2, "contexts are gone");
    let pod = json!({
        "metadata": {"name": "agent", "labels": {names::INJECTED: "memory", names::INJECTED_FROM: owner.name}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "agent", "image": "agent:1"}]},
    });
    let _: Pod = guest.make(&pod).await?;
    delete(&owner, "memory").await?;
    ensure!(waits(&owner, "PodsRemain").await?.contains("1 pods"));
    ensure!(count(&hosted).await? == 2, "contexts of a pod that runs are gone");
    guest.api::<Pod>().delete("agent", &DeleteParams::default().grace_period(0)).await?;
    gone(&owner, "memory").await?;
    ensure!(hosted.inspect().await? == Found::Nothing, "{} contexts are left", count(&hosted).await?);
    let copy = names::granted(&owner.name, "memory");
    ensure!(guest.api::<Secret>().get_opt(&copy).await?.is_none(), "the copy is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_server_that_is_away_until_it_comes_or_a_person_gives_up() -> Result<()> {
    let (operator, mut server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let (waiting, abandoned) = (namespace(&operator, "wait").await?, namespace(&operator, "abandon").await?);
    for namespace in [&waiting, &abandoned] {
        provision(namespace, "memory", deleting(&server, json!({"timeout": "1s"}))).await?;
    }
    server.stop().await?;
    for namespace in [&waiting, &abandoned] {
        delete(namespace, "memory").await?;
        let message = waits(namespace, "StoreUnreachable").await?;
        ensure!(message.contains(ABANDON), "{message}");
        ensure!(event(namespace, "DeletionWaits").await?.contains(ABANDON));
    }
    tokio::time::sleep(2 * RESYNC).await;
    ensure!(waiting.api::<ContextManager>().get_opt("memory").await?.is_some(), "it did not wait");
    change(&abandoned, json!({"metadata": {"annotations": {ABANDON: "true"}}})).await?;
    gone(&abandoned, "memory").await?;
    server.restart().await?;
    gone(&waiting, "memory").await?;
    ensure!(server.collection(&waiting)?.inspect().await? == Found::Nothing);
    ensure!(server.collection(&abandoned)?.inspect().await? == Found::Fitting, "abandoned is not deleted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_stay_as_long_as_a_pod_uses_them_or_the_resource_is_suspended() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "used").await?;
    provision(&namespace, "memory", deleting(&server, json!({}))).await?;
    let pod = json!({
        "metadata": {"name": "agent", "labels": {names::INJECTED: "memory"}},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "agent", "image": "agent:1"}]},
    });
    let _: Pod = namespace.make(&pod).await?;
    delete(&namespace, "memory").await?;
    ensure!(waits(&namespace, "PodsRemain").await?.contains("1 pods"));
    change(&namespace, json!({"spec": {"suspend": true}})).await?;
    waits(&namespace, "Suspended").await?;
    namespace.api::<Pod>().delete("agent", &DeleteParams::default().grace_period(0)).await?;
    tokio::time::sleep(2 * RESYNC).await;
    ensure!(server.collection(&namespace)?.inspect().await? == Found::Fitting, "a suspended resource deleted");
    change(&namespace, json!({"spec": {"suspend": false}})).await?;
    gone(&namespace, "memory").await?;
    ensure!(server.collection(&namespace)?.inspect().await? == Found::Nothing);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_finalizer_follows_the_policy_also_while_the_resource_is_deleted() -> Result<()> {
    let (operator, mut server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let namespace = namespace(&operator, "policy").await?;
    provision(&namespace, "memory", deleting(&server, json!({"timeout": "1s"}))).await?;
    let held = async |wanted: bool| {
        eventually("the finalizer", PATIENCE, || async {
            let found = namespace.api::<ContextManager>().get("memory").await?;
            ensure!(found.finalizers().contains(&FINALIZER.to_owned()) == wanted, "{:?}", found.finalizers());
            Ok::<_, anyhow::Error>(())
        })
        .await
    };
    change(&namespace, json!({"spec": {"reclaimPolicy": "Retain"}})).await?;
    held(false).await?;
    // The finalizers of others stay as they are.
    change(
        &namespace,
        json!({"metadata": {"finalizers": ["example.com/theirs"]}, "spec": {"reclaimPolicy": "Delete"}}),
    )
    .await?;
    held(true).await?;
    server.stop().await?;
    delete(&namespace, "memory").await?;
    waits(&namespace, "StoreUnreachable").await?;
    change(&namespace, json!({"spec": {"reclaimPolicy": "Retain"}})).await?;
    held(false).await?;
    let left = namespace.api::<ContextManager>().get("memory").await?;
    ensure!(left.finalizers() == ["example.com/theirs"], "{:?}", left.finalizers());
    change(&namespace, json!({"metadata": {"finalizers": null}})).await?;
    gone(&namespace, "memory").await?;
    server.restart().await?;
    ensure!(server.collection(&namespace)?.inspect().await? == Found::Fitting, "retained data is gone");
    Ok(())
}
