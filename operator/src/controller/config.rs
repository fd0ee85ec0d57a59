//! From the spec to the sidecar's configuration: pure, and the same for the same spec. What the spec leaves out has the
//! sidecar's own defaults, so there is one place for each of them.

mod store;

use context_manager_crds::{
    ContextManagerSpec,
    context_manager::{
        access::{self, AccessRule, Target},
        auth::Auth,
        embedding::{self, Cache, OnModelChange, Provider, Retry},
        levels::{self, Gc, LongTerm, Promotion},
        observability::{self, Observability},
        retrieval::{self, Legs, LevelShares, Nudges, Share, Tokenizer},
        sidecar::Sidecar,
    },
    duration::Duration,
    quantity::Quantity,
};
use context_manager_protocol::{
    config::{self, SidecarConfig},
    duration::HumanDuration,
    level::Level,
    names,
    size::ByteSize,
};

/// The configuration of the sidecars of the resource `name` of `namespace`, whose generation is `generation`.
///
/// ```
/// use context_manager_crds::ContextManagerSpec;
/// use context_manager_operator::controller::config::sidecar_config;
///
/// let config = sidecar_config(&ContextManagerSpec::default(), ("team", "memory"), 1);
/// assert_eq!(config.admin.port, 7420);
/// assert!(context_manager_protocol::config::SidecarConfig::from_toml(&config.to_toml()).is_ok());
/// ```
#[must_use]
pub fn sidecar_config(spec: &ContextManagerSpec, (namespace, name): (&str, &str), generation: i64) -> SidecarConfig {
    // Fields that are not bound to a name say nothing to the sidecar.
    let ContextManagerSpec {
        controller_class_name: _,
        vector_store,
        embedding,
        levels,
        retrieval,
        gc,
        auth,
        tls: _,
        sidecar,
        injection: _,
        allowed_namespaces: _,
        observability,
        reclaim_policy: _,
        suspend: _,
    } = spec;
    let mut config = SidecarConfig::embedded(names::DATA_DIRECTORY);
    config.generation = generation;
    store::set(&mut config, vector_store.as_ref(), (namespace, name));
    config.keys.file = Some(names::KEYS_FILE.into());
    config.admin.port = names::DEFAULT_ADMIN_PORT;
    if let Some(given) = sidecar {
        self::sidecar(&mut config, given);
    }
    if let Some(given) = auth {
        self::auth(&mut config, given);
    }
    if let Some(given) = embedding {
        self::embedding(&mut config.embedding, given);
    }
    if let Some(given) = levels {
        self::levels(&mut config.levels, given);
    }
    if let Some(given) = retrieval {
        self::retrieval(&mut config.retrieval, given);
    }
    if let Some(Gc { interval, batch_size, dry_run }) = gc {
        set(&mut config.gc.interval, duration(*interval));
        set(&mut config.gc.batch_size, count(*batch_size));
        set(&mut config.gc.dry_run, *dry_run);
    }
    if let Some(Observability { tracing: Some(given) }) = observability {
        tracing(&mut config.tracing, given);
    }
    config
}

fn sidecar(config: &mut SidecarConfig, given: &Sidecar) {
    let Sidecar {
        image: _,
        mode: _,
        resources: _,
        protocol_port,
        admin_port,
        // It is a start parameter, because pods without its volume read the same file.
        socket: _,
        max_message_size,
        max_bytes_in_flight,
        log_level,
        upgrade: _,
    } = given;
    set(&mut config.protocol.port, protocol_port.and_then(|port| u16::try_from(port).ok()));
    set(&mut config.admin.port, admin_port.and_then(|port| u16::try_from(port).ok()));
    set(&mut config.protocol.max_message_size, bytes(max_message_size.as_ref()));
    config.protocol.max_bytes_in_flight = bytes(max_bytes_in_flight.as_ref());
    set(&mut config.log.level, log_level.clone());
}

fn auth(config: &mut SidecarConfig, given: &Auth) {
    let Auth { secret_policy: _, secret_ref: _, timestamp_window, rotation: _, access } = given;
    set(&mut config.protocol.timestamp_window, duration(*timestamp_window));
    config.access = access.iter().flatten().map(access_rule).collect();
}

