//! The rules of the schema as plain code: pure, complete, and in the same words as [`crate::rules`].
//!
//! The API server checks objects when they are written. An object that was written before a rule existed is checked
//! here, by the reconciler, so that it is refused with the same message instead of doing something odd. What the types
//! themselves refuse (unknown enum values, texts that are not durations) does not come this far.

use crate::{
    ContextManager, ContextManagerSpec,
    context_manager::{
        access::{self, AccessRule, Operation, Target},
        auth::{Auth, Rotation, SecretPolicy},
        embedding::{Embedding, EmbeddingTls, Provider, Retry, SecretKeyRef},
        levels::{Gc, Levels},
        observability::Tracing,
        qdrant::{ConfigMapKeyRef, Qdrant, QdrantTls},
        retrieval::{Legs, LevelShares, Nudges, Retrieval, Share},
        sidecar::{ResourceList, Resources, Sidecar, Upgrade},
        tls::{Issuer, IssuerRef, Tls},
        vector_store::VectorStore,
    },
    duration::Duration,
    quantity::{Amount, Quantity},
    rules::{self, CelRule},
};

mod managed;
mod update;

pub use update::validate_update;

/// A rule that is broken, in words for the person who wrote the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

/// Every rule that the object breaks; empty when it is valid.
///
/// ```
/// use context_manager_crds::{ContextManager, validate::validate};
///
/// let valid = ContextManager::new("memory", serde_json::from_str("{}")?);
/// assert!(validate(&valid).is_empty());
///
/// let broken = ContextManager::new("memory", serde_json::from_str(r#"{"sidecar": {"adminPort": 7419}}"#)?);
/// assert!(validate(&broken)[0].to_string().starts_with("spec.sidecar.protocolPort"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[must_use]
pub fn validate(object: &ContextManager) -> Vec<Problem> {
    let mut check = Check::default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    check.rule(name.chars().count() <= rules::MAX_NAME, rules::NAME_LENGTH);
    let ContextManagerSpec {
        controller_class_name,
        vector_store,
        embedding,
        levels,
        retrieval,
        gc,
        auth,
        tls,
        sidecar,
        injection,
        allowed_namespaces,
        observability,
        reclaim_policy: _,
        suspend: _,
    } = &object.spec;
    check.length("spec.controllerClassName", controller_class_name.as_ref(), 1, 63);
    check.rule(controller_class_name.as_deref().is_none_or(is_label), rules::CLASS_NAME);
    check.optional(vector_store.as_ref(), |check, store| self::vector_store(check, store, name));
    check.optional(embedding.as_ref(), self::embedding);
    check.optional(levels.as_ref(), self::levels);
    check.optional(retrieval.as_ref(), self::retrieval);
    check.optional(gc.as_ref(), self::gc);
    check.optional(auth.as_ref(), |check, auth| self::auth(check, auth, name));
    let shares = auth.as_ref().is_some_and(|auth| auth.access.is_some());
    let has_server = vector_store.as_ref().is_some_and(|store| store.qdrant.is_some() || store.managed.is_some());
    check.rule(!shares || has_server, rules::ACCESS_NEEDS_A_SERVER);
    check.optional(allowed_namespaces.as_ref(), |check, allowed| self::grants(check, allowed, vector_store.as_ref()));
    check.optional(tls.as_ref(), |check, tls| self::tls(check, tls, name));
    check.optional(sidecar.as_ref(), self::sidecar);
    let tracing = observability.as_ref().and_then(|observability| observability.tracing.as_ref());
    check.optional(tracing, self::tracing);
    if let Some(containers) = injection.as_ref().and_then(|injection| injection.containers.as_ref()) {
        check.range("spec.injection.containers (items)", Some(containers.len()), 1, 32);
        for container in containers {
            check.length("spec.injection.containers[*]", Some(container), 1, 63);
        }
        let repeated = containers.iter().enumerate().any(|(index, name)| containers[..index].contains(name));
        check.that(!repeated, || "spec.injection.containers names a container twice".to_owned());
    }
    check.problems
}

