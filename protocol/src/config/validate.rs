//! What a configuration must fulfil beyond its types; every message names the key, the value and the remedy.

use super::{
    AccessRule, AccessTarget, Admin, CircuitBreaker, EmbeddedStore, Gc, History, Journal, Keys, Log, Operation,
    Protocol, QdrantStore, SCHEMA_VERSION, SidecarConfig, Store, Tracing,
};
use crate::level::Level;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not TOML of this form.
    #[error("the configuration is not valid TOML of this form")]
    Toml(#[source] toml::de::Error),
    /// A value is out of its range.
    #[error("{key} is {value}; {remedy}")]
    Value {
        /// The key, with its tables.
        key: String,
        /// What it is.
        value: String,
        /// What it must be.
        remedy: String,
    },
}

/// Whether a part is as it must be.
pub(super) type Result = std::result::Result<(), Error>;

pub(super) fn refuse(key: impl Into<String>, value: impl std::fmt::Display, remedy: impl Into<String>) -> Result {
    Err(Error::Value { key: key.into(), value: value.to_string(), remedy: remedy.into() })
}

pub(super) fn within<T: PartialOrd + Copy + std::fmt::Display>(
    key: impl Into<String>,
    value: &T,
    least: T,
    most: T,
) -> Result {
    if (&least..=&most).contains(&value) {
        return Ok(());
    }
    refuse(key, value, format!("it must lie between {least} and {most}"))
}

pub(super) fn check(config: &SidecarConfig) -> Result {
    let SidecarConfig {
        schema_version,
        generation: _,
        protocol,
        admin,
        keys: Keys { file: _ },
        access: rules,
        store,
        embedding,
        circuit_breaker,
        journal,
        levels,
        retrieval,
        history: History { keep_for: _ },
        gc: Gc { interval, batch_size, dry_run: _ },
        // The filter is for the program to read.
        log: Log { level: _, format: _ },
        tracing,
    } = config;
    if *schema_version != SCHEMA_VERSION {
        return refuse("schema_version", schema_version, format!("this sidecar reads version {SCHEMA_VERSION}"));
    }
    listeners(protocol, admin)?;
    self::store(store)?;
    access(rules, store)?;
    embedding.check()?;
    let CircuitBreaker { failure_threshold, success_threshold, open_for } = circuit_breaker;
    within("circuit_breaker.failure_threshold", failure_threshold, 1, 1_000)?;
    within("circuit_breaker.success_threshold", success_threshold, 1, 1_000)?;
    within("circuit_breaker.open_for (milliseconds)", &open_for.as_millis_i64(), 10, 3_600_000)?;
    let Journal { path: _, max_size, max_memory } = journal;
    within("journal.max_size", &max_size.bytes(), 1 << 20, 4 << 30)?;
    within("journal.max_memory", &max_memory.bytes(), 1 << 20, 4 << 30)?;
    levels.check()?;
    retrieval.check()?;
    within("gc.interval (milliseconds)", &interval.as_millis_i64(), 10, 86_400_000)?;
    within("gc.batch_size", batch_size, 1, 10_000)?;
    self::tracing(tracing)
}

fn listeners(protocol: &Protocol, Admin { address: _, port: admin_port }: &Admin) -> Result {
    let Protocol {
        port,
        socket,
        max_message_size,
        timestamp_window,
        max_in_flight,
        max_bytes_in_flight,
        request_timeout,
        max_streams,
        heartbeat_interval,
    } = protocol;
    within("protocol.max_message_size", &max_message_size.bytes(), 1_024, 1 << 30)?;
    within("protocol.timestamp_window (seconds)", &timestamp_window.get().as_secs(), 1, 3_600)?;
    within("protocol.max_in_flight", max_in_flight, 1, 65_536)?;
    if let Some(bytes) = max_bytes_in_flight
        && (bytes < max_message_size || bytes.bytes() > 16 << 30)
    {
        let remedy = format!("it must lie between protocol.max_message_size ({max_message_size}) and 16Gi");
        return refuse("protocol.max_bytes_in_flight", bytes, remedy);
    }
    within("protocol.request_timeout (milliseconds)", &request_timeout.as_millis_i64(), 10, 600_000)?;
    within("protocol.max_streams", max_streams, 0, 1_024)?;
    within("protocol.heartbeat_interval (milliseconds)", &heartbeat_interval.as_millis_i64(), 100, 600_000)?;
    if socket.as_ref().is_some_and(|path| path.file_name().is_none()) {
        return refuse(
            "protocol.socket",
            "not the path of a file",
            "name the socket, such as /run/context-manager/protocol.sock",
        );
    }
    if *port != 0 && port == admin_port {
        return refuse("admin.port", admin_port, "it must differ from protocol.port");
    }
    Ok(())
}

