//! Reload on real files, also in the way of a projected volume: a directory behind the symbolic link `..data`.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use context_manager_protocol::keyring::KeyRing;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    args::Args,
    testing::{eventually, key, open_engine},
};
use clap::Parser as _;
use tempfile::TempDir;

/// Files as the kubelet projects them: `config.toml -> ..data/config.toml`, `..data -> ..1`.
struct Volume {
    directory: TempDir,
    generation: usize,
}

impl Volume {
    fn new(config: &str, keys: &KeyRing) -> Self {
        let mut volume = Self { directory: TempDir::new().expect("a directory"), generation: 0 };
        volume.swap(config, &keys.to_json());
        for name in ["config.toml", "keys.json"] {
            symlink(Path::new("..data").join(name), volume.path(name)).expect("a link");
        }
        volume
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Publishes new contents at once, by renaming a link over `..data`.
    fn swap(&mut self, config: &str, keys: &[u8]) {
        self.generation += 1;
        let contents = format!("..{}", self.generation);
        fs::create_dir(self.path(&contents)).expect("a directory");
        fs::write(self.path(&contents).join("config.toml"), config).expect("a file");
        fs::write(self.path(&contents).join("keys.json"), keys).expect("a file");
        symlink(&contents, self.path("..data_tmp")).expect("a link");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("an atomic swap");
    }
}

struct Fixture {
    volume: Volume,
    reload: Reload,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    data: TempDir,
}

fn toml(data: &Path, rest: &str) -> String {
    format!("{rest}\n[keys]\nfile = \"keys.json\"\n[store.embedded]\npath = {:?}\n", data.join("store"))
}

async fn fixture() -> Fixture {
    let data = TempDir::new().expect("a directory");
    let volume = Volume::new(&toml(data.path(), "generation = 1"), &KeyRing::new(key("k1")));
    let config_file = volume.path("config.toml");
    let args = ["context-manager-sidecar", "--config", config_file.to_str().expect("UTF-8")];
    let settings =
        Settings::new(Args::parse_from(args), context_manager_protocol::config::EnvironmentSecrets::default());
    let settings = settings.expect("valid settings");
    let (config, keys) = settings.load().expect("valid files");
    let metrics = Arc::new(Metrics::new());
    let engine = open_engine(&config, &metrics).await;
    let live = Arc::new(Live::new(config, keys));
    let reload = Reload::new(
        settings,
        Arc::clone(&live),
        Arc::clone(&metrics),
        engine,
        (logging::Filter::none(), Telemetry::default()),
    );
    Fixture { volume, reload, live, metrics, data }
}

fn key_ids(live: &Live) -> Vec<String> {
    live.keys().keys().map(|key| key.id().to_owned()).collect()
}

#[tokio::test]
async fn a_swapped_volume_is_taken_over_by_the_watch_alone() {
    let Fixture { mut volume, reload, live, metrics, data } = fixture().await;
    let stop = CancellationToken::new();
    let never = Duration::from_hours(1);
    let task = tokio::spawn(reload.poll_every(never).run(stop.clone()));
    // The first turn of the loop sets up the watch; what changes before it is read by that turn itself.
    let ring = KeyRing::with(key("k1"), Some(key("k2")), Vec::new()).expect("distinct ids");
    tokio::time::sleep(Duration::from_millis(300)).await;
    volume.swap(&toml(data.path(), "generation = 2\n[gc]\nbatch_size = 7"), &ring.to_json());
    eventually("the reload", || live.config().generation == 2 && key_ids(&live) == ["k1", "k2"]).await;
    assert_eq!(live.config().gc.batch_size, 7);

    // A second swap proves that the watch is on the directory and not on the file that was replaced.
    volume.swap(&toml(data.path(), "generation = 3"), &KeyRing::new(key("k2")).to_json());
    eventually("the second reload", || live.config().generation == 3 && key_ids(&live) == ["k2"]).await;
    assert_eq!(metrics.files.generation.get(), 3);
    assert_eq!(metrics.files.reloads.get(WatchedFile::Keys), 2);
    assert!(metrics.render().expect("metrics").contains("context_manager_key_loaded{key_id=\"k2\",role=\"active\"} 1"));

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), task).await.expect("a prompt end").expect("no panic");
}

