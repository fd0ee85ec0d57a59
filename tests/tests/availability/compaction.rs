//! etcd forgets what was before: as a cluster's API server makes it do every five minutes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    api_server::ApiServer,
    cluster::eventually,
    front::Front,
    operator::{PATIENCE, wait_for},
    proxy::Network,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, WatchEvent, WatchParams},
};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{SETTLED, Stage};

/// Longer than anything here, so that no relist is that of a leader that begins.
const LEASE: Duration = Duration::from_mins(1);

/// What an API server says of a watch from a version on.
async fn watched_from(api: &Api<ContextManager>, version: &str) -> Result<Option<u16>> {
    let params = WatchParams::default().timeout(5);
    let stream = api.watch(&params, version).await?;
    match std::pin::pin!(stream).next().await {
        Some(Ok(WatchEvent::Error(status)) | Err(kube::Error::Api(status))) => Ok(Some(status.code)),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_has_forgotten_is_listed_anew_and_nothing_is_missed() -> Result<()> {
    let stage = Stage::set("compacted").await?;
    // The first one's watch cache remembers more than etcd.
    let server = ApiServer::start(&["--watch-cache=false"]).await?;
    let front = Front::before(server.config().await?).await?;
    let (mut replica, network) = stage.leader_behind(&front, LEASE).await?;
    let (configs, config) = (stage.namespace.api::<ConfigMap>(), names::config_map("other"));
    let lists = || ["contextmanagers", "configmaps"].map(|kind| front.count(|seen| seen.is_list(kind)));

    for (turn, interval, is_compacted) in [("kept", "7s", false), ("forgotten", "8s", true)] {
        let version = stage.resources().get("memory").await?.resource_version().context("a version")?;
        let before = lists();
        // It stands still, and what it would have heard is lost with its connections.
        replica.process.signal(Signal::SIGSTOP)?;
        network.set(Network::Cut);
        tokio::time::sleep(SETTLED).await;
        stage.change("memory", json!({"gc": {"interval": interval}})).await?;
        stage.namespace.make_resource(turn, json!({})).await?;
        configs.delete(&config, &DeleteParams::default()).await?;
        if is_compacted {
            let revision = server.compact().await?;
            let there = Api::namespaced(Client::try_from(server.config().await?)?, &stage.namespace.name);
            let said = watched_from(&there, &version).await?;
            println!("etcd forgot all before {revision}; a watch from {version} on is answered by {said:?}");
            ensure!(said == Some(410), "nothing is forgotten: {said:?}");
        }
        network.set(Network::Fine);
        replica.process.signal(Signal::SIGCONT)?;
        for name in ["memory", turn] {
            let found = wait_for(&stage.namespace, name, "Ready", "True", None).await;
            found.with_context(|| replica.process.logged())?;
        }
        let published = async || configs.get(&names::config_map("memory")).await;
        eventually("the changed configuration", PATIENCE, || async {
            let text = published().await?.data.unwrap_or_default().remove(names::CONFIG_FILE).unwrap_or_default();
            ensure!(text.contains(&format!("interval = \"{interval}\"")), "{text}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        let repaired = eventually("what was deleted meanwhile", PATIENCE, || configs.get(&config)).await;
        repaired.with_context(|| replica.process.logged())?;
        let anew: Vec<_> = lists().iter().zip(before).map(|(now, before)| now - before).collect();
        println!("{turn}: resources and ConfigMaps were listed {anew:?} times");
        ensure!(anew.iter().all(|lists| (*lists > 0) == is_compacted && *lists < 4), "{turn}: listed {anew:?} times");
    }
    ensure!(replica.said("Leading") == 1, "it led {} times", replica.said("Leading"));
    // Others want the lease.
    replica.process.terminate()
}