fn tracing(config: &mut config::Tracing, given: &observability::Tracing) {
    let observability::Tracing {
        otlp_endpoint,
        sampling,
        background_sampling,
        headers_secret_ref,
        ca_config_map_ref,
        timeout,
        queue,
    } = given;
    config.otlp_endpoint = Some(otlp_endpoint.clone());
    set(&mut config.sampling, *sampling);
    set(&mut config.background_sampling, *background_sampling);
    config.headers_file = headers_secret_ref.as_ref().map(|_| names::OTLP_HEADERS_FILE.into());
    config.ca_file = ca_config_map_ref.as_ref().map(|_| names::OTLP_CA_FILE.into());
    set(&mut config.timeout, duration(*timeout));
    set(&mut config.queue, count(*queue));
}

fn access_rule(AccessRule { agents, operations, levels, target }: &AccessRule) -> config::AccessRule {
    let operation = |operation: &access::Operation| match operation {
        access::Operation::Read => config::Operation::Read,
        access::Operation::Store => config::Operation::Store,
        access::Operation::Update => config::Operation::Update,
        access::Operation::Delete => config::Operation::Delete,
        access::Operation::Export => config::Operation::Export,
        access::Operation::Import => config::Operation::Import,
    };
    let level = |level: &access::Level| match level {
        access::Level::Immediate => Level::Immediate,
        access::Level::ShortTerm => Level::ShortTerm,
        access::Level::LongTerm => Level::LongTerm,
    };
    let Target { agent, space, session, tenant } = target.clone();
    config::AccessRule {
        agents: agents.clone(),
        operations: operations.iter().map(operation).collect(),
        levels: levels.iter().flatten().map(level).collect(),
        target: config::AccessTarget { agent, space, session, tenant: tenant == Some(true) },
    }
}

fn embedding(config: &mut config::Embedding, given: &embedding::Embedding) {
    let embedding::Embedding {
        provider,
        url,
        model,
        dimensions,
        api_key_secret_ref,
        // The CA that it refers to comes in when it is published.
        tls: _,
        batch_size,
        timeout,
        cache,
        retry,
        query_prefix,
        document_prefix,
        on_model_change,
    } = given;
    config.provider = match provider.unwrap_or_default() {
        Provider::Builtin => config::Provider::Builtin,
        Provider::OpenAi => config::Provider::OpenAi,
    };
    config.url.clone_from(url);
    config.model.clone_from(model);
    set(&mut config.dimensions, count(*dimensions));
    config.api_key_file = api_key_secret_ref.as_ref().map(|_| names::EMBEDDING_API_KEY_FILE.into());
    set(&mut config.batch_size, count(*batch_size));
    set(&mut config.timeout, duration(*timeout));
    if let Some(Cache { capacity, ttl }) = cache {
        set(&mut config.cache.capacity, bytes(capacity.as_ref()));
        set(&mut config.cache.ttl, duration(*ttl));
    }
    if let Some(Retry { max_attempts, initial_delay, max_delay, jitter }) = retry {
        set(&mut config.retry.max_attempts, count(*max_attempts));
        set(&mut config.retry.initial_delay, duration(*initial_delay));
        set(&mut config.retry.max_delay, duration(*max_delay));
        set(&mut config.retry.jitter, *jitter);
    }
    set(&mut config.query_prefix, query_prefix.clone());
    set(&mut config.document_prefix, document_prefix.clone());
    config.on_model_change = match on_model_change.unwrap_or_default() {
        OnModelChange::ReEmbed => config::OnModelChange::ReEmbed,
        OnModelChange::Refuse => config::OnModelChange::Refuse,
    };
}

fn levels(config: &mut config::Levels, given: &levels::Levels) {
    let levels::Levels { immediate, short_term, long_term, promotion } = given;
    let level = |config: &mut config::LevelConfig, given: &Option<levels::Level>| {
        if let Some(levels::Level { capacity, ttl }) = given {
            config.capacity = count(*capacity).or(config.capacity);
            config.ttl = duration(*ttl).or(config.ttl);
        }
    };
    level(&mut config.immediate, immediate);
    level(&mut config.short_term, short_term);
    if let Some(LongTerm { ttl }) = long_term {
        config.long_term.ttl = duration(*ttl).or(config.long_term.ttl);
    }
    if let Some(Promotion { min_accesses }) = promotion {
        config.promotion.min_accesses = min_accesses.or(config.promotion.min_accesses);
    }
}