fn tracing(tracing: &Tracing) -> Result {
    let Tracing { otlp_endpoint, sampling, background_sampling, headers_file: _, ca_file: _, timeout, queue } = tracing;
    if let Some(endpoint) = otlp_endpoint {
        if !is_http(endpoint) || endpoint.contains(['?', '#', '@']) {
            let remedy = "it must be the collector's base URL for OTLP over HTTP, such as http://otel-collector:4318, without \
                credentials (tracing.headers_file is for them) and query";
            return refuse("tracing.otlp_endpoint", "not usable", remedy);
        }
        if endpoint.trim_end_matches('/').ends_with("/v1/traces") {
            return refuse("tracing.otlp_endpoint", endpoint, "leave /v1/traces out; it is appended");
        }
    }
    within("tracing.sampling", sampling, 0.0, 1.0)?;
    within("tracing.background_sampling", background_sampling, 0.0, 1.0)?;
    within("tracing.timeout (milliseconds)", &timeout.as_millis_i64(), 10, 60_000)?;
    within("tracing.queue", queue, 1, 65_536)
}

fn store(store: &Store) -> Result {
    let store = match store {
        Store::Embedded(EmbeddedStore { path: _, durability: _ }) => return Ok(()),
        Store::Qdrant(store) => store,
    };
    let QdrantStore {
        url,
        collection,
        api_key_file: _,
        ca_file: _,
        cert_file,
        key_file,
        verify: _,
        timeout,
        shards,
        replication_factor,
        write_consistency,
    } = store;
    if !is_http(url) {
        return refuse("store.qdrant.url", url, "it must be a URL such as https://qdrant.example.com:6334");
    }
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    if collection.is_empty() || collection.len() > 200 || !collection.chars().all(plain) {
        let remedy = "it must be 1 to 200 letters, digits, `-` and `_`";
        return refuse("store.qdrant.collection", collection, remedy);
    }
    let missing = match (cert_file, key_file) {
        (Some(_), None) => Some("key_file"),
        (None, Some(_)) => Some("cert_file"),
        (Some(_), Some(_)) | (None, None) => None,
    };
    if let Some(missing) = missing {
        let remedy = "a client certificate needs both store.qdrant.cert_file and store.qdrant.key_file";
        return refuse(format!("store.qdrant.{missing}"), "not set", remedy);
    }
    within("store.qdrant.timeout (milliseconds)", &timeout.as_millis_i64(), 10, 600_000)?;
    let counts =
        [("shards", shards), ("replication_factor", replication_factor), ("write_consistency", write_consistency)];
    for (name, count) in counts {
        if let Some(count) = count {
            within(format!("store.qdrant.{name}"), count, 1, 1_000)?;
        }
    }
    Ok(())
}

/// Most rules, and most entries of one.
const MOST_RULES: usize = 256;
/// Longest id of an agent or a space, and longest name of a session, in bytes.
const LONGEST_ID: usize = 253;
const LONGEST_SESSION: usize = 256;

fn access(rules: &[AccessRule], store: &Store) -> Result {
    if rules.is_empty() {
        return Ok(());
    }
    if let Store::Embedded(_) = store {
        let remedy = "it needs store.qdrant, because each agent's embedded store is a directory that no other agent sees; \
            remove the rules, or use a Qdrant server";
        return refuse("access", format!("{} rules", rules.len()), remedy);
    }
    within("access (rules)", &rules.len(), 1, MOST_RULES)?;
    rules.iter().enumerate().try_for_each(|(place, rule)| access_rule(&format!("access[{place}]"), rule))
}

