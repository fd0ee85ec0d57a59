//! What a sidecar's sudden end must not cost: acknowledged writes, and the refusal of old signatures.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use context_manager_protocol::message::{Acknowledgment, Context as StoredContext};
use context_manager_tests::{client::Draft, sidecar::Sidecar};
use nix::sys::signal::Signal;
use serde_json::json;
use uuid::Uuid;

/// Kills the sidecar while four writers are busy, three times over, and looks for every write it acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_by_kill_9() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut acknowledged = BTreeSet::<Uuid>::new();
    for round in 0..3 {
        let mut sidecar = Sidecar::start(folder.path(), "").await?;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let client = sidecar.client();
                tokio::spawn(async move {
                    let client = client?;
                    let mut stored = Vec::new();
                    for number in 0.. {
                        let text = format!("round {round} writer {writer} number {number}");
                        let Ok(answer) =
                            client.post("/v1/contexts", &json!({"text": text, "level": "long_term"})).await
                        else {
                            break;
                        };
                        if answer.status == 201 {
                            stored.push(answer.message::<Acknowledgment>()?.id);
                        }
                    }
                    anyhow::Ok(stored)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        sidecar.signal(Signal::SIGKILL)?;
        sidecar.wait(Duration::from_secs(5)).await?;
        for writer in writers {
            acknowledged.extend(writer.await??);
        }
    }
    assert!(acknowledged.len() >= 30, "only {} writes were acknowledged; the suite proves nothing", acknowledged.len());

    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    let mut lost = Vec::new();
    for id in &acknowledged {
        let answer = client.get(&format!("/v1/contexts/{id}")).await?;
        if answer.status != 200 || answer.message::<StoredContext>()?.id != *id {
            lost.push(id);
        }
    }
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
    println!("{} writes acknowledged before three kills, 0 lost", acknowledged.len());
    Ok(())
}

#[tokio::test]
async fn a_signature_from_before_the_restart_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = Sidecar::start(folder.path(), "").await?;
    drop(first);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let second = Sidecar::start(folder.path(), "").await?;
    let draft = Draft { clock_skew: -5, ..Draft::new("GET", "/v1/contexts/stats", Vec::new()) };
    let problem = second.client()?.send(draft).await?.problem()?;
    assert_eq!((problem.status, problem.code.as_str()), (401, "timestamp-before-start"));
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_sidecar_soon_and_cleanly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start(folder.path(), "").await?;
    let answer = sidecar.client()?.post("/v1/contexts", &json!({"text": "before the end"})).await?;
    let id = answer.message::<Acknowledgment>()?.id;
    sidecar.signal(Signal::SIGTERM)?;
    let code = sidecar.wait(Duration::from_secs(5)).await?;
    assert_eq!(code, Some(0), "{}", sidecar.log()?);

    let next = Sidecar::start(folder.path(), "").await?;
    let found = next.client()?.get(&format!("/v1/contexts/{id}")).await?;
    assert_eq!(found.message::<StoredContext>()?.text, "before the end");
    Ok(())
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_directory_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = Sidecar::start(folder.path(), "").await?;
    let mut second = Sidecar::spawn(folder.path(), "")?;
    let code = second.wait(Duration::from_secs(10)).await.context("the second sidecar should give up")?;
    assert_ne!(code, Some(0));
    let log = second.log()?;
    assert!(log.contains("another sidecar"), "{log}");
    assert_eq!(first.client()?.get("/v1/contexts/stats").await?.status, 200);
    Ok(())
}