fn retrieval(config: &mut config::Retrieval, given: &retrieval::Retrieval) {
    let retrieval::Retrieval { legs, nudges, recency_half_life, levels, default_token_budget, min_score, tokenizer } =
        given;
    if let Some(Legs { dense, dense_with_previous, sparse, sparse_with_previous }) = legs {
        set(&mut config.legs.dense, *dense);
        set(&mut config.legs.dense_with_previous, *dense_with_previous);
        set(&mut config.legs.sparse, *sparse);
        set(&mut config.legs.sparse_with_previous, *sparse_with_previous);
    }
    if let Some(Nudges { recency, frequency, level }) = nudges {
        set(&mut config.nudges.recency, *recency);
        set(&mut config.nudges.frequency, *frequency);
        set(&mut config.nudges.level, *level);
    }
    set(&mut config.recency_half_life, duration(*recency_half_life));
    if let Some(LevelShares { immediate, short_term, long_term }) = levels {
        let share = |config: &mut config::BudgetShare, given: &Option<Share>| {
            if let Some(Share { floor, cap }) = given {
                set(&mut config.floor, *floor);
                config.cap = cap.or(config.cap);
            }
        };
        share(&mut config.immediate, immediate);
        share(&mut config.short_term, short_term);
        share(&mut config.long_term, long_term);
    }
    set(&mut config.default_token_budget, count(*default_token_budget));
    config.min_score = min_score.or(config.min_score);
    set(
        &mut config.tokenizer,
        tokenizer.map(|given| match given {
            Tokenizer::Estimate => config::Tokenizer::Estimate,
            Tokenizer::O200kBase => config::Tokenizer::O200kBase,
            Tokenizer::Cl100kBase => config::Tokenizer::Cl100kBase,
        }),
    );
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

fn duration(given: Option<Duration>) -> Option<HumanDuration> {
    given.map(HumanDuration::from)
}

fn bytes(given: Option<&Quantity>) -> Option<ByteSize> {
    given.and_then(Quantity::bytes).map(ByteSize::new)
}

fn count(given: Option<i32>) -> Option<usize> {
    given.and_then(|count| usize::try_from(count).ok())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn access_rules_reach_the_file() {
        let made = config(json!({"auth": {"access": [
            {"agents": ["a", "b"], "operations": ["read", "store", "update", "delete", "export", "import"], "target": {"space": "team"}},
            {"agents": ["*"], "operations": ["read"], "levels": ["immediate", "shortTerm", "longTerm"], "target": {"agent": "c", "session": "s"}},
            {"agents": ["mover"], "operations": ["export"], "target": {"tenant": true}},
        ]}}));
        let expected = r#"
            [[access]]
            agents = ["a", "b"]
            operations = ["read", "store", "update", "delete", "export", "import"]
            target = { space = "team" }
            [[access]]
            agents = ["*"]
            operations = ["read"]
            levels = ["immediate", "short_term", "long_term"]
            target = { agent = "c", session = "s" }
            [[access]]
            agents = ["mover"]
            operations = ["export"]
            target = { tenant = true }
            [store.qdrant]
            url = "http://qdrant:6334"
            collection = "memory"
        "#;
        assert_eq!(made.access, SidecarConfig::from_toml(expected).unwrap().access);
    }

    fn config(spec: serde_json::Value) -> SidecarConfig {
        sidecar_config(&serde_json::from_value(spec).unwrap(), ("team", "memory"), 3)
    }

    #[test]
    fn an_empty_spec_is_the_sidecars_defaults_with_the_places_of_a_pod() {
        let mut expected = SidecarConfig::embedded("/var/lib/context-manager");
        expected.generation = 3;
        expected.keys.file = Some("keys.json".into());
        expected.admin.port = 7420;
        assert_eq!(config(json!({})), expected);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table, with a line for each field")]
    fn every_field_of_the_spec_reaches_the_file() {
        let made = config(json!({
            "vectorStore": {"embedded": {"durability": "Node"}},
            "embedding": {
                "provider": "openAI", "url": "http://embeddings/v1/embeddings", "model": "minilm", "dimensions": 12,
                "apiKeySecretRef": {"name": "s", "key": "k"}, "batchSize": 7, "timeout": "3s",
                "cache": {"capacity": "1Mi", "ttl": "2m"},
                "retry": {"maxAttempts": 4, "initialDelay": "10ms", "maxDelay": "1s", "jitter": 0.5},
                "queryPrefix": "q: ", "documentPrefix": "d: ",
            },
            "levels": {
                "immediate": {"capacity": 5, "ttl": "1m"}, "shortTerm": {"capacity": 6, "ttl": "2m"},
                "longTerm": {"ttl": "3m"}, "promotion": {"minAccesses": 9},
            },
            "retrieval": {
                "legs": {"dense": 0.1, "denseWithPrevious": 0.2, "sparse": 0.4, "sparseWithPrevious": 0.5},
                "nudges": {"recency": 0.01, "frequency": 0.02, "level": 0.03}, "recencyHalfLife": "2h",
                "levels": {"immediate": {"floor": 0.2, "cap": 0.3}, "shortTerm": {"floor": 0.1}, "longTerm": {"cap": 0.9}},
                "defaultTokenBudget": 500, "minScore": 0.25, "tokenizer": "o200k_base",
            },
            "gc": {"interval": "30s", "batchSize": 11, "dryRun": true},
            "auth": {"timestampWindow": "1m"},
            "observability": {"tracing": {
                "otlpEndpoint": "http://otel:4318", "sampling": 0.5, "backgroundSampling": 0.25, "timeout": "2s", "queue": 99,
                "headersSecretRef": {"name": "s", "key": "k"}, "caConfigMapRef": {"name": "m", "key": "c"},
            }},
            "sidecar": {"protocolPort": 8001, "adminPort": 8002, "maxMessageSize": "2Mi", "maxBytesInFlight": "32Mi", "logLevel": "debug"},
        }));
        let expected = r#"schema_version = 1
generation = 3

[protocol]
port = 8001
max_message_size = "2Mi"
timestamp_window = "1m"
max_in_flight = 256
max_bytes_in_flight = "32Mi"
request_timeout = "30s"

[admin]
address = "0.0.0.0"
port = 8002

[keys]
file = "keys.json"

[store.embedded]
path = "/var/lib/context-manager"
durability = "node"

[embedding]
provider = "open_ai"
url = "http://embeddings/v1/embeddings"
model = "minilm"
dimensions = 12
api_key_file = "embedding-api-key"
batch_size = 7
timeout = "3s"
query_prefix = "q: "
document_prefix = "d: "

[embedding.cache]
capacity = "1Mi"
ttl = "2m"

[embedding.retry]
max_attempts = 4
initial_delay = "10ms"
max_delay = "1s"
jitter = 0.5

[levels.immediate]
capacity = 5
ttl = "1m"

[levels.short_term]
capacity = 6
ttl = "2m"

[levels.long_term]
ttl = "3m"

[levels.promotion]
min_accesses = 9

[retrieval]
recency_half_life = "2h"
default_token_budget = 500
min_score = 0.25
tokenizer = "o200k_base"

[retrieval.legs]
dense = 0.1
dense_with_previous = 0.2
sparse = 0.4
sparse_with_previous = 0.5

[retrieval.nudges]
recency = 0.01
frequency = 0.02
level = 0.03

[retrieval.immediate]
floor = 0.2
cap = 0.3

[retrieval.short_term]
floor = 0.1

[retrieval.long_term]
floor = 0.0
cap = 0.9

[gc]
interval = "30s"
batch_size = 11
dry_run = true

[log]
level = "debug"
format = "json"

[tracing]
otlp_endpoint = "http://otel:4318"
sampling = 0.5
background_sampling = 0.25
headers_file = "otlp-headers"
ca_file = "otlp-ca.crt"
timeout = "2s"
queue = 99
"#;
        let parsed = SidecarConfig::from_toml(expected).unwrap();
        assert_eq!(made, parsed);
        assert_eq!(SidecarConfig::from_toml(&made.to_toml()).unwrap(), made);
    }
}
