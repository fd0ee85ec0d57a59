//! A disk that is full, by the sidecar's own writes or by something else that takes the very last byte while it writes: writes are refused
//! with a code that names the remedy, reads go on, what was acknowledged is there once, and with room again writes are taken without a restart.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_journal::{Journal, Options};
use context_manager_protocol::{
    message::{Acknowledgment, ContextResponse},
    problem::Problem,
};
use context_manager_tests::{
    client::{Answer, Client, Draft},
    disk::{Disk, Kind},
    qdrant::Qdrant,
    sidecar::Sidecar,
    tally::{Tally, Writers, drained},
};
use nix::sys::signal::Signal;
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than a turn of the upkeep, which flushes.
const A_TURN: Duration = Duration::from_secs(7);
/// Bytes of metadata of each context, so that a disk fills soon.
const FILLING: usize = 15_000;
/// What stays free beside the embedded store.
const RESERVE: u64 = 128 << 20;
/// What something else leaves free of a disk: the reserve, and some more.
const ROOM: u64 = 140 << 20;

/// Stores from four writers until one is refused; returns why. No text is ever sent twice.
async fn fill(client: &Client, tally: &mut Tally) -> Result<Problem> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let started = Instant::now();
    loop {
        let writes = (0..4).map(|_| {
            let text = format!("text {}", NUMBER.fetch_add(1, Ordering::Relaxed));
            async move { anyhow::Ok((store(client, &text).await?, text)) }
        });
        let mut refused = None;
        for written in futures::future::join_all(writes).await {
            let (answer, text) = written?;
            if matches!(answer.status, 201 | 202) {
                tally.journaled += usize::from(answer.status == 202);
                tally.acknowledged.insert(text, answer.message::<Acknowledgment>()?.id);
            } else {
                tally.failed += 1;
                refused = Some(answer.problem()?);
            }
        }
        if let Some(refused) = refused {
            return Ok(refused);
        }
        ensure!(started.elapsed() < 2 * PATIENCE, "the disk is not full after {} writes", tally.acknowledged.len());
    }
}

async fn store(client: &Client, text: &str) -> Result<Answer> {
    let metadata = json!({"filling": "x".repeat(FILLING)});
    client.post("/v1/contexts", &json!({"text": text, "level": "long_term", "metadata": metadata})).await
}

fn is_disk_full(problem: &Problem) -> Result<()> {
    ensure!(problem.status == 507 && problem.code.as_str() == "disk-full", "{problem:?}");
    ensure!(problem.detail.contains("make the volume larger"), "{}", problem.detail);
    Ok(())
}

/// A write is taken, without anything else being done.
async fn takes_writes(client: &Client, tally: &mut Tally) -> Result<()> {
    let text = format!("there is room again, after {} writes", tally.acknowledged.len());
    let stored = store(client, &text).await?;
    ensure!(matches!(stored.status, 201 | 202), "{}", String::from_utf8_lossy(&stored.body));
    tally.acknowledged.insert(text, stored.message::<Acknowledgment>()?.id);
    Ok(())
}

async fn judge(fault: &str, sidecar: &Sidecar, tally: &Tally) -> Result<()> {
    let verdict = tally.verify(&sidecar.client()?).await?;
    println!("{fault}: {verdict}");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty(), "{fault}: {:?}", (verdict.lost, verdict.doubled));
    ensure!(verdict.acknowledged >= 20, "too few writes to prove anything: {verdict}");
    Ok(())
}