fn grants(check: &mut Check, allowed: &[String], store: Option<&VectorStore>) {
    check.range("spec.allowedNamespaces (items)", Some(allowed.len()), 0, 64);
    for name in allowed {
        check.length("spec.allowedNamespaces[*]", Some(name), 1, 63);
    }
    check.rule(allowed.iter().all(|name| is_label(name)), rules::ALLOWED_NAMESPACES);
    let repeated = allowed.iter().enumerate().any(|(index, name)| allowed[..index].contains(name));
    check.that(!repeated, || "spec.allowedNamespaces names a namespace twice".to_owned());
    let storage = store.and_then(|store| store.embedded.as_ref()?.storage.as_ref());
    check.rule(storage.is_none_or(|storage| storage.volume_claim_template.is_none()), rules::GRANTED_STORAGE);
}

/// Lower-case letters, digits and dashes, with no dash at either end.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

/// Collects problems.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn that(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(Problem(message()));
        }
    }

    fn rule(&mut self, holds: bool, rule: CelRule) {
        self.that(holds, || rule.message.to_owned());
    }

    fn optional<T>(&mut self, value: Option<T>, check: impl FnOnce(&mut Self, T)) {
        if let Some(value) = value {
            check(self, value);
        }
    }

    fn range<T: PartialOrd + ToString + Copy>(&mut self, field: &str, value: Option<T>, least: T, most: T) {
        if let Some(value) = value {
            self.that((&least..=&most).contains(&&value), || {
                let (value, least, most) = (value.to_string(), least.to_string(), most.to_string());
                format!("{field} is {value}; it must lie between {least} and {most}")
            });
        }
    }

    fn length(&mut self, field: &str, text: Option<&String>, least: usize, most: usize) {
        self.range(&format!("{field} (characters)"), text.map(|text| text.chars().count()), least, most);
    }

    /// Where in a Secret something stands.
    fn secret_key(&mut self, field: &str, at: Option<&SecretKeyRef>) {
        self.key(field, at.map(|SecretKeyRef { name, key }| (name, key)));
    }

    /// Where in a `ConfigMap` something stands.
    fn config_map_key(&mut self, field: &str, at: Option<&ConfigMapKeyRef>) {
        self.key(field, at.map(|ConfigMapKeyRef { name, key }| (name, key)));
    }

    fn key(&mut self, field: &str, at: Option<(&String, &String)>) {
        self.length(&format!("{field}.name"), at.map(|(name, _)| name), 1, 253);
        self.length(&format!("{field}.key"), at.map(|(_, key)| key), 1, 253);
    }

    /// The id of an agent or a space, or `*`; the schema has it as a pattern.
    fn id(&mut self, field: &str, text: Option<&String>) {
        self.length(field, text, 1, 253);
        let valid = |text: &String| {
            let bytes = text.as_bytes();
            let ends = [bytes.first(), bytes.last()];
            text == "*"
                || (ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
                    && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(byte)))
        };
        self.that(text.is_none_or(valid), || {
            format!("{field} must be * or an id of letters, digits and -_.:/@, with a letter or digit at both ends")
        });
    }

    fn within(&mut self, value: Option<Duration>, least: Duration, most: Duration, rule: CelRule) {
        self.rule(value.is_none_or(|value| (least..=most).contains(&value)), rule);
    }

    /// Longer than nothing.
    fn positive(&mut self, value: Option<Duration>, rule: CelRule) {
        self.rule(value.is_none_or(|value| !value.get().is_zero()), rule);
    }

    /// CPU and memory that are reserved, within what may be used.
    fn fit(&mut self, requests: Option<&ResourceList>, limits: Option<&ResourceList>, [cpu, memory]: [CelRule; 2]) {
        let fits = |part: fn(&ResourceList) -> Option<&Quantity>| {
            let both = requests.and_then(part).zip(limits.and_then(part));
            both.is_none_or(|(request, limit)| request.amount() <= limit.amount())
        };
        self.rule(fits(|list| list.cpu.as_ref()), cpu);
        self.rule(fits(|list| list.memory.as_ref()), memory);
    }

    fn at_least(&mut self, value: Option<&Quantity>, least: u64, rule: CelRule) {
        self.rule(value.is_none_or(|value| value.amount() >= Amount::of(least)), rule);
    }

    fn at_most(&mut self, value: Option<&Quantity>, most: u64, rule: CelRule) {
        self.rule(value.is_none_or(|value| value.amount() <= Amount::of(most)), rule);
    }
}