#[tokio::test]
async fn the_poll_finds_what_the_watch_did_not_report() {
    let Fixture { volume, reload, live, data, .. } = fixture().await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(reload.poll_every(Duration::from_millis(20)).run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Nothing happens in the watched directory itself: the file behind the links is written in place.
    fs::write(volume.path("..1/config.toml"), toml(data.path(), "generation = 9")).expect("a file");
    eventually("the reload", || live.config().generation == 9).await;
    stop.cancel();
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_one_in_force_and_is_reported_once() {
    let Fixture { mut volume, mut reload, live, metrics, data } = fixture().await;
    let failures = |file| metrics.files.reload_failures.get(file);
    let successful = |file| metrics.files.last_reload_successful.of(file).get();
    reload.check().await;

    volume.swap(
        &toml(data.path(), "generation = 2\n[gc]\nbatch_size = 0"),
        b"{\"active\": {\"id\": \"k1\", \"key\": 5}}",
    );
    for _ in 0..3 {
        reload.check().await;
    }
    assert_eq!((live.config().generation, key_ids(&live)), (1, vec!["k1".to_owned()]));
    for file in [WatchedFile::Config, WatchedFile::Keys] {
        assert_eq!((failures(file), successful(file)), (1, 0), "{file:?}");
        assert!(live.error(file).is_some());
    }

    fs::remove_file(volume.path("..data")).expect("a missing volume");
    reload.check().await;
    reload.check().await;
    assert_eq!((failures(WatchedFile::Config), failures(WatchedFile::Keys)), (2, 2));

    volume.swap(&toml(data.path(), "generation = 3"), &KeyRing::new(key("k3")).to_json());
    reload.check().await;
    assert_eq!((live.config().generation, key_ids(&live)), (3, vec!["k3".to_owned()]));
    for file in [WatchedFile::Config, WatchedFile::Keys] {
        assert_eq!(successful(file), 1);
        assert_eq!(live.error(file), None);
    }
}

#[tokio::test]
async fn a_configuration_that_fails_for_what_is_beside_it_is_tried_until_it_works_and_said_once() {
    let Fixture { mut volume, mut reload, live, metrics, data } = fixture().await;
    let failures = || metrics.files.reload_failures.get(WatchedFile::Config);
    reload.check().await;
    // The issuer writes its file after the configuration that names it.
    let ca = data.path().join("ca.pem");
    let api = format!(
        "generation = 2\n[embedding]\nprovider = \"open_ai\"\nurl = \"https://localhost/v1\"\nmodel = \"m\"\ndimensions = 384\n\
         on_model_change = \"re_embed\"\nca_file = {ca:?}"
    );
    volume.swap(&toml(data.path(), &api), &KeyRing::new(key("k1")).to_json());
    for _ in 0..3 {
        reload.check().await;
    }
    assert_eq!((live.config().generation, failures()), (1, 1), "{:?}", live.error(WatchedFile::Config));
    assert!(live.error(WatchedFile::Config).is_some());

    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
    fs::write(&ca, certificate).expect("a file");
    reload.check().await;
    assert_eq!((live.config().generation, failures()), (2, 1));
    assert_eq!(live.error(WatchedFile::Config), None);
    assert_eq!(metrics.files.last_reload_successful.of(WatchedFile::Config).get(), 1);
}

#[tokio::test]
async fn another_ca_in_the_configuration_is_taken_over_and_one_that_cannot_be_used_is_refused() {
    let Fixture { mut volume, mut reload, live, metrics, data } = fixture().await;
    reload.check().await;
    let mut write = |generation: i64, ca: &str| {
        let api = format!(
            "generation = {generation}\n[embedding]\nprovider = \"open_ai\"\nurl = \"https://localhost/v1\"\nmodel = \"m\"\n\
             dimensions = 384\nca = {ca:?}"
        );
        volume.swap(&toml(data.path(), &api), &KeyRing::new(key("k1")).to_json());
    };
    let certificate =
        || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem();
    for (generation, ca, in_force) in
        [(2, certificate(), 2), (3, "no certificate".to_owned(), 2), (4, certificate(), 4)]
    {
        write(generation, &ca);
        reload.check().await;
        assert_eq!(live.config().generation, in_force, "{:?}", live.error(WatchedFile::Config));
        assert_eq!(live.config().embedding.ca == Some(ca), generation == in_force);
    }
    assert_eq!(metrics.files.reload_failures.get(WatchedFile::Config), 1);
}

#[tokio::test]
async fn good_keys_are_taken_over_beside_a_bad_configuration() {
    let Fixture { mut volume, mut reload, live, data, .. } = fixture().await;
    reload.check().await;
    volume.swap(&toml(data.path(), "generation = \"two\""), &KeyRing::new(key("k2")).to_json());
    reload.check().await;
    assert_eq!((live.config().generation, key_ids(&live)), (1, vec!["k2".to_owned()]));
}

#[tokio::test]
async fn what_needs_a_restart_stays_and_the_rest_is_taken_over() {
    let Fixture { mut volume, mut reload, live, data, .. } = fixture().await;
    reload.check().await;
    let before = live.config();
    let elsewhere = data.path().join("elsewhere");
    let rest = "generation = 2\n[protocol]\nport = 9999\nmax_in_flight = 3\n[admin]\nport = 9998";
    volume.swap(&toml(&elsewhere, rest), &KeyRing::new(key("k1")).to_json());
    reload.check().await;
    let now = live.config();
    assert_eq!((now.generation, now.protocol.max_in_flight), (2, 3));
    assert_eq!(
        (now.protocol.port, now.admin.port, &now.store),
        (before.protocol.port, before.admin.port, &before.store)
    );
    let (_, kept) = keep_until_restart(
        &before,
        reload.settings.config(&fs::read(volume.path("config.toml")).expect("a file")).expect("valid"),
    );
    assert_eq!(kept, ["protocol.port", "admin", "store"]);
}

#[test]
fn a_refused_key_ring_is_logged_without_its_values() {
    let file = br#"{"active": {"id": "k1", "key": ["c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="]}}"#;
    for content in [&file[..], br#"{"active": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="}"#] {
        let error = Settings::keys(Path::new("keys.json"), content).expect_err("not a key ring");
        let text = Error::from(error).for_log();
        assert!(!text.contains("c2Vj"), "{text}");
        assert!(text.contains("line 1 column"), "{text}");
    }
    let short = br#"{"active": {"id": "k1", "key": "c2hvcnQ="}}"#;
    let text = Error::from(Settings::keys(Path::new("keys.json"), short).expect_err("a short key")).for_log();
    assert!(text.contains("key \"k1\" has 5 bytes"), "{text}");
}