/// Waits until writers have stored some contexts, however busy the machine is.
async fn under_load(sidecar: &Sidecar) -> Result<()> {
    const STORED: &str = "context_manager_store_duration_seconds_count";
    let (started, before) = (Instant::now(), sidecar.metric(STORED).await?);
    while sidecar.metric(STORED).await? < before + 50.0 {
        ensure!(started.elapsed() < PATIENCE, "the writers store nothing: {}", sidecar.log()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn embedded(volume: &Path) -> String {
    format!("[store.embedded]\npath = \"{}\"\n", volume.join("memory").display())
}

/// Killed by the test; its log is part of what a failure says.
async fn killed(mut sidecar: Sidecar) -> Result<()> {
    sidecar.signal(Signal::SIGKILL)?;
    sidecar.wait(Duration::from_secs(10)).await?;
    Ok(())
}

async fn fills_up(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(kind, &volume, 320)?;
    let config = embedded(&volume);
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    disk.fill_up_to(ROOM)?;
    let mut tally = Tally::default();
    is_disk_full(&fill(&client, &mut tally).await?)?;
    let stayed = disk.free()?;

    // Everybody keeps trying for longer than a turn of the upkeep; reads go on, and a deletion is taken.
    let started = Instant::now();
    while started.elapsed() < A_TURN {
        is_disk_full(&fill(&client, &mut tally).await?)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let search = json!({"query": "text 1", "limit": 1});
    let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
    ensure!(found.contexts.len() == 1 && found.degraded.is_empty(), "{:?}", found.degraded);
    let (text, id) = tally.acknowledged.pop_first().context("one was acknowledged")?;
    let deleted = client.send(Draft::new("DELETE", &format!("/v1/contexts/{id}"), "")).await?;
    ensure!(deleted.status == 200, "{}", String::from_utf8_lossy(&deleted.body));
    ensure!(client.get(&format!("/v1/contexts/{id}")).await?.status == 404, "{text:.40} is still there");
    // Flushes give room back, and take it; for what follows it stays below the reserve.
    disk.fill_up_to(RESERVE - (8 << 20))?;
    let health = sidecar.admin_page("/health").await?;
    let says = health.contains("writes are refused") && health.contains("\"status\":\"degraded\"");
    ensure!(says, "{} bytes are free, and {health}: {}", disk.free()?, sidecar.log()?);
    ensure!(sidecar.metric("context_manager_disk_refused_writes_total").await? > 0.0, "no count of refusals");
    judge("disk of the store full", &sidecar, &tally).await?;

    // Killed with the disk full, it starts again: the reserve is enough for that.
    killed(sidecar).await?;
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    judge("killed with the disk full", &sidecar, &tally).await?;
    is_disk_full(&fill(&client, &mut tally).await?)?;

    match kind {
        Kind::Tmpfs => disk.resize(640)?,
        Kind::Ext4 => disk.clear()?,
    }
    takes_writes(&client, &mut tally).await?;
    judge("room again", &sidecar, &tally).await?;
    println!("{} MiB stayed free when writes were refused", stayed >> 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_in_memory_refuses_writes_and_ends_nothing() -> Result<()> {
    fills_up(Kind::Tmpfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_ends_nothing() -> Result<()> {
    fills_up(Kind::Ext4).await
}

/// Something else takes the very last byte under load, three times. Whether the sidecar lives through that is the engine's luck, which
/// docs/storage.md says; what was acknowledged is there in any case.
async fn to_the_last_byte(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(kind, &volume, 400)?;
    let config = embedded(&volume);
    let mut tally = Tally::default();
    let mut sidecar = Sidecar::start(folder.path(), &config).await?;
    for round in 0..3 {
        let client = sidecar.client()?;
        let writers = Writers::start(&format!("round {round}"), 4, &client);
        under_load(&sidecar).await?;
        disk.fill()?;
        tokio::time::sleep(A_TURN).await;
        tally.add(writers.stop().await?);
        if let Some(status) = sidecar.ended()? {
            println!("{kind:?}, round {round}: it ended by {status} at {} free bytes", disk.free()?);
        } else {
            is_disk_full(&store(&client, "one more").await?.problem()?)?;
            let list = client.get("/v1/contexts?limit=10").await?;
            ensure!(list.status == 200, "{}", String::from_utf8_lossy(&list.body));
            println!("{kind:?}, round {round}: it lives at {} free bytes", disk.free()?);
        }
        if round == 1 || sidecar.ended()?.is_some() {
            if sidecar.ended()?.is_none() {
                killed(sidecar).await?;
            }
            // Nothing can be opened on a full disk, and nothing is harmed by trying.
            let mut refused = Sidecar::spawn(folder.path(), &config)?;
            let code = refused.wait(PATIENCE).await?;
            let log = refused.log()?;
            ensure!(code == Some(1) && log.contains("make the volume larger"), "{code:?}: {log}");
            disk.clear()?;
            sidecar = Sidecar::start(folder.path(), &config).await?;
        } else {
            disk.clear()?;
        }
        takes_writes(&sidecar.client()?, &mut tally).await?;
        judge(&format!("{kind:?}, round {round}"), &sidecar, &tally).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_of_a_disk_in_memory_is_taken_under_load_and_nothing_is_lost() -> Result<()> {
    to_the_last_byte(Kind::Tmpfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_is_taken_under_load_and_nothing_is_lost() -> Result<()> {
    to_the_last_byte(Kind::Ext4).await
}

#[tokio::test]
async fn a_store_is_not_opened_where_there_is_no_room_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(Kind::Tmpfs, &volume, 32)?;
    let config = embedded(&volume);
    let mut sidecar = Sidecar::spawn(folder.path(), &config)?;
    let code = sidecar.wait(PATIENCE).await?;
    let log = sidecar.log()?;
    ensure!(code == Some(1) && log.contains("make the volume larger"), "{code:?}: {log}");
    disk.resize(320)?;
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    takes_writes(&sidecar.client()?, &mut Tally::default()).await
}

/// A Qdrant server that is away, and a sidecar with its journal on a disk.
async fn journaling(folder: &Path, volume: &Path) -> Result<(Qdrant, Sidecar, String)> {
    let mut server = Qdrant::start(&folder.join("qdrant")).await?;
    let config = format!(
        "[store.qdrant]\nurl = \"http://{}\"\ncollection = \"memory\"\ntimeout = \"2s\"\n[journal]\npath = \"{}\"\n\
         [circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n",
        server.address(),
        volume.join("journal").display()
    );
    let sidecar = Sidecar::start(folder, &config).await?;
    server.kill()?;
    Ok((server, sidecar, config))
}

async fn all_drained(folder: &Path, sidecar: &Sidecar) -> Result<()> {
    let since = Instant::now();
    drained(&sidecar.client()?, PATIENCE).await.with_context(|| {
        let server = std::fs::read_to_string(folder.join("qdrant/log")).unwrap_or_default();
        format!("sidecar: {}\nserver: {server}", sidecar.log().unwrap_or_default())
    })?;
    println!("drained after {} ms", since.elapsed().as_millis());

    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_journal_refuses_writes_and_drains_when_the_store_is_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(Kind::Tmpfs, &volume, 6)?;
    disk.fill_up_to(3 << 20)?;
    let (mut server, sidecar, _) = journaling(folder.path(), &volume).await?;
    let client = sidecar.client()?;
    let mut tally = Tally::default();
    is_disk_full(&fill(&client, &mut tally).await?)?;
    ensure!(tally.journaled >= 20, "only {} writes were journaled", tally.journaled);
    let health = sidecar.admin_page("/health").await?;
    ensure!(health.contains("the disk of the journal is full"), "{health}");
    server.restart().await?;
    all_drained(folder.path(), &sidecar).await?;
    takes_writes(&client, &mut tally).await?;
    judge("disk of the journal full", &sidecar, &tally).await
}

/// The very last byte of the journal's disk is taken under load; the sidecar is killed, started on the full disk, and the store comes
/// back before there is room again.
async fn journal_to_the_last_byte(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(kind, &volume, 24)?;
    let (mut server, sidecar, config) = journaling(folder.path(), &volume).await?;
    let client = sidecar.client()?;
    let writers = Writers::start("before", 4, &client);
    under_load(&sidecar).await?;
    disk.fill()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tally = writers.stop().await?;
    is_disk_full(&store(&client, "one more").await?.problem()?)?;
    ensure!(client.get("/v1/contexts?limit=10").await?.status != 500, "reads fail");
    killed(sidecar).await?;
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    is_disk_full(&store(&client, "one more").await?.problem()?)?;
    server.restart().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    disk.clear()?;
    all_drained(folder.path(), &sidecar).await?;
    takes_writes(&client, &mut tally).await?;
    judge(&format!("last byte of the journal's disk taken, {kind:?}"), &sidecar, &tally).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_of_a_journals_disk_in_memory_is_taken_under_load_and_nothing_is_lost() -> Result<()> {
    journal_to_the_last_byte(Kind::Tmpfs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_of_a_journals_disk_is_taken_under_load_and_nothing_is_lost() -> Result<()> {
    journal_to_the_last_byte(Kind::Ext4).await
}

/// The journal by itself, without a reserve in front of it.
fn every_append_is_whole_or_refused(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let volume = folder.path().join("volume");
    let disk = Disk::mount(kind, &volume, 12)?;
    disk.fill_up_to(6 << 20)?;
    let options = || Options { segment_bytes: 256 << 10, ..Options::new(volume.join("journal")) };
    let (journal, _) = Journal::open(options())?;
    let mut acknowledged = Vec::new();
    let payload = |number: u32| [number.to_le_bytes().as_slice(), &vec![7; 10_000]].concat();
    let mut refused = 0;
    for number in 0..6_000 {
        match journal.append(&payload(number)) {
            Ok(_) => acknowledged.push(payload(number)),
            Err(error) if error.is_disk_full() => refused += 1,
            Err(error) => return Err(error.into()),
        }
        if refused > 20 {
            break;
        }
    }
    ensure!(refused > 20 && acknowledged.len() > 100, "{refused} refused of {}", acknowledged.len());
    disk.fill()?;
    ensure!(journal.append(&payload(9_999)).is_err_and(|error| error.is_disk_full()), "taken on a full disk");
    drop(journal);
    // It opens on the full disk, with all that was acknowledged.
    let (journal, opened) = Journal::open(options())?;
    let read: Vec<Vec<u8>> = opened.records.into_iter().map(|record| record.payload).collect();
    ensure!(read == acknowledged, "{} of {} are there", read.len(), acknowledged.len());
    disk.clear()?;
    let number = journal.append(&payload(10_000))?;
    journal.complete(number)?;
    ensure!(journal.usage().bytes < 100_000, "the space was not given back: {:?}", journal.usage());
    println!("{kind:?}: {} appended, {refused} refused", acknowledged.len());
    Ok(())
}

#[test]
fn every_append_to_a_full_disk_is_whole_or_refused() -> Result<()> {
    every_append_is_whole_or_refused(Kind::Tmpfs)?;
    every_append_is_whole_or_refused(Kind::Ext4)
}