fn access_rule(key: &str, AccessRule { agents, operations, levels, target }: &AccessRule) -> Result {
    within(format!("{key}.agents (items)"), &agents.len(), 1, MOST_RULES)?;
    for (place, agent) in agents.iter().enumerate() {
        id(&format!("{key}.agents[{place}]"), agent)?;
    }
    if operations.is_empty() {
        let remedy = "name at least one of read, store, update, delete, export and import";
        return refuse(format!("{key}.operations"), "empty", remedy);
    }
    let AccessTarget { agent, space, session, tenant } = target;
    match (agent, space, tenant) {
        (Some(agent), None, false) => id(&format!("{key}.target.agent"), agent)?,
        (None, Some(space), false) => id(&format!("{key}.target.space"), space)?,
        (None, None, true) => tenant_rule(key, operations, session.as_deref())?,
        (Some(_), _, true) | (_, Some(_), true) | (Some(_), Some(_), false) | (None, None, false) => {
            let remedy = "it must name exactly one of agent, space and tenant";
            return refuse(format!("{key}.target"), "not clear", remedy);
        }
    }
    if space.is_some() && levels.contains(&Level::Immediate) {
        let remedy = "a shared space has no immediate level; use short_term or long_term";
        return refuse(format!("{key}.levels"), "immediate", remedy);
    }
    let is_line = |text: &str| !text.chars().any(char::is_control) && text.trim() == text;
    match session {
        Some(session) if session.is_empty() || session.len() > LONGEST_SESSION || !is_line(session) => {
            let remedy = format!("it must be one line of 1 to {LONGEST_SESSION} bytes without white space at its ends");
            refuse(format!("{key}.target.session"), format!("{session:?}"), remedy)
        }
        Some(_) | None => Ok(()),
    }
}

/// The whole tenant is for moving it.
fn tenant_rule(key: &str, operations: &[Operation], session: Option<&str>) -> Result {
    let moves = |operation: &&Operation| matches!(operation, Operation::Export | Operation::Import);
    if let Some(other) = operations.iter().find(|operation| !moves(operation)) {
        let remedy = "a tenant is exported and imported as a whole, and nothing else; for other operations name agents and spaces";
        return refuse(format!("{key}.operations"), other.as_str(), remedy);
    }
    match session {
        Some(session) => refuse(format!("{key}.target.session"), format!("{session:?}"), "leave it out beside tenant"),
        None => Ok(()),
    }
}

/// The id of an agent or a space, or `*`.
fn id(key: &str, text: &str) -> Result {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let valid = bytes.len() <= LONGEST_ID
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(byte));
    if valid || text == AccessRule::ANY {
        return Ok(());
    }
    let remedy = format!(
        "it must be \"*\" or at most {LONGEST_ID} letters, digits, '-', '_', '.', ':', '/' and '@', with a letter or digit at both ends"
    );
    refuse(key, format!("{text:?}"), remedy)
}

