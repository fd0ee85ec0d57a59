//! Resources that break one rule each, for the tests of `crds` and for suites that ask a real API server.

use context_manager_crds::rules;
use serde_json::{Value, json};

/// A resource that breaks a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokenSpec {
    /// What is wrong, in a few words.
    pub case: &'static str,
    /// The resource's name.
    pub name: String,
    /// Its spec.
    pub spec: Value,
    /// What a person must be told; the API server and [`context_manager_crds::validate`] say the same.
    pub message: &'static str,
}

/// A change that breaks a rule; both ends are valid by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokenChange {
    /// What is wrong, in a few words.
    pub case: &'static str,
    /// The spec before.
    pub old: Value,
    /// The spec after.
    pub new: Value,
    /// What a person must be told.
    pub message: &'static str,
}

/// At least one resource for every rule about a resource.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a table, with a line for each rule")]
pub fn broken_specs() -> Vec<BrokenSpec> {
    let named = |case, name: &str, spec, rule: rules::CelRule| BrokenSpec {
        case,
        name: name.to_owned(),
        spec,
        message: rule.message,
    };
    let broken = |case, spec, rule| named(case, "memory", spec, rule);
    let storage = |storage: Value| json!({"vectorStore": {"embedded": {"storage": storage}}});
    let qdrant = |mut qdrant: Value| {
        if qdrant.get("url").is_none() {
            qdrant["url"] = json!("https://qdrant.example.com:6334");
        }
        json!({"vectorStore": {"qdrant": qdrant}})
    };
    let managed = |managed: Value| json!({"vectorStore": {"managed": managed}});
    let bucket = |mut more: Value| {
        for (field, value) in [
            ("bucket", json!("mine")),
            ("accessKeyIdSecretRef", json!({"name": "s3", "key": "id"})),
            ("secretAccessKeySecretRef", json!({"name": "s3", "key": "secret"})),
        ] {
            if more.get(field).is_none() {
                more[field] = value;
            }
        }
        managed(json!({"snapshots": {"storage": {"s3": more}}}))
    };
    let restored = |from: Value| {
        managed(json!({"snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": from}))
    };
    let secret = json!({"name": "a", "key": "b"});
    let embedding = |embedding: Value| json!({"embedding": embedding});
    let open_ai = |mut more: Value| {
        more["provider"] = json!("openAI");
        json!({"embedding": more})
    };
    let sidecar = |sidecar: Value| json!({"sidecar": sidecar});
    let shares = |shares: Value| json!({"retrieval": {"levels": shares}});
    let auth = |auth: Value| json!({"auth": auth});
    let access = |target: Value, mut more: Value| {
        more["agents"] = json!(["*"]);
        more["operations"] = json!(["read"]);
        more["target"] = target;
        json!({"auth": {"access": [more]}})
    };
    let tls = |tls: Value| json!({"tls": tls});
    let traced = |endpoint: &str, timeout: &str| json!({"observability": {"tracing": {"otlpEndpoint": endpoint, "timeout": timeout}}});
    vec![
        named("a name of 49 characters", &"x".repeat(49), json!({}), rules::NAME_LENGTH),
        named(
            "the operator's own Secret as the source",
            "memory",
            auth(json!({"secretPolicy": "UseExisting", "secretRef": {"name": "memory-context-keys"}})),
            rules::SECRET_IS_NOT_OURS,
        ),
        broken("a class in capitals", json!({"controllerClassName": "Blue"}), rules::CLASS_NAME),
        broken("a class that ends with a dash", json!({"controllerClassName": "blue-"}), rules::CLASS_NAME),
        named("a managed Qdrant of 37 characters", &"x".repeat(37), managed(json!({})), rules::MANAGED_NAME),
        named("a managed Qdrant with a dot", "memory.v2", managed(json!({})), rules::MANAGED_NAME),
        broken("two stores", json!({"vectorStore": {"embedded": {}, "managed": {}}}), rules::ONE_STORE),
        broken("three replicas on one node", managed(json!({"replicationFactor": 3})), rules::MANAGED_REPLICATION_FITS),
        broken(
            "three writes of two replicas",
            managed(json!({"replicas": 3, "writeConsistency": 3})),
            rules::MANAGED_CONSISTENCY_FITS,
        ),
        broken("two writes on one node", managed(json!({"writeConsistency": 2})), rules::MANAGED_CONSISTENCY_FITS),
        broken("a call of an hour", managed(json!({"timeout": "1h"})), rules::MANAGED_TIMEOUT),
        broken(
            "a snapshot each second",
            managed(json!({"snapshots": {"every": "1s", "storage": {"volume": {"size": "1Gi"}}}})),
            rules::SNAPSHOT_EVERY,
        ),
        broken(
            "snapshots on a megabyte",
            managed(json!({"snapshots": {"storage": {"volume": {"size": "1Mi"}}}})),
            rules::SNAPSHOT_SIZE,
        ),
        broken("snapshots nowhere", managed(json!({"snapshots": {"storage": {}}})), rules::ONE_SNAPSHOT_STORAGE),
        broken("snapshots in a bucket of two letters", bucket(json!({"bucket": "ab"})), rules::SNAPSHOT_BUCKET),
        broken("snapshots in two lines of a region", bucket(json!({"region": "a\nb"})), rules::SNAPSHOT_REGION),
        broken(
            "snapshots at an address with a bucket",
            bucket(json!({"endpointUrl": "https://s3.example.com/mine"})),
            rules::SNAPSHOT_ENDPOINT,
        ),
        broken(
            "snapshots that two CAs vouch for",
            bucket(json!({"endpointUrl": "https://minio:9000", "caSecretRef": secret, "caConfigMapRef": secret})),
            rules::ONE_SNAPSHOT_CA,
        ),
        broken(
            "a CA for snapshots as plain text",
            bucket(json!({"endpointUrl": "http://minio:9000", "caConfigMapRef": secret})),
            rules::SNAPSHOT_CA_NEEDS_HTTPS,
        ),
        broken("a CA for AWS", bucket(json!({"caSecretRef": secret})), rules::SNAPSHOT_CA_NEEDS_HTTPS),
        broken("snapshots out of the folder", bucket(json!({"prefix": "a/../b"})), rules::SNAPSHOT_PREFIX),
        broken(
            "snapshots on no claim",
            managed(json!({"snapshots": {"storage": {"volume": {}}}})),
            rules::SNAPSHOT_VOLUME,
        ),
        broken(
            "snapshots on two claims",
            managed(json!({"snapshots": {"storage": {"volume": {"size": "1Gi", "claimName": "mine"}}}})),
            rules::SNAPSHOT_VOLUME,
        ),
        broken(
            "a class for a claim that is there",
            managed(json!({"snapshots": {"storage": {"volume": {"claimName": "mine", "storageClassName": "fast"}}}})),
            rules::SNAPSHOT_CLASS,
        ),
        broken(
            "a restoration without a place",
            managed(json!({"restoreFrom": {"snapshot": "latest"}})),
            rules::RESTORE_NEEDS_SNAPSHOTS,
        ),
        broken("a restoration of a day", restored(json!({"snapshot": "yesterday"})), rules::RESTORE_SNAPSHOT),
        broken(
            "a restoration of what is called by a number",
            restored(json!({"snapshot": "latest", "name": "1st"})),
            rules::RESTORE_NAME,
        ),
        broken(
            "a restoration out of a folder",
            restored(json!({"snapshot": "latest", "namespace": "../team-a"})),
            rules::RESTORE_NAMESPACE,
        ),
        broken(
            "a machine with a label of 318 characters",
            managed(json!({"scheduling": {"nodeSelector": {"x".repeat(318): "a"}}})),
            rules::MANAGED_NODE_SELECTOR,
        ),
        broken("a node on a megabyte", managed(json!({"storage": {"size": "1Mi"}})), rules::MANAGED_SIZE),
        broken(
            "a node with more CPU than allowed",
            managed(json!({"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}})),
            rules::MANAGED_CPU_FITS,
        ),
        broken(
            "a node with more memory than allowed",
            managed(json!({"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}})),
            rules::MANAGED_MEMORY_FITS,
        ),
        broken("a pattern of namespaces", json!({"allowedNamespaces": ["team-*"]}), rules::ALLOWED_NAMESPACES),
        broken(
            "a resource instead of a namespace",
            json!({"allowedNamespaces": ["team/memory"]}),
            rules::ALLOWED_NAMESPACES,
        ),
        broken(
            "a claim for several namespaces",
            json!({
                "allowedNamespaces": ["other"],
                "vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": {"resources": {"requests": {"storage": "1Gi"}}}}}},
            }),
            rules::GRANTED_STORAGE,
        ),
        broken("a collector without a scheme", traced("otel:4318", "1s"), rules::OTLP_ENDPOINT),
        broken("a collector's credentials", traced("http://me:secret@otel:4318", "1s"), rules::OTLP_ENDPOINT),
        broken("a collector's whole URL", traced("http://otel:4318/v1/traces", "1s"), rules::OTLP_ENDPOINT),
        broken("a collector with a query", traced("http://otel:4318/?a=b", "1s"), rules::OTLP_ENDPOINT),
        broken("exports of an hour", traced("http://otel:4318", "1h"), rules::OTLP_TIMEOUT),
        broken("no store", json!({"vectorStore": {}}), rules::ONE_STORE),
        broken(
            "two stores",
            json!({"vectorStore": {"embedded": {}, "qdrant": {"url": "https://qdrant.example.com"}}}),
            rules::ONE_STORE,
        ),
        broken("an endpoint without scheme", qdrant(json!({"url": "qdrant:6334"})), rules::QDRANT_URL),
        broken("an endpoint of another scheme", qdrant(json!({"url": "grpc://qdrant"})), rules::QDRANT_URL),
        broken("an endpoint without host", qdrant(json!({"url": "https://"})), rules::QDRANT_URL),
        broken("a path behind an endpoint", qdrant(json!({"url": "https://qdrant/v1"})), rules::QDRANT_URL),
        broken("a query behind an endpoint", qdrant(json!({"url": "https://qdrant?a=b"})), rules::QDRANT_URL),
        broken("a password in an endpoint", qdrant(json!({"url": "https://u:p@qdrant"})), rules::QDRANT_URL),
        broken("a collection with a slash", qdrant(json!({"collection": "a/b"})), rules::COLLECTION_NAME),
        broken(
            "more replicas with a write than replicas",
            qdrant(json!({"replicationFactor": 2, "writeConsistency": 3})),
            rules::CONSISTENCY_FITS,
        ),
        broken("replicas of an unknown number", qdrant(json!({"writeConsistency": 1})), rules::CONSISTENCY_FITS),
        broken("no time to call", qdrant(json!({"timeout": "1ms"})), rules::QDRANT_TIMEOUT),
        broken("an hour to call", qdrant(json!({"timeout": "1h"})), rules::QDRANT_TIMEOUT),
        broken("a token without a key", qdrant(json!({"token": {"policy": "PerResource"}})), rules::TOKEN_NEEDS_KEY),
        broken(
            "a token of a minute",
            qdrant(json!({"apiKeySecretRef": secret, "token": {"lifetime": "1m"}})),
            rules::TOKEN_LIFETIME,
        ),
        broken("TLS over http", qdrant(json!({"url": "http://qdrant", "tls": {}})), rules::TLS_NEEDS_HTTPS),
        broken("two CAs", qdrant(json!({"tls": {"caSecretRef": secret, "caConfigMapRef": secret}})), rules::ONE_CA),
        broken(
            "a CA that is not asked",
            qdrant(json!({"tls": {"verify": false, "caConfigMapRef": secret}})),
            rules::CA_IS_USED,
        ),
        broken(
            "the operator's own Secret as the API key",
            qdrant(json!({"apiKeySecretRef": {"name": "memory-context-store", "key": "qdrant-api-key"}})),
            rules::STORE_SECRET_IS_NOT_OURS,
        ),
        broken(
            "the operator's own Secret as the CA",
            qdrant(json!({"tls": {"caSecretRef": {"name": "memory-context-store", "key": "qdrant-ca.crt"}}})),
            rules::STORE_SECRET_IS_NOT_OURS,
        ),
        broken("no kind of storage", storage(json!({})), rules::ONE_STORAGE),
        broken(
            "two kinds of storage",
            storage(json!({"emptyDir": {}, "volumeClaimTemplate": {"resources": {"requests": {"storage": "1Gi"}}}})),
            rules::ONE_STORAGE,
        ),
        broken("a tiny emptyDir", storage(json!({"emptyDir": {"sizeLimit": "1Mi"}})), rules::SIZE_LIMIT),
        broken(
            "a tiny claim",
            storage(json!({"volumeClaimTemplate": {"resources": {"requests": {"storage": 1024}}}})),
            rules::CLAIM_SIZE,
        ),
        broken("openAI alone", embedding(json!({"provider": "openAI"})), rules::OPEN_AI_IS_COMPLETE),
        broken(
            "openAI without model",
            open_ai(json!({"url": "https://a.example/v1/embeddings", "dimensions": 8})),
            rules::OPEN_AI_IS_COMPLETE,
        ),
        broken("openAI without url", open_ai(json!({"model": "m", "dimensions": 8})), rules::OPEN_AI_IS_COMPLETE),
        broken("builtin with a url", embedding(json!({"url": "https://a.example/v1"})), rules::BUILTIN_IS_PLAIN),
        broken(
            "builtin with an API key",
            embedding(json!({"provider": "builtin", "apiKeySecretRef": {"name": "a", "key": "b"}})),
            rules::BUILTIN_IS_PLAIN,
        ),
        broken("builtin with a CA", embedding(json!({"tls": {"caConfigMapRef": secret}})), rules::BUILTIN_IS_PLAIN),
        broken(
            "a CA of an embeddings API without TLS",
            open_ai(
                json!({"url": "http://a.example/v1", "model": "m", "dimensions": 8, "tls": {"caSecretRef": secret}}),
            ),
            rules::EMBEDDING_TLS_NEEDS_HTTPS,
        ),
        broken(
            "two CAs of an embeddings API",
            open_ai(json!({
                "url": "https://a.example/v1", "model": "m", "dimensions": 8,
                "tls": {"caSecretRef": secret, "caConfigMapRef": secret},
            })),
            rules::ONE_EMBEDDING_CA,
        ),
        broken(
            "a url without scheme",
            open_ai(json!({"url": "a.example/v1", "model": "m", "dimensions": 8})),
            rules::URL,
        ),
        broken(
            "a url of another scheme",
            open_ai(json!({"url": "ftp://a.example/v1", "model": "m", "dimensions": 8})),
            rules::URL,
        ),
        broken("no time to embed", embedding(json!({"timeout": "0s"})), rules::EMBEDDING_TIMEOUT),
        broken("an hour to embed", embedding(json!({"timeout": "1h"})), rules::EMBEDDING_TIMEOUT),
        broken("a cache that forgets at once", embedding(json!({"cache": {"ttl": "0s"}})), rules::CACHE_TTL),
        broken("retries at once", embedding(json!({"retry": {"initialDelay": "0ms"}})), rules::RETRY_DELAYS),
        broken(
            "delays that shrink",
            embedding(json!({"retry": {"initialDelay": "2s", "maxDelay": "1s"}})),
            rules::RETRY_DELAYS,
        ),
        broken("a level without life", json!({"levels": {"shortTerm": {"ttl": "0s"}}}), rules::TTL),
        broken(
            "no leg to stand on",
            json!({"retrieval": {"legs": {"dense": 0, "denseWithPrevious": 0, "sparse": 0, "sparseWithPrevious": 0}}}),
            rules::A_LEG,
        ),
        broken("a half-life of nothing", json!({"retrieval": {"recencyHalfLife": "0s"}}), rules::HALF_LIFE),
        broken(
            "a floor above its cap",
            shares(json!({"longTerm": {"floor": 0.5, "cap": 0.4}})),
            rules::FLOOR_BELOW_CAP,
        ),
        broken("a cap below the default floor", shares(json!({"immediate": {"cap": 0.05}})), rules::FLOOR_BELOW_CAP),
        broken(
            "floors of more than everything",
            shares(json!({"shortTerm": {"floor": 0.5}, "longTerm": {"floor": 0.5}})),
            rules::FLOORS_FIT,
        ),
        broken("collection without a pause", json!({"gc": {"interval": "10ms"}}), rules::GC_INTERVAL),
        broken("collection every other day", json!({"gc": {"interval": "48h"}}), rules::GC_INTERVAL),
        broken(
            "an own Secret without a name",
            auth(json!({"secretPolicy": "UseExisting"})),
            rules::SECRET_REF_IS_GIVEN,
        ),
        broken("a Secret that is not used", auth(json!({"secretRef": {"name": "mine"}})), rules::SECRET_REF_IS_USED),
        broken(
            "rules beside embedded stores",
            access(json!({"space": "team"}), json!({})),
            rules::ACCESS_NEEDS_A_SERVER,
        ),
        broken("a rule for nowhere", access(json!({}), json!({})), rules::ONE_TARGET),
        broken("a rule for two places", access(json!({"space": "t", "agent": "a"}), json!({})), rules::ONE_TARGET),
        broken(
            "a rule for a memory and the tenant",
            access(json!({"space": "t", "tenant": true}), json!({})),
            rules::ONE_TARGET,
        ),
        broken("a rule for no tenant", access(json!({"tenant": false}), json!({})), rules::ONE_TARGET),
        broken("reading the whole tenant", access(json!({"tenant": true}), json!({})), rules::TENANT_OPERATIONS),
        broken(
            "a session of the whole tenant",
            access(json!({"tenant": true, "session": "s"}), json!({})),
            rules::TENANT_IS_WHOLE,
        ),
        broken(
            "the immediate level of a space",
            access(json!({"space": "t"}), json!({"levels": ["immediate"]})),
            rules::SPACE_LEVELS,
        ),
        broken(
            "a pause between rotations of own keys",
            auth(json!({"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}, "rotation": {"every": "24h"}})),
            rules::OWN_KEYS_ARE_ROTATED_BY_HAND,
        ),
        broken(
            "a rotation each second",
            auth(json!({"rotation": {"every": "1s", "overlap": "1s"}})),
            rules::ROTATION_EVERY,
        ),
        broken("a rotation each century", auth(json!({"rotation": {"every": "876000h"}})), rules::ROTATION_EVERY),
        broken("no time to notice", auth(json!({"rotation": {"overlap": "0s"}})), rules::ROTATION_OVERLAP),
        broken("an overlap of two years", auth(json!({"rotation": {"overlap": "17520h"}})), rules::ROTATION_OVERLAP),
        broken(
            "an overlap as long as a key's life",
            auth(json!({"rotation": {"every": "24h", "overlap": "24h"}})),
            rules::OVERLAP_FITS,
        ),
        broken("the default overlap in less", auth(json!({"rotation": {"every": "30m"}})), rules::OVERLAP_FITS),
        broken("a window of a day", auth(json!({"timestampWindow": "24h"})), rules::WINDOW),
        broken("a certificate of nobody", tls(json!({"issuer": "Existing"})), rules::CERTIFICATE_IS_GIVEN),
        broken(
            "a certificate that is not used",
            tls(json!({"secretRef": {"name": "mine"}})),
            rules::CERTIFICATE_IS_USED,
        ),
        broken(
            "another life for a given certificate",
            tls(json!({"issuer": "Existing", "secretRef": {"name": "mine"}, "duration": "24h"})),
            rules::DURATION_IS_MADE,
        ),
        named(
            "the operator's own Secret as the certificate",
            "memory",
            tls(json!({"issuer": "Existing", "secretRef": {"name": "memory-context-tls"}})),
            rules::CERTIFICATE_IS_NOT_OURS,
        ),
        broken("an issuer without a name", tls(json!({"issuer": "CertManager"})), rules::ISSUER_IS_GIVEN),
        broken("an issuer that is not asked", tls(json!({"issuerRef": {"name": "ours"}})), rules::ISSUER_IS_USED),
        broken(
            "a certificate of half an hour by cert-manager",
            tls(json!({"issuer": "CertManager", "issuerRef": {"name": "ours"}, "duration": "30m"})),
            rules::CERTIFICATE_DURATION,
        ),
        broken(
            "a renewal in the last minute by cert-manager",
            tls(json!({"issuer": "CertManager", "issuerRef": {"name": "ours"}, "renewBefore": "1m"})),
            rules::RENEWAL_ARRIVES,
        ),
        broken(
            "a renewal that does not arrive in time",
            tls(json!({"duration": "1h", "renewBefore": "4m"})),
            rules::RENEWAL_ARRIVES,
        ),
        broken("a certificate of a minute", tls(json!({"duration": "1m"})), rules::CERTIFICATE_DURATION),
        broken("a certificate of two years", tls(json!({"duration": "17520h"})), rules::CERTIFICATE_DURATION),
        broken(
            "renewal before the beginning",
            tls(json!({"duration": "1h", "renewBefore": "1h"})),
            rules::RENEW_BEFORE,
        ),
        broken("renewal before the default's beginning", tls(json!({"renewBefore": "2161h"})), rules::RENEW_BEFORE),
        broken(
            "two listeners on one port",
            sidecar(json!({"protocolPort": 9000, "adminPort": 9000})),
            rules::PORTS_DIFFER,
        ),
        broken("the default port taken", sidecar(json!({"adminPort": 7419})), rules::PORTS_DIFFER),
        broken("a glance at canaries", sidecar(json!({"upgrade": {"observe": "0s"}})), rules::UPGRADE_OBSERVE),
        broken("canaries for a week", sidecar(json!({"upgrade": {"observe": "168h"}})), rules::UPGRADE_OBSERVE),
        broken("messages of a byte", sidecar(json!({"maxMessageSize": 1})), rules::MESSAGE_SIZE),
        broken("messages of two gigabytes", sidecar(json!({"maxMessageSize": "2Gi"})), rules::MESSAGE_SIZE),
        broken("no room for a message", sidecar(json!({"maxBytesInFlight": "9Mi"})), rules::BYTES_IN_FLIGHT),
        broken(
            "no room for a message of the largest size",
            sidecar(json!({"maxMessageSize": "100Mi", "maxBytesInFlight": "64Mi"})),
            rules::BYTES_IN_FLIGHT,
        ),
        broken("messages of a terabyte at once", sidecar(json!({"maxBytesInFlight": "1Ti"})), rules::BYTES_IN_FLIGHT),
        broken(
            "more CPU than allowed",
            sidecar(json!({"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 1}}})),
            rules::CPU_FITS,
        ),
        broken(
            "more memory than allowed",
            sidecar(json!({"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}})),
            rules::MEMORY_FITS,
        ),
        broken(
            "more memory than there is",
            sidecar(json!({"resources": {"requests": {"memory": "340282366920939P"}, "limits": {"memory": "1P"}}})),
            rules::MEMORY_FITS,
        ),
    ]
}

/// At least one change for every rule about changes.
#[must_use]
pub fn broken_changes() -> Vec<BrokenChange> {
    let broken = |case, old, new, rule: rules::CelRule| BrokenChange { case, old, new, message: rule.message };
    let claim = |mut template: Value, size: &str| {
        template["resources"] = json!({"requests": {"storage": size}});
        json!({"vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": template}}}})
    };
    let refusing = |mut embedding: Value| {
        embedding["onModelChange"] = json!("Refuse");
        json!({ "embedding": embedding })
    };
    let open_ai = |model: &str, dimensions: i32| {
        let url = "https://a.example/v1/embeddings";
        let model = json!({"provider": "openAI", "url": url, "model": model, "dimensions": dimensions});
        refusing(model)
    };
    let qdrant = |mut qdrant: Value| {
        qdrant["url"] = json!("https://qdrant.example.com");
        json!({"vectorStore": {"qdrant": qdrant}})
    };
    let managed = |managed: Value| json!({"vectorStore": {"managed": managed}});
    vec![
        broken("another operator", json!({}), json!({"controllerClassName": "blue"}), rules::CLASS_IS_FIXED),
        broken("the default operator", json!({"controllerClassName": "blue"}), json!({}), rules::CLASS_IS_FIXED),
        broken("from a server to a managed one", qdrant(json!({})), managed(json!({})), rules::STORE_IS_FIXED),
        broken("from a directory to a managed server", json!({}), managed(json!({})), rules::STORE_IS_FIXED),
        broken(
            "larger nodes",
            managed(json!({})),
            managed(json!({"storage": {"size": "20Gi"}})),
            rules::MANAGED_STORAGE_IS_FIXED,
        ),
        broken(
            "nodes with more room",
            managed(json!({"storage": {"size": "10Gi"}})),
            managed(json!({"storage": {"size": "20Gi"}})),
            rules::MANAGED_VOLUMES_ARE_FIXED,
        ),
        broken(
            "nodes of another class",
            managed(json!({"storage": {"storageClassName": "fast"}})),
            managed(json!({"storage": {"storageClassName": "slow"}})),
            rules::MANAGED_VOLUMES_ARE_FIXED,
        ),
        broken(
            "plain text from now on",
            managed(json!({})),
            managed(json!({"tls": {"enabled": false}})),
            rules::MANAGED_TLS_IS_FIXED,
        ),
        broken(
            "a restoration of what is there",
            managed(json!({"snapshots": {"storage": {"volume": {"claimName": "mine"}}}})),
            managed(
                json!({"snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": {"snapshot": "latest"}}),
            ),
            rules::RESTORE_AT_CREATION,
        ),
        broken(
            "a restoration of another snapshot",
            managed(json!({
                "snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": {"snapshot": "2026-11-27T03-26-40Z"},
            })),
            managed(
                json!({"snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": {"snapshot": "latest"}}),
            ),
            rules::RESTORE_AT_CREATION,
        ),
        broken("from a directory to a server", json!({}), qdrant(json!({})), rules::STORE_IS_FIXED),
        broken("from a server to a directory", qdrant(json!({})), json!({}), rules::STORE_IS_FIXED),
        broken(
            "another collection",
            qdrant(json!({"collection": "a"})),
            qdrant(json!({"collection": "b"})),
            rules::COLLECTION_IS_FIXED,
        ),
        broken(
            "a collection instead of the default",
            qdrant(json!({})),
            qdrant(json!({"collection": "b"})),
            rules::COLLECTION_IS_FIXED,
        ),
        broken("from a pod's volume to a claim", json!({}), claim(json!({}), "1Gi"), rules::STORAGE_KIND_IS_FIXED),
        broken("from a claim to a pod's volume", claim(json!({}), "1Gi"), json!({}), rules::STORAGE_KIND_IS_FIXED),
        broken("another provider", json!({}), open_ai("m", 384), rules::MODEL_IS_FIXED),
        broken("another model", open_ai("m", 8), open_ai("n", 8), rules::MODEL_IS_FIXED),
        broken("another length", json!({}), refusing(json!({"dimensions": 512})), rules::MODEL_IS_FIXED),
        broken("a smaller claim", claim(json!({}), "2Gi"), claim(json!({}), "1Gi"), rules::CLAIM_ONLY_GROWS),
        broken(
            "another class",
            claim(json!({"storageClassName": "fast"}), "1Gi"),
            claim(json!({"storageClassName": "slow"}), "1Gi"),
            rules::CLAIM_IS_FIXED,
        ),
        broken(
            "another volume",
            claim(json!({}), "1Gi"),
            claim(json!({"volumeName": "disk-1"}), "1Gi"),
            rules::CLAIM_IS_FIXED,
        ),
    ]
}
