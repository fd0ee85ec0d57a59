use std::fs;

use clap::Parser as _;
use tempfile::TempDir;

use super::*;

fn settings(directory: &TempDir, config: &str, flags: &[&str], secret: Option<&str>) -> Settings {
    let file = directory.path().join("config.toml");
    fs::write(&file, config).expect("a file");
    let args = ["context-manager-sidecar", "--config", file.to_str().expect("UTF-8")];
    let args = Args::parse_from(args.iter().chain(flags));
    let secrets = EnvironmentSecrets { protocol_secret: secret.map(Into::into), ..EnvironmentSecrets::default() };
    Settings::new(args, secrets).expect("valid flags")
}

const STORE: &str = "[store.embedded]\npath = \"/data\"\n";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_sidecar_run_by_hand_takes_its_key_from_the_environment() {
    let directory = TempDir::new().expect("a directory");
    let (config, keys) = settings(&directory, STORE, &[], Some(SECRET)).load().expect("enough to run");
    assert_eq!((config.admin.port, config.protocol.port), (8080, 7419));
    assert_eq!((keys.active().id(), keys.active().material()), ("default", SECRET.as_bytes()));
    let none = settings(&directory, STORE, &[], None).load().expect_err("no key").for_log();
    assert!(none.contains("PROTOCOL_SECRET"), "{none}");
    let short = settings(&directory, STORE, &[], Some("short")).load().expect_err("a short key").for_log();
    assert!(short.contains("5 bytes") && short.contains("at least 32") && !short.contains("short"), "{short}");
}

#[test]
fn file_names_are_relative_to_the_configuration() {
    let directory = TempDir::new().expect("a directory");
    let text = format!(
        "{STORE}[keys]\nfile = \"keys.json\"\n[embedding]\napi_key_file = \"api-key\"\nca_file = \"/ca.crt\"\n"
    );
    let config = settings(&directory, &text, &[], None).config(text.as_bytes()).expect("valid");
    assert_eq!(config.keys.file, Some(directory.path().join("keys.json")));
    assert_eq!(config.embedding.api_key_file, Some(directory.path().join("api-key")));
    assert_eq!(config.embedding.ca_file, Some(PathBuf::from("/ca.crt")));
}

#[test]
fn agents_that_share_a_volume_have_directories_of_their_own() {
    let directory = TempDir::new().expect("a directory");
    let path = |flags: &[&str]| {
        let config = settings(&directory, STORE, flags, None).config(STORE.as_bytes()).expect("valid");
        match config.store {
            Store::Embedded(store) => store.path,
            Store::Qdrant(_) => unreachable!("the configuration says embedded"),
        }
    };
    assert_eq!(path(&[]), Path::new("/data"));
    let flags = ["--data-per-agent", "--tenant", "team-a", "--agent", "support"];
    assert_eq!(path(&flags), Path::new("/data/team-a/support"));
}

#[test]
fn flags_win_over_the_configured_ports() {
    let directory = TempDir::new().expect("a directory");
    let text = format!("{STORE}[protocol]\nport = 1\n[admin]\nport = 2\n");
    let ports = |flags: &[&str]| {
        let config = settings(&directory, &text, flags, None).config(text.as_bytes()).expect("valid");
        (config.protocol.port, config.admin.port)
    };
    assert_eq!(ports(&[]), (1, 2));
    assert_eq!(ports(&["--protocol-port", "3", "--admin-port", "4"]), (3, 4));
}

#[test]
fn a_flag_wins_over_the_configured_log_level() {
    let directory = TempDir::new().expect("a directory");
    let text = format!("{STORE}[log]\nlevel = \"warn\"\n");
    let level =
        |flags: &[&str]| settings(&directory, &text, flags, None).config(text.as_bytes()).expect("valid").log.level;
    assert_eq!(level(&[]), "warn");
    assert_eq!(level(&["--log-level", "debug"]), "debug");
    let bad = format!("{STORE}[log]\nlevel = \"=,=\"\n");
    let error = settings(&directory, &bad, &[], None).config(bad.as_bytes()).expect_err("a bad filter").for_log();
    assert!(error.contains("\"=,=\""), "{error}");
}

#[test]
fn check_says_what_is_wrong_and_what_was_not_checked() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, format!("{STORE}[gc]\nbatch_size = 0\n")).expect("a file");
    let error = check(&file).expect_err("a bad value").for_log();
    assert!(error.contains("gc.batch_size is 0"), "{error}");
    fs::write(&file, format!("{STORE}[keys]\nfile = \"keys.json\"\n")).expect("a file");
    let keys = directory.path().join("keys.json");
    assert_eq!(check(&file).expect("valid").1, KeysFound::Missing(keys.clone()));
    fs::write(&keys, "{}").expect("a file");
    assert!(check(&file).is_err());
    assert!(check(&directory.path().join("absent.toml")).expect_err("no file").for_log().contains("absent.toml"));
}

#[test]
fn the_socket_is_beside_the_configuration_and_not_too_long() {
    let directory = TempDir::new().expect("a directory");
    let with = |path: &str| {
        let text = format!("{STORE}[protocol]\nsocket = \"{path}\"\n");
        let settings = settings(&directory, &text, &[], None);
        let checked = check(&settings.config_file).map(drop);
        (settings.config(text.as_bytes()).map(|config| config.protocol.socket), checked)
    };
    let (socket, checked) = with("a.sock");
    assert_eq!(socket.expect("valid"), Some(directory.path().join("a.sock")));
    checked.expect("valid");
    let text = format!("{STORE}[protocol]\nsocket = \"a.sock\"\n");
    let flagged = settings(&directory, &text, &["--socket", "/run/b.sock"], None).config(text.as_bytes());
    assert_eq!(flagged.expect("valid").protocol.socket, Some("/run/b.sock".into()), "the flag wins");
    let nothing = settings(&directory, STORE, &["--socket-only"], None).config(STORE.as_bytes());
    assert!(matches!(nothing, Err(Error::NoSocket)), "{nothing:?}");
    settings(&directory, &text, &["--socket-only"], None).config(text.as_bytes()).expect("there is a socket");
    let (long, checked) = with(&format!("/{}", "a".repeat(100)));
    for error in [long.expect_err("too long").for_log(), checked.expect_err("too long").for_log()] {
        assert!(error.contains("101 bytes long") && error.contains("at most 100"), "{error}");
    }
}