pub(super) fn is_http(url: &str) -> bool {
    url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "[store.embedded]\npath = \"/data\"\n";

    fn refused(rest: &str) -> String {
        match SidecarConfig::from_toml(&format!("{STORE}{rest}")) {
            Err(Error::Toml(source)) => source.to_string(),
            Err(error @ Error::Value { .. }) => error.to_string(),
            Ok(_) => format!("accepted: {rest}"),
        }
    }

    #[test]
    fn the_defaults_are_valid_and_survive_the_file() {
        let config = SidecarConfig::embedded("/data");
        assert_eq!(SidecarConfig::from_toml(&config.to_toml()).expect("its own output"), config);
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let page = include_str!("../../../docs/sidecar.md");
        let block = page.split("The defaults:").nth(1).and_then(|rest| rest.split("```toml\n").nth(1));
        let block = block.and_then(|rest| rest.split("```").next()).expect("docs/sidecar.md shows the defaults");
        assert_eq!(SidecarConfig::from_toml(block).expect("a valid configuration"), SidecarConfig::embedded("memory"));
    }

    #[test]
    fn what_a_table_leaves_out_has_its_default() {
        let read = |rest: &str| SidecarConfig::from_toml(&format!("{STORE}{rest}")).expect("a valid configuration");
        let default = SidecarConfig::embedded("/data");
        let partly = read("[levels.short_term]\ncapacity = 5\n[levels.promotion]\n[retrieval.immediate]\ncap = 0.5\n");
        assert_eq!(partly.levels.short_term.capacity, Some(5));
        assert_eq!(partly.levels.short_term.ttl, default.levels.short_term.ttl);
        assert_eq!(partly.levels.immediate, default.levels.immediate);
        assert_eq!(partly.levels.promotion, default.levels.promotion);
        assert_eq!((partly.retrieval.immediate.floor, partly.retrieval.immediate.cap), (0.1, Some(0.5)));
    }

    #[test]
    fn an_access_rule_says_who_may_do_what_where() {
        let qdrant = "[store.qdrant]\nurl = \"http://q:6334\"\ncollection = \"c\"\n";
        let read = |rule: &str| match SidecarConfig::from_toml(&format!("{qdrant}[[access]]\n{rule}\n")) {
            Err(Error::Toml(source)) => source.to_string(),
            Err(error @ Error::Value { .. }) => error.to_string(),
            Ok(config) => {
                assert_eq!(SidecarConfig::from_toml(&config.to_toml()).expect("its own output"), config);
                "valid".to_owned()
            }
        };
        let rule = |rest: &str| read(&format!("agents = [\"a\"]\noperations = [\"read\"]\n{rest}"));
        for target in ["agent = \"b\"", "space = \"team\"", "agent = \"*\", session = \"s 1\""] {
            assert_eq!(rule(&format!("target = {{ {target} }}")), "valid");
        }
        for (text, expected) in [
            (
                "agents = []\noperations = [\"read\"]\ntarget = { space = \"t\" }",
                "access[0].agents (items) is 0; it must",
            ),
            (
                "agents = [\"a b\"]\noperations = [\"read\"]\ntarget = { space = \"t\" }",
                "access[0].agents[0] is \"a b\"; it",
            ),
            (
                "agents = [\"a\"]\noperations = []\ntarget = { space = \"t\" }",
                "access[0].operations is empty; name at least",
            ),
            ("agents = [\"a\"]\noperations = [\"write\"]\ntarget = { space = \"t\" }", "unknown variant `write`"),
            ("agents = [\"a\"]\noperations = [\"read\"]", "missing field `target`"),
        ] {
            let message = read(text);
            assert!(message.contains(expected), "{text:?} gave {message:?}, without {expected:?}");
        }
        for (target, expected) in [
            ("target = {}", "access[0].target is not clear; it must name exactly one of agent, space and tenant"),
            ("target = { agent = \"b\", space = \"t\" }", "it must name exactly one"),
            ("target = { agent = \"b\", tenant = true }", "it must name exactly one"),
            ("target = { tenant = false }", "it must name exactly one"),
            (
                "target = { tenant = true }",
                "access[0].operations is read; a tenant is exported and imported as a whole",
            ),
            ("target = { space = \"-\" }", "access[0].target.space is \"-\""),
            ("target = { agent = \"b\", session = \" s\" }", "access[0].target.session is \" s\"; it must be one line"),
            ("levels = [\"immediate\"]\ntarget = { space = \"t\" }", "a shared space has no immediate level"),
            ("levels = [\"middle\"]\ntarget = { space = \"t\" }", "unknown variant `middle`"),
        ] {
            let message = rule(target);
            assert!(message.contains(expected), "{target:?} gave {message:?}, without {expected:?}");
        }
        let embedded = refused("[[access]]\nagents = [\"*\"]\noperations = [\"read\"]\ntarget = { space = \"t\" }\n");
        assert!(embedded.starts_with("access is 1 rules; it needs store.qdrant"), "{embedded}");
    }

    #[test]
    fn a_bad_value_is_refused_by_its_key() {
        for (text, expected) in [
            ("[gc]\nbatch_size = 0\n", "gc.batch_size is 0; it must lie between 1 and 10000"),
            ("[levels.short_term]\nttl = \"0s\"\n", "levels.short_term.ttl is 0s; it must be longer than zero"),
            ("[levels.long_term]\ncapacity = 5\n", "levels.long_term.capacity is 5; leave it out"),
            ("[embedding]\nprovider = \"open_ai\"\n", "embedding.url is not set; provider \"open_ai\" needs"),
            (
                "[embedding.retry]\ninitial_delay = \"0s\"\n",
                "embedding.retry.initial_delay is 0s; it must be longer than zero and at most",
            ),
            (
                "[embedding.retry]\ninitial_delay = \"2s\"\nmax_delay = \"1s\"\n",
                "embedding.retry.initial_delay is 2s; it must be longer than zero and at most embedding.retry",
            ),
            ("[embedding]\nca = \"a\"\nca_file = \"b\"\n", "embedding.ca is set beside embedding.ca_file; remove one"),
            ("[embedding.cache]\nttl = \"0s\"\n", "embedding.cache.ttl is 0s; it must be longer than zero; set"),
            ("[embedding.cache]\nttl = \"1001years\"\n", "it must be at most"),
            ("[journal]\nmax_memory = \"0\"\n", "journal.max_memory is 0; it must lie between 1048576 and 4294967296"),
            ("[retrieval]\nmin_score = nan\n", "retrieval.min_score is NaN; it must lie between -10 and 10"),
            ("[retrieval]\nmin_score = 10.5\n", "retrieval.min_score is 10.5; it must lie between -10 and 10"),
            ("[retrieval.nudges]\nrecency = 0.2\n", "retrieval.nudges.recency is 0.2; it must lie between 0 and 0.1"),
            ("[retrieval.immediate]\nfloor = 0.6\n[retrieval.long_term]\nfloor = 0.6\n", "retrieval.*.floor is 1.2"),
            ("[protocol]\nport = 8080\n", "admin.port is 8080; it must differ from protocol.port"),
            ("[protocol]\ntimestamp_window = \"soon\"\n", "\"soon\" is not a duration"),
            (
                "[protocol]\nheartbeat_interval = \"1ms\"\n",
                "protocol.heartbeat_interval (milliseconds) is 1; it must lie",
            ),
            ("[protocol]\nsocket = \"\"\n", "protocol.socket is not the path of a file; name the socket"),
            ("[protocol]\nmax_message_size = \"ten\"\n", "\"ten\" is not a size"),
            (
                "[protocol]\nmax_bytes_in_flight = \"9Mi\"\n",
                "protocol.max_bytes_in_flight is 9Mi; it must lie between protocol.max_message_size (10Mi) and 16Gi",
            ),
            ("[levels.imediate]\n", "unknown field `imediate`"),
            ("[tracing]\nsampling = 1.5\n", "tracing.sampling is 1.5; it must lie between 0 and 1"),
            ("[tracing]\nsampling = nan\n", "tracing.sampling is NaN; it must lie between 0 and 1"),
            ("[tracing]\nqueue = 0\n", "tracing.queue is 0; it must lie between 1 and 65536"),
            (
                "[tracing]\notlp_endpoint = \"otel:4317\"\n",
                "tracing.otlp_endpoint is not usable; it must be the collector's base",
            ),
            (
                "[tracing]\notlp_endpoint = \"http://me:word@otel\"\n",
                "without credentials (tracing.headers_file is for them)",
            ),
            ("[tracing]\notlp_endpoint = \"http://otel/v1/traces\"\n", "leave /v1/traces out; it is appended"),
            ("[tracing]\nendpoint = \"http://otel\"\n", "unknown field `endpoint`"),
        ] {
            let message = refused(text);
            assert!(message.contains(expected), "{text:?} gave {message:?}, without {expected:?}");
        }
        assert!(SidecarConfig::from_toml(&format!("schema_version = 2\n{STORE}")).is_err());
    }
}