fn vector_store(check: &mut Check, VectorStore { embedded, qdrant, managed }: &VectorStore, name: &str) {
    let given = [embedded.is_some(), qdrant.is_some(), managed.is_some()];
    check.rule(given.into_iter().filter(|given| *given).count() == 1, rules::ONE_STORE);
    check.optional(managed.as_ref(), |check, managed| managed::check(check, managed, name));
    check.optional(qdrant.as_ref(), |check, qdrant| self::qdrant(check, qdrant, name));
    let Some(storage) = embedded.as_ref().and_then(|embedded| embedded.storage.as_ref()) else { return };
    check.rule(storage.empty_dir.is_some() != storage.volume_claim_template.is_some(), rules::ONE_STORAGE);
    let size_limit = storage.empty_dir.as_ref().and_then(|volume| volume.size_limit.as_ref());
    check.at_least(size_limit, 16 << 20, rules::SIZE_LIMIT);
    if let Some(claim) = &storage.volume_claim_template {
        let field = |name: &str| format!("spec.vectorStore.embedded.storage.volumeClaimTemplate.{name}");
        check.at_least(Some(&claim.resources.requests.storage), 16 << 20, rules::CLAIM_SIZE);
        check.length(&field("storageClassName"), claim.storage_class_name.as_ref(), 0, 253);
        check.length(&field("volumeName"), claim.volume_name.as_ref(), 1, 253);
        check.range(&field("accessModes (items)"), claim.access_modes.as_ref().map(Vec::len), 1, 4);
    }
}

fn qdrant(check: &mut Check, qdrant: &Qdrant, name: &str) {
    let Qdrant {
        url,
        api_key_secret_ref,
        token,
        tls,
        collection,
        shards,
        replication_factor,
        write_consistency,
        timeout,
    } = qdrant;
    let field = |name: &str| format!("spec.vectorStore.qdrant.{name}");
    check.rule(is_endpoint(url), rules::QDRANT_URL);
    check.length(&field("url"), Some(url), 1, 2048);
    let plain = |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    check.rule(collection.as_ref().is_none_or(plain), rules::COLLECTION_NAME);
    check.length(&field("collection"), collection.as_ref(), 1, 200);
    check.range(&field("shards"), *shards, 1, 1_000);
    check.range(&field("replicationFactor"), *replication_factor, 1, 1_000);
    check.range(&field("writeConsistency"), *write_consistency, 1, 1_000);
    let replicas = replication_factor.unwrap_or_default();
    check.rule(write_consistency.is_none_or(|count| count <= replicas), rules::CONSISTENCY_FITS);
    check.within(*timeout, Duration::from_millis(10), Duration::from_secs(600), rules::QDRANT_TIMEOUT);
    check.rule(token.is_none() || api_key_secret_ref.is_some(), rules::TOKEN_NEEDS_KEY);
    let lifetime = token.as_ref().and_then(|token| token.lifetime);
    check.within(lifetime, Duration::from_secs(600), Duration::from_secs(720 * 3_600), rules::TOKEN_LIFETIME);
    check.rule(tls.is_none() || url.starts_with("https://"), rules::TLS_NEEDS_HTTPS);
    let QdrantTls { ca_secret_ref, ca_config_map_ref, verify } = tls.clone().unwrap_or_default();
    check.rule(ca_secret_ref.is_none() || ca_config_map_ref.is_none(), rules::ONE_CA);
    let has_ca = ca_secret_ref.is_some() || ca_config_map_ref.is_some();
    check.rule(verify.unwrap_or(true) || !has_ca, rules::CA_IS_USED);
    let ours = context_manager_protocol::names::store_secret(name);
    let secrets = [("apiKeySecretRef", api_key_secret_ref), ("tls.caSecretRef", &ca_secret_ref)];
    let taken = secrets.iter().any(|(_, secret)| secret.as_ref().is_some_and(|secret| secret.name == ours));
    check.rule(!taken, rules::STORE_SECRET_IS_NOT_OURS);
    for (part, secret) in secrets {
        check.secret_key(&field(part), secret.as_ref());
    }
    check.config_map_key(&field("tls.caConfigMapRef"), ca_config_map_ref.as_ref());
}

/// Scheme, host and port, and nothing else.
fn is_endpoint(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && !text.contains('@')
    })
}

fn embedding(check: &mut Check, embedding: &Embedding) {
    let Embedding {
        provider,
        url,
        model,
        dimensions,
        api_key_secret_ref,
        tls,
        batch_size,
        timeout,
        cache,
        retry,
        query_prefix,
        document_prefix,
        on_model_change: _,
    } = embedding;
    match provider.unwrap_or_default() {
        Provider::OpenAi => {
            let complete = url.is_some() && model.is_some() && dimensions.is_some();
            check.rule(complete, rules::OPEN_AI_IS_COMPLETE);
        }
        Provider::Builtin => {
            let plain = url.is_none() && model.is_none() && api_key_secret_ref.is_none() && tls.is_none();
            check.rule(plain, rules::BUILTIN_IS_PLAIN);
        }
    }
    check.rule(url.as_deref().is_none_or(callable), rules::URL);
    check.length("spec.embedding.url", url.as_ref(), 1, 2048);
    check.length("spec.embedding.model", model.as_ref(), 1, 256);
    check.range("spec.embedding.dimensions", *dimensions, 1, 8192);
    check.secret_key("spec.embedding.apiKeySecretRef", api_key_secret_ref.as_ref());
    let has_tls = url.as_ref().is_none_or(|url| url.starts_with("https://"));
    check.rule(tls.is_none() || has_tls, rules::EMBEDDING_TLS_NEEDS_HTTPS);
    check.optional(tls.as_ref(), embedding_tls);
    check.range("spec.embedding.batchSize", *batch_size, 1, 2048);
    check.within(*timeout, Duration::from_millis(1), Duration::from_secs(600), rules::EMBEDDING_TIMEOUT);
    check.positive(cache.as_ref().and_then(|cache| cache.ttl), rules::CACHE_TTL);
    check.optional(retry.as_ref(), self::retry);
    check.length("spec.embedding.queryPrefix", query_prefix.as_ref(), 0, 1024);
    check.length("spec.embedding.documentPrefix", document_prefix.as_ref(), 0, 1024);
}

fn embedding_tls(check: &mut Check, EmbeddingTls { ca_secret_ref, ca_config_map_ref }: &EmbeddingTls) {
    check.rule(ca_secret_ref.is_none() || ca_config_map_ref.is_none(), rules::ONE_EMBEDDING_CA);
    check.secret_key("spec.embedding.tls.caSecretRef", ca_secret_ref.as_ref());
    check.config_map_key("spec.embedding.tls.caConfigMapRef", ca_config_map_ref.as_ref());
}

fn callable(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn retry(check: &mut Check, Retry { max_attempts, initial_delay, max_delay, jitter }: &Retry) {
    check.range("spec.embedding.retry.maxAttempts", *max_attempts, 1, 20);
    let initial = initial_delay.unwrap_or(Duration::from_millis(200));
    let longest = max_delay.unwrap_or(Duration::from_secs(30));
    check.rule(!initial.get().is_zero() && initial <= longest, rules::RETRY_DELAYS);
    check.range("spec.embedding.retry.jitter", *jitter, 0.0, 1.0);
}

fn levels(check: &mut Check, Levels { immediate, short_term, long_term, promotion }: &Levels) {
    for (name, level) in [("immediate", immediate), ("shortTerm", short_term)] {
        if let Some(level) = level {
            check.range(&format!("spec.levels.{name}.capacity"), level.capacity, 1, 1_000_000);
            check.positive(level.ttl, rules::TTL);
        }
    }
    check.positive(long_term.as_ref().and_then(|long_term| long_term.ttl), rules::TTL);
    let accesses = promotion.as_ref().and_then(|promotion| promotion.min_accesses);
    check.range("spec.levels.promotion.minAccesses", accesses, 1, 1_000_000);
}

fn gc(check: &mut Check, Gc { interval, batch_size, dry_run: _ }: &Gc) {
    check.within(*interval, Duration::from_secs(1), Duration::from_secs(86_400), rules::GC_INTERVAL);
    check.range("spec.gc.batchSize", *batch_size, 1, 10_000);
}

fn retrieval(check: &mut Check, retrieval: &Retrieval) {
    let Retrieval { legs, nudges, recency_half_life, levels, default_token_budget, min_score, tokenizer: _ } =
        retrieval;
    check.optional(legs.as_ref(), self::legs);
    if let Some(Nudges { recency, frequency, level }) = nudges {
        for (name, nudge) in [("recency", recency), ("frequency", frequency), ("level", level)] {
            check.range(&format!("spec.retrieval.nudges.{name}"), *nudge, 0.0, 0.1);
        }
    }
    check.positive(*recency_half_life, rules::HALF_LIFE);
    check.optional(levels.as_ref(), shares);
    check.range("spec.retrieval.defaultTokenBudget", *default_token_budget, 1, 1_000_000);
    check.range("spec.retrieval.minScore", *min_score, -10.0, 10.0);
}

fn legs(check: &mut Check, Legs { dense, dense_with_previous, sparse, sparse_with_previous }: &Legs) {
    let legs = [
        ("dense", dense, 0.2),
        ("denseWithPrevious", dense_with_previous, 0.2),
        ("sparse", sparse, 0.3),
        ("sparseWithPrevious", sparse_with_previous, 0.3),
    ];
    for (name, weight, _) in legs {
        check.range(&format!("spec.retrieval.legs.{name}"), *weight, 0.0, 1.0);
    }
    check.rule(legs.iter().any(|(_, weight, default)| weight.unwrap_or(*default) > 0.0), rules::A_LEG);
}

fn shares(check: &mut Check, LevelShares { immediate, short_term, long_term }: &LevelShares) {
    let levels = [("immediate", immediate, 0.1), ("shortTerm", short_term, 0.0), ("longTerm", long_term, 0.0)];
    let floor = |share: &Option<Share>, default| share.as_ref().and_then(|share| share.floor).unwrap_or(default);
    let mut below_cap = true;
    let mut sum = 0.0;
    for (name, share, default) in levels {
        let cap = share.as_ref().and_then(|share| share.cap);
        check.range(
            &format!("spec.retrieval.levels.{name}.floor"),
            share.as_ref().and_then(|share| share.floor),
            0.0,
            1.0,
        );
        check.range(&format!("spec.retrieval.levels.{name}.cap"), cap, 0.0, 1.0);
        below_cap &= floor(share, default) <= cap.unwrap_or(1.0);
        sum += floor(share, default);
    }
    check.rule(below_cap, rules::FLOOR_BELOW_CAP);
    check.rule(sum <= 1.0, rules::FLOORS_FIT);
}

fn auth(check: &mut Check, auth: &Auth, name: &str) {
    let Auth { secret_policy, secret_ref, timestamp_window, rotation, access } = auth;
    match secret_policy.unwrap_or_default() {
        SecretPolicy::UseExisting => check.rule(secret_ref.is_some(), rules::SECRET_REF_IS_GIVEN),
        SecretPolicy::Generate => check.rule(secret_ref.is_none(), rules::SECRET_REF_IS_USED),
    }
    if let Some(secret) = secret_ref {
        let ours = context_manager_protocol::names::keys_secret(name);
        check.rule(secret.name != ours, rules::SECRET_IS_NOT_OURS);
        check.length("spec.auth.secretRef.name", Some(&secret.name), 1, 253);
        check.length("spec.auth.secretRef.key", secret.key.as_ref(), 1, 253);
    }
    check.within(*timestamp_window, Duration::from_secs(1), Duration::from_secs(3_600), rules::WINDOW);
    check.optional(rotation.as_ref(), self::rotation);
    let every = rotation.and_then(|rotation| rotation.every);
    let own = secret_policy.unwrap_or_default() == SecretPolicy::UseExisting;
    check.rule(!own || every.is_none(), rules::OWN_KEYS_ARE_ROTATED_BY_HAND);
    if let Some(access) = access {
        check.range("spec.auth.access (items)", Some(access.len()), 1, 64);
        for rule in access {
            access_rule(check, rule);
        }
    }
}

fn rotation(check: &mut Check, Rotation { every, overlap }: &Rotation) {
    let year = Duration::from_secs(8_760 * 3_600);
    check.within(*every, Duration::from_secs(10), Duration::from_secs(87_600 * 3_600), rules::ROTATION_EVERY);
    check.within(*overlap, Duration::from_secs(1), year, rules::ROTATION_OVERLAP);
    let overlap = overlap.unwrap_or(Duration::from_secs(3_600));
    check.rule(every.is_none_or(|every| overlap < every), rules::OVERLAP_FITS);
}

fn access_rule(check: &mut Check, AccessRule { agents, operations, levels, target }: &AccessRule) {
    check.range("spec.auth.access[*].agents (items)", Some(agents.len()), 1, 64);
    for agent in agents {
        check.id("spec.auth.access[*].agents[*]", Some(agent));
    }
    check.range("spec.auth.access[*].operations (items)", Some(operations.len()), 1, 6);
    check.range("spec.auth.access[*].levels (items)", levels.as_ref().map(Vec::len), 1, 3);
    let Target { agent, space, session, tenant } = target;
    let tenant = *tenant == Some(true);
    check.rule(
        [agent.is_some(), space.is_some(), tenant].into_iter().filter(|given| *given).count() == 1,
        rules::ONE_TARGET,
    );
    check.rule(!tenant || session.is_none(), rules::TENANT_IS_WHOLE);
    let moves = |operation: &Operation| matches!(operation, Operation::Export | Operation::Import);
    check.rule(!tenant || operations.iter().all(moves), rules::TENANT_OPERATIONS);
    let immediate = levels.as_ref().is_some_and(|levels| levels.contains(&access::Level::Immediate));
    check.rule(space.is_none() || !immediate, rules::SPACE_LEVELS);
    check.id("spec.auth.access[*].target.agent", agent.as_ref());
    check.id("spec.auth.access[*].target.space", space.as_ref());
    check.length("spec.auth.access[*].target.session", session.as_ref(), 1, 256);
    let is_line = |text: &String| text.trim() == text && !text.chars().any(char::is_control);
    check.that(session.as_ref().is_none_or(is_line), || {
        "spec.auth.access[*].target.session must be one line without white space at its ends".to_owned()
    });
}

fn tls(check: &mut Check, tls: &Tls, name: &str) {
    let Tls { issuer, secret_ref, issuer_ref, duration, renew_before } = tls;
    let given = issuer.unwrap_or_default() == Issuer::Existing;
    check.rule(!given || secret_ref.is_some(), rules::CERTIFICATE_IS_GIVEN);
    check.rule(given || secret_ref.is_none(), rules::CERTIFICATE_IS_USED);
    check.rule(!given || duration.is_none(), rules::DURATION_IS_MADE);
    if let Some(secret) = secret_ref {
        check.rule(secret.name != context_manager_protocol::names::tls_secret(name), rules::CERTIFICATE_IS_NOT_OURS);
        check.length("spec.tls.secretRef.name", Some(&secret.name), 1, 253);
    }
    let asked = issuer.unwrap_or_default() == Issuer::CertManager;
    check.rule(!asked || issuer_ref.is_some(), rules::ISSUER_IS_GIVEN);
    check.rule(asked || issuer_ref.is_none(), rules::ISSUER_IS_USED);
    if let Some(IssuerRef { name, kind, group }) = issuer_ref {
        check.length("spec.tls.issuerRef.name", Some(name), 1, 253);
        check.length("spec.tls.issuerRef.kind", kind.as_ref(), 1, 63);
        check.length("spec.tls.issuerRef.group", group.as_ref(), 1, 253);
    }
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    check.within(*duration, hours(1), hours(8_760), rules::CERTIFICATE_DURATION);
    let arrives = renew_before.is_none_or(|before| before >= Duration::from_secs(300));
    check.rule(given || arrives, rules::RENEWAL_ARRIVES);
    let life = duration.unwrap_or(Duration::from_secs(2_160 * 3_600));
    let in_time = renew_before.is_none_or(|before| !before.get().is_zero() && (given || before < life));
    check.rule(in_time, rules::RENEW_BEFORE);
}

fn tracing(check: &mut Check, tracing: &Tracing) {
    let Tracing { otlp_endpoint, sampling, background_sampling, headers_secret_ref, ca_config_map_ref, timeout, queue } =
        tracing;
    let field = |name: &str| format!("spec.observability.tracing.{name}");
    let is_base =
        !otlp_endpoint.contains(['?', '#', '@']) && !otlp_endpoint.trim_end_matches('/').ends_with("/v1/traces");
    check.rule(callable(otlp_endpoint) && is_base, rules::OTLP_ENDPOINT);
    check.length(&field("otlpEndpoint"), Some(otlp_endpoint), 1, 2048);
    check.range(&field("sampling"), *sampling, 0.0, 1.0);
    check.range(&field("backgroundSampling"), *background_sampling, 0.0, 1.0);
    check.secret_key(&field("headersSecretRef"), headers_secret_ref.as_ref());
    check.config_map_key(&field("caConfigMapRef"), ca_config_map_ref.as_ref());
    check.within(*timeout, Duration::from_millis(10), Duration::from_secs(60), rules::OTLP_TIMEOUT);
    check.range(&field("queue"), *queue, 1, 65_536);
}

fn sidecar(check: &mut Check, sidecar: &Sidecar) {
    let Sidecar {
        image,
        mode: _,
        resources,
        protocol_port,
        admin_port,
        socket: _,
        max_message_size,
        max_bytes_in_flight,
        log_level,
        upgrade,
    } = sidecar;
    check.optional(upgrade.as_ref(), self::upgrade);
    check.length("spec.sidecar.image", image.as_ref(), 1, 512);
    check.optional(resources.as_ref(), self::resources);
    check.range("spec.sidecar.protocolPort", *protocol_port, 1_024, 65_535);
    check.range("spec.sidecar.adminPort", *admin_port, 1_024, 65_535);
    check.rule(protocol_port.unwrap_or(7_419) != admin_port.unwrap_or(7_420), rules::PORTS_DIFFER);
    let size = max_message_size.as_ref();
    let too_small = size.is_some_and(|size| size.amount() < Amount::of(1 << 10));
    if too_small {
        check.at_least(size, 1 << 10, rules::MESSAGE_SIZE);
    } else {
        check.at_most(size, 1 << 30, rules::MESSAGE_SIZE);
    }
    check.optional(max_bytes_in_flight.as_ref(), |check, most| {
        let least = size.map_or(Amount::of(10 << 20), Quantity::amount);
        let fits = (least..=Amount::of(16 << 30)).contains(&most.amount());
        check.rule(fits, rules::BYTES_IN_FLIGHT);
    });
    check.length("spec.sidecar.logLevel", log_level.as_ref(), 1, 256);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:=,-".contains(&byte);
    check.that(log_level.as_ref().is_none_or(|level| level.bytes().all(plain)), || {
        "spec.sidecar.logLevel must be a filter such as info or info,context_manager=debug".to_owned()
    });
}

fn upgrade(check: &mut Check, Upgrade { strategy: _, batch_percent, observe }: &Upgrade) {
    check.range("spec.sidecar.upgrade.batchPercent", *batch_percent, 1, 100);
    check.within(*observe, Duration::from_secs(1), Duration::from_secs(24 * 3_600), rules::UPGRADE_OBSERVE);
}

fn resources(check: &mut Check, Resources { requests, limits }: &Resources) {
    check.fit(requests.as_ref(), limits.as_ref(), [rules::CPU_FITS, rules::MEMORY_FITS]);
}

#[cfg(test)]
mod tests;
