//! The CEL rules of the schema: each with its message, once, so that the API server and the checks in [`crate::validate`]
//! say the same words.
//!
//! A message names the field and the remedy. Rules of a single field stand on the field, rules between fields on the
//! struct that holds them. Defaults of absent fields are repeated inside the rules, because the schema has none: what a
//! person did not write stays unwritten.

use kube::core::Rule;

/// A rule and what is said when it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CelRule {
    /// The expression that must be true.
    pub cel: &'static str,
    /// What a person is told.
    pub message: &'static str,
}

impl From<CelRule> for Rule {
    fn from(CelRule { cel, message }: CelRule) -> Self {
        Self::new(cel).message(message)
    }
}

const fn rule(cel: &'static str, message: &'static str) -> CelRule {
    CelRule { cel, message }
}

/// Longest name of a resource.
pub const MAX_NAME: usize = 48;

/// The names of children must fit.
pub const NAME_LENGTH: CelRule = rule(
    "self.metadata.name.size() <= 48",
    "metadata.name must be at most 48 characters, because names of Secrets and ConfigMaps are made from it; choose a shorter name",
);
/// What a label's value and the name of an object can have.
pub const CLASS_NAME: CelRule = rule(
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "spec.controllerClassName must be made of lower-case letters, digits and -, and begin and end with a letter or digit",
);
/// Names that a namespace can have.
pub const ALLOWED_NAMESPACES: CelRule = rule(
    "self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))",
    "spec.allowedNamespaces must be names of namespaces: lower-case letters, digits and -, with a letter or digit at both ends; selectors and * are not supported",
);
/// A claim belongs to a namespace.
pub const GRANTED_STORAGE: CelRule = rule(
    "!has(self.allowedNamespaces) || !self.?vectorStore.?embedded.?storage.?volumeClaimTemplate.hasValue()",
    "spec.allowedNamespaces cannot stand beside spec.vectorStore.embedded.storage.volumeClaimTemplate, because a claim cannot be mounted from another namespace; use a Qdrant server or an emptyDir, or make a ContextManager in each namespace",
);
/// Two operators must never work on one resource.
pub const CLASS_IS_FIXED: CelRule = rule(
    "(has(self.controllerClassName) ? self.controllerClassName : 'default') \
     == (has(oldSelf.controllerClassName) ? oldSelf.controllerClassName : 'default')",
    "spec.controllerClassName cannot be changed, because two operators would work on one resource; create a new ContextManager instead",
);
/// The copy of the key ring must not be its own source.
pub const SECRET_IS_NOT_OURS: CelRule = rule(
    "!has(self.spec.auth) || !has(self.spec.auth.secretRef) || self.spec.auth.secretRef.name != self.metadata.name + '-context-keys'",
    "spec.auth.secretRef.name must not be <metadata.name>-context-keys, the Secret that the operator writes; give your Secret another name",
);
/// The copy of the credentials must not be its own source.
pub const STORE_SECRET_IS_NOT_OURS: CelRule = rule(
    "!self.spec.?vectorStore.?qdrant.hasValue() \
     || ((!has(self.spec.vectorStore.qdrant.apiKeySecretRef) \
     || self.spec.vectorStore.qdrant.apiKeySecretRef.name != self.metadata.name + '-context-store') \
     && (!self.spec.vectorStore.qdrant.?tls.?caSecretRef.hasValue() \
     || self.spec.vectorStore.qdrant.tls.caSecretRef.name != self.metadata.name + '-context-store'))",
    "spec.vectorStore.qdrant: apiKeySecretRef and tls.caSecretRef must not name <metadata.name>-context-store, the Secret that the operator writes; give your Secret another name",
);
/// The copy of the certificate must not be its own source.
pub const CERTIFICATE_IS_NOT_OURS: CelRule = rule(
    "!self.spec.?tls.?secretRef.hasValue() || self.spec.tls.secretRef.name != self.metadata.name + '-context-tls'",
    "spec.tls.secretRef.name must not be <metadata.name>-context-tls, the Secret that the operator writes; give your Secret another name",
);
/// Longest name of a resource with a managed Qdrant.
pub const MAX_MANAGED_NAME: usize = 36;
/// The names of pods and Services must fit.
pub const MANAGED_NAME: CelRule = rule(
    "!self.spec.?vectorStore.?managed.hasValue() \
     || (self.metadata.name.size() <= 36 && self.metadata.name.matches('^[a-z][-a-z0-9]*$'))",
    "metadata.name must begin with a letter, have no dot and at most 36 characters with spec.vectorStore.managed, because names of pods and Services are made from it; choose another name",
);
/// Data does not move by itself.
pub const STORE_IS_FIXED: CelRule = rule(
    "self.?vectorStore.?qdrant.hasValue() == oldSelf.?vectorStore.?qdrant.hasValue() \
     && self.?vectorStore.?managed.hasValue() == oldSelf.?vectorStore.?managed.hasValue()",
    "spec.vectorStore cannot change between embedded, qdrant and managed, because data does not move by itself; create a new ContextManager instead",
);
/// Data does not move by itself.
pub const STORAGE_KIND_IS_FIXED: CelRule = rule(
    "self.?vectorStore.?embedded.?storage.?volumeClaimTemplate.hasValue() == oldSelf.?vectorStore.?embedded.?storage.?volumeClaimTemplate.hasValue()",
    "spec.vectorStore.embedded.storage cannot change between emptyDir and volumeClaimTemplate, because data does not move by itself; create a new ContextManager instead",
);
/// Vectors of two models cannot be compared, so contexts get new ones or the model stays.
pub const MODEL_IS_FIXED: CelRule = rule(
    "!has(self.embedding) || !has(self.embedding.onModelChange) || self.embedding.onModelChange != 'Refuse' || (\
     (has(self.embedding.provider) && self.embedding.provider != 'builtin') == (has(oldSelf.embedding) && \
     has(oldSelf.embedding.provider) && oldSelf.embedding.provider != 'builtin') && \
     has(self.embedding.model) == (has(oldSelf.embedding) && has(oldSelf.embedding.model)) && \
     (!has(self.embedding.model) || self.embedding.model == oldSelf.embedding.model) && \
     (has(self.embedding.dimensions) ? self.embedding.dimensions : 384) == (has(oldSelf.embedding) && \
     has(oldSelf.embedding.dimensions) ? oldSelf.embedding.dimensions : 384))",
    "spec.embedding: with onModelChange: Refuse, provider, model and dimensions cannot be changed, because vectors of two models cannot be compared; set onModelChange: ReEmbed, and contexts get vectors of the new model",
);

/// One store.
pub const ONE_STORE: CelRule = rule(
    "[has(self.embedded), has(self.qdrant), has(self.managed)].filter(given, given).size() == 1",
    "spec.vectorStore needs exactly one of embedded, qdrant and managed; leave vectorStore out for an embedded store",
);
/// An endpoint that can be called.
pub const QDRANT_URL: CelRule = rule(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' \
     && url(self).getEscapedPath() in ['', '/'] && size(url(self).getQuery()) == 0 && !self.contains('@')",
    "spec.vectorStore.qdrant.url must be http:// or https:// with a host, the gRPC port (6334 when left out) and nothing else, as https://qdrant.example.com:6334",
);
/// A name that a folder can have.
pub const COLLECTION_NAME: CelRule = rule(
    "self.matches('^[A-Za-z0-9_-]+$')",
    "spec.vectorStore.qdrant.collection must be made of letters, digits, - and _",
);
/// Data does not move by itself.
pub const COLLECTION_IS_FIXED: CelRule = rule(
    "has(self.collection) == has(oldSelf.collection) && (!has(self.collection) || self.collection == oldSelf.collection)",
    "spec.vectorStore.qdrant.collection cannot be changed, because data does not move by itself; create a new ContextManager instead",
);
/// No more replicas than there are.
pub const CONSISTENCY_FITS: CelRule = rule(
    "!has(self.writeConsistency) || (has(self.replicationFactor) && self.writeConsistency <= self.replicationFactor)",
    "spec.vectorStore.qdrant.writeConsistency needs replicationFactor and must not exceed it",
);
/// Longest time of a call.
pub const QDRANT_TIMEOUT: CelRule = rule(
    "duration(self) >= duration('10ms') && duration(self) <= duration('10m')",
    "spec.vectorStore.qdrant.timeout must lie between 10ms and 10m",
);
/// A token is signed with the key.
pub const TOKEN_NEEDS_KEY: CelRule = rule(
    "!has(self.token) || has(self.apiKeySecretRef)",
    "spec.vectorStore.qdrant.token needs apiKeySecretRef, because tokens are signed with the API key; add it, or remove token",
);
/// Long enough to reach the pods, and short enough to be worth it.
pub const TOKEN_LIFETIME: CelRule = rule(
    "duration(self) >= duration('10m') && duration(self) <= duration('720h')",
    "spec.vectorStore.qdrant.token.lifetime must lie between 10m and 720h",
);
/// Nothing to prove without TLS.
pub const TLS_NEEDS_HTTPS: CelRule = rule(
    "!has(self.tls) || self.url.startsWith('https://')",
    "spec.vectorStore.qdrant.tls needs a url that starts with https://; change the url, or remove tls",
);
/// One source.
pub const ONE_CA: CelRule = rule(
    "!has(self.caSecretRef) || !has(self.caConfigMapRef)",
    "spec.vectorStore.qdrant.tls takes one of caSecretRef and caConfigMapRef; remove the other",
);
/// Who is not asked needs nobody to vouch.
pub const CA_IS_USED: CelRule = rule(
    "self.?verify.orValue(true) || !(has(self.caSecretRef) || has(self.caConfigMapRef))",
    "spec.vectorStore.qdrant.tls: a CA means nothing with verify: false; remove verify, so that the server is checked against it",
);
/// One kind of storage.
pub const ONE_STORAGE: CelRule = rule(
    "has(self.emptyDir) != has(self.volumeClaimTemplate)",
    "spec.vectorStore.embedded.storage needs exactly one of emptyDir and volumeClaimTemplate; leave storage out for an emptyDir",
);
/// Room for the engine.
pub const SIZE_LIMIT: CelRule = rule(
    "quantity(string(self)).compareTo(quantity('16Mi')) >= 0",
    "spec.vectorStore.embedded.storage.emptyDir.sizeLimit must be at least 16Mi",
);
/// Room for the engine.
pub const CLAIM_SIZE: CelRule = rule(
    "quantity(string(self)).compareTo(quantity('16Mi')) >= 0",
    "spec.vectorStore.embedded.storage.volumeClaimTemplate.resources.requests.storage must be at least 16Mi",
);
/// Volumes do not shrink.
pub const CLAIM_ONLY_GROWS: CelRule = rule(
    "quantity(string(self.resources.requests.storage)).compareTo(quantity(string(oldSelf.resources.requests.storage))) >= 0",
    "spec.vectorStore.embedded.storage.volumeClaimTemplate.resources.requests.storage can only grow",
);
/// Each replica is on a node of its own.
pub const MANAGED_REPLICATION_FITS: CelRule = rule(
    "!has(self.replicationFactor) || self.replicationFactor <= self.?replicas.orValue(1)",
    "spec.vectorStore.managed.replicationFactor must not exceed replicas, because each replica of a shard is on another node",
);
/// No more replicas than there are.
pub const MANAGED_CONSISTENCY_FITS: CelRule = rule(
    "!has(self.writeConsistency) || self.writeConsistency <= self.?replicationFactor.orValue(2) \
     && self.writeConsistency <= self.?replicas.orValue(1)",
    "spec.vectorStore.managed.writeConsistency must not exceed replicationFactor, which is 2 unless given, or 1 with one node",
);
/// A claim is bound once.
pub const MANAGED_STORAGE_IS_FIXED: CelRule = rule(
    "has(self.storage) == has(oldSelf.storage)",
    "spec.vectorStore.managed.storage cannot be changed, because the claims of a StatefulSet are made once; create a new ContextManager instead",
);
/// A claim is bound once.
pub const MANAGED_VOLUMES_ARE_FIXED: CelRule = rule(
    "has(self.size) == has(oldSelf.size) && (!has(self.size) || self.size == oldSelf.size) \
     && has(self.storageClassName) == has(oldSelf.storageClassName) \
     && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    "spec.vectorStore.managed.storage: size and storageClassName cannot be changed, because the claims of a StatefulSet are made once; create a new ContextManager instead",
);
/// Nodes remember how they reach each other.
pub const MANAGED_TLS_IS_FIXED: CelRule = rule(
    "self.?tls.?enabled.orValue(true) == oldSelf.?tls.?enabled.orValue(true)",
    "spec.vectorStore.managed.tls.enabled cannot be changed, because nodes remember how they reach each other; create a new ContextManager instead",
);
/// Longest time of a call.
pub const MANAGED_TIMEOUT: CelRule = rule(
    "duration(self) >= duration('10ms') && duration(self) <= duration('10m')",
    "spec.vectorStore.managed.timeout must lie between 10ms and 10m",
);
/// What a label can be called.
pub const MANAGED_NODE_SELECTOR: CelRule = rule(
    "self.all(key, key.size() <= 317)",
    "spec.vectorStore.managed.scheduling.nodeSelector must have keys of at most 317 characters, as labels have",
);
/// Room for Qdrant.
pub const MANAGED_SIZE: CelRule = rule(
    "quantity(string(self)).compareTo(quantity('256Mi')) >= 0",
    "spec.vectorStore.managed.storage.size must be at least 256Mi",
);
/// Time between snapshots.
pub const SNAPSHOT_EVERY: CelRule = rule(
    "duration(self) >= duration('1m') && duration(self) <= duration('8760h')",
    "spec.vectorStore.managed.snapshots.every must lie between 1m and 8760h",
);
/// One place.
pub const ONE_SNAPSHOT_STORAGE: CelRule = rule(
    "has(self.volume) != has(self.s3)",
    "spec.vectorStore.managed.snapshots.storage must have exactly one of volume and s3",
);
/// Names that a bucket can have.
pub const SNAPSHOT_BUCKET: CelRule = rule(
    "self.matches('^[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]$')",
    "spec.vectorStore.managed.snapshots.storage.s3.bucket must be 3 to 63 lower-case letters, digits, - and ., with a letter or digit at both ends",
);
/// Names that a region can have.
pub const SNAPSHOT_REGION: CelRule = rule(
    "self.matches('^[-a-z0-9]+$')",
    "spec.vectorStore.managed.snapshots.storage.s3.region must be made of lower-case letters, digits and -",
);
/// Where a bucket is.
pub const SNAPSHOT_ENDPOINT: CelRule = rule(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' \
     && url(self).getEscapedPath() in ['', '/'] && url(self).getQuery().size() == 0 && !self.contains('@') && !self.contains('#')",
    "spec.vectorStore.managed.snapshots.storage.s3.endpointUrl must be http or https, a host and a port, such as https://minio.storage.svc:9000; the bucket has a field of its own",
);
/// One source.
pub const ONE_SNAPSHOT_CA: CelRule = rule(
    "!has(self.caSecretRef) || !has(self.caConfigMapRef)",
    "spec.vectorStore.managed.snapshots.storage.s3 takes one of caSecretRef and caConfigMapRef; remove the other",
);
/// Only who is asked for a certificate needs somebody to vouch, and AWS has a CA of the web.
pub const SNAPSHOT_CA_NEEDS_HTTPS: CelRule = rule(
    "!(has(self.caSecretRef) || has(self.caConfigMapRef)) || self.?endpointUrl.orValue('').startsWith('https://')",
    "spec.vectorStore.managed.snapshots.storage.s3: a CA needs an endpointUrl that starts with https://; write one, or remove the CA",
);
/// What can be part of a file's name.
pub const SNAPSHOT_PREFIX: CelRule = rule(
    "self.matches('^[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$')",
    "spec.vectorStore.managed.snapshots.storage.s3.prefix must be made of letters, digits, -, _ and ., in parts with / between that begin with a letter, a digit or _",
);
/// One claim.
pub const SNAPSHOT_VOLUME: CelRule = rule(
    "has(self.size) != has(self.claimName)",
    "spec.vectorStore.managed.snapshots.storage.volume must have either size, of a claim that the operator makes, or claimName, of one that is there",
);
/// What is there has its class already.
pub const SNAPSHOT_CLASS: CelRule = rule(
    "!has(self.storageClassName) || !has(self.claimName)",
    "spec.vectorStore.managed.snapshots.storage.volume.storageClassName cannot stand beside claimName, because a claim that is there has its class already; leave it out",
);
/// Room for snapshots.
pub const SNAPSHOT_SIZE: CelRule = rule(
    "quantity(string(self)).compareTo(quantity('256Mi')) >= 0",
    "spec.vectorStore.managed.snapshots.storage.volume.size must be at least 256Mi",
);
/// There is no other place to restore from.
pub const RESTORE_NEEDS_SNAPSHOTS: CelRule = rule(
    "!has(self.restoreFrom) || has(self.snapshots)",
    "spec.vectorStore.managed.restoreFrom needs snapshots beside it, because what is restored lies in snapshots.storage",
);
/// Nothing is written over.
pub const RESTORE_AT_CREATION: CelRule = rule(
    "!has(self.restoreFrom) || (has(oldSelf.restoreFrom) && self.restoreFrom == oldSelf.restoreFrom)",
    "spec.vectorStore.managed.restoreFrom counts when the resource is created, and can only be removed afterwards; create a new ContextManager from the snapshot instead",
);
/// Names as the operator gives them.
pub const RESTORE_SNAPSHOT: CelRule = rule(
    "self == 'latest' || self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z$')",
    "spec.vectorStore.managed.restoreFrom.snapshot must be latest, or the name of a snapshot, such as 2026-11-27T03-26-40Z",
);
/// Names that a resource with a managed Qdrant can have.
pub const RESTORE_NAME: CelRule = rule(
    "self.size() <= 36 && self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "spec.vectorStore.managed.restoreFrom.name must be the name of the ContextManager that took the snapshot: at most 36 lower-case letters, digits and -, with a letter at the beginning and a letter or digit at the end",
);
/// Names that a namespace can have.
pub const RESTORE_NAMESPACE: CelRule = rule(
    "self.size() <= 63 && self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "spec.vectorStore.managed.restoreFrom.namespace must be the namespace of the ContextManager that took the snapshot: at most 63 lower-case letters, digits and -, with a letter or digit at both ends",
);
/// Requests within limits.
pub const MANAGED_CPU_FITS: CelRule = rule(
    "!self.?requests.?cpu.hasValue() || !self.?limits.?cpu.hasValue() \
     || quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0",
    "spec.vectorStore.managed.resources.requests.cpu must not exceed limits.cpu",
);
/// Requests within limits.
pub const MANAGED_MEMORY_FITS: CelRule = rule(
    "!self.?requests.?memory.hasValue() || !self.?limits.?memory.hasValue() \
     || quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0",
    "spec.vectorStore.managed.resources.requests.memory must not exceed limits.memory",
);
/// A claim is bound once.
pub const CLAIM_IS_FIXED: CelRule = rule(
    "has(self.storageClassName) == has(oldSelf.storageClassName) \
     && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName) \
     && has(self.volumeName) == has(oldSelf.volumeName) \
     && (!has(self.volumeName) || self.volumeName == oldSelf.volumeName) \
     && has(self.accessModes) == has(oldSelf.accessModes) \
     && (!has(self.accessModes) || self.accessModes == oldSelf.accessModes)",
    "spec.vectorStore.embedded.storage.volumeClaimTemplate: storageClassName, accessModes and volumeName cannot be changed, because a claim is bound once; create a new ContextManager instead",
);

/// What an HTTP API needs.
pub const OPEN_AI_IS_COMPLETE: CelRule = rule(
    "self.?provider.orValue('builtin') != 'openAI' || (has(self.url) && has(self.model) && has(self.dimensions))",
    "spec.embedding: provider openAI needs url (of the embeddings API, as https://api.example.com/v1/embeddings), model and dimensions",
);
/// What the builtin embedder cannot use.
pub const BUILTIN_IS_PLAIN: CelRule = rule(
    "self.?provider.orValue('builtin') != 'builtin' \
     || !(has(self.url) || has(self.model) || has(self.apiKeySecretRef) || has(self.tls))",
    "spec.embedding: url, model, apiKeySecretRef and tls are only for provider openAI; remove them, or set provider: openAI",
);
/// A URL that can be called.
pub const URL: CelRule = rule(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",
    "spec.embedding.url must be a URL that starts with http:// or https://, as https://api.example.com/v1/embeddings",
);
/// Nothing to prove without TLS. Who has no url is told so by another rule.
pub const EMBEDDING_TLS_NEEDS_HTTPS: CelRule = rule(
    "!has(self.tls) || !has(self.url) || self.url.startsWith('https://')",
    "spec.embedding.tls needs a url that starts with https://; change the url, or remove tls",
);
/// One source.
pub const ONE_EMBEDDING_CA: CelRule = rule(
    "!has(self.caSecretRef) || !has(self.caConfigMapRef)",
    "spec.embedding.tls takes one of caSecretRef and caConfigMapRef; remove the other",
);
/// Deadline of an embedding.
pub const EMBEDDING_TIMEOUT: CelRule = rule(
    "duration(self) > duration('0s') && duration(self) <= duration('10m')",
    "spec.embedding.timeout must be longer than 0s and at most 10m",
);
/// Life of a cached vector.
pub const CACHE_TTL: CelRule = rule(
    "duration(self) > duration('0s')",
    "spec.embedding.cache.ttl must be longer than 0s; set capacity: 0 to switch the cache off",
);
/// Delays grow.
pub const RETRY_DELAYS: CelRule = rule(
    "duration(self.?initialDelay.orValue('200ms')) > duration('0s') \
     && duration(self.?initialDelay.orValue('200ms')) <= duration(self.?maxDelay.orValue('30s'))",
    "spec.embedding.retry.initialDelay must be longer than 0s and at most maxDelay (30s when left out)",
);

/// A life of nothing.
pub const TTL: CelRule = rule(
    "duration(self) > duration('0s')",
    "spec.levels: a ttl must be longer than 0s; leave it out for the level's default",
);
/// A leg to stand on.
pub const A_LEG: CelRule = rule(
    "self.?dense.orValue(0.2) > 0.0 || self.?denseWithPrevious.orValue(0.2) > 0.0 \
     || self.?sparse.orValue(0.3) > 0.0 || self.?sparseWithPrevious.orValue(0.3) > 0.0",
    "spec.retrieval.legs: at least one leg needs a weight above 0",
);
/// A half-life of nothing.
pub const HALF_LIFE: CelRule =
    rule("duration(self) > duration('0s')", "spec.retrieval.recencyHalfLife must be longer than 0s");
/// At least and at most.
pub const FLOOR_BELOW_CAP: CelRule = rule(
    "self.?immediate.?floor.orValue(0.1) <= self.?immediate.?cap.orValue(1.0) \
     && self.?shortTerm.?floor.orValue(0.0) <= self.?shortTerm.?cap.orValue(1.0) \
     && self.?longTerm.?floor.orValue(0.0) <= self.?longTerm.?cap.orValue(1.0)",
    "spec.retrieval.levels: the floor of a level must not exceed its cap; the floor of immediate is 0.1 when left out",
);
/// No more than all of it.
pub const FLOORS_FIT: CelRule = rule(
    "self.?immediate.?floor.orValue(0.1) + self.?shortTerm.?floor.orValue(0.0) + self.?longTerm.?floor.orValue(0.0) <= 1.0",
    "spec.retrieval.levels: the floors of all levels together must be at most 1; the floor of immediate is 0.1 when left out",
);
/// Time between two collections.
pub const GC_INTERVAL: CelRule = rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('24h')",
    "spec.gc.interval must lie between 1s and 24h",
);

/// One memory, of an agent or of nobody, or all of them.
pub const ONE_TARGET: CelRule = rule(
    "[has(self.agent), has(self.space), self.?tenant.orValue(false)].filter(given, given).size() == 1",
    "spec.auth.access[*].target needs exactly one of agent, space and tenant",
);
/// A tenant is moved as a whole.
pub const TENANT_IS_WHOLE: CelRule = rule(
    "!self.?tenant.orValue(false) || !has(self.session)",
    "spec.auth.access[*].target.session: the whole tenant has no one session; leave it out beside tenant",
);
/// A tenant is moved, and nothing else is done with all of it.
pub const TENANT_OPERATIONS: CelRule = rule(
    "!self.target.?tenant.orValue(false) || self.operations.all(operation, operation in ['export', 'import'])",
    "spec.auth.access[*].operations: the whole tenant can only be exported and imported; for other operations name agents and spaces as targets",
);
/// Immediate memory is one agent's.
pub const SPACE_LEVELS: CelRule = rule(
    "!has(self.target.space) || !has(self.levels) || !('immediate' in self.levels)",
    "spec.auth.access[*].levels: a shared space has no immediate level; use shortTerm or longTerm",
);
/// What lies in a pod cannot be shared.
pub const ACCESS_NEEDS_A_SERVER: CelRule = rule(
    "!self.?auth.?access.hasValue() || self.?vectorStore.?qdrant.hasValue() || self.?vectorStore.?managed.hasValue()",
    "spec.auth.access needs spec.vectorStore.qdrant or managed, because each agent's embedded store is a directory that no other agent sees; use a Qdrant server, or remove the rules",
);

/// An own Secret is named.
pub const SECRET_REF_IS_GIVEN: CelRule = rule(
    "self.?secretPolicy.orValue('Generate') != 'UseExisting' || has(self.secretRef)",
    "spec.auth.secretRef must name your Secret when secretPolicy is UseExisting",
);
/// A generated one is not.
pub const SECRET_REF_IS_USED: CelRule = rule(
    "self.?secretPolicy.orValue('Generate') != 'Generate' || !has(self.secretRef)",
    "spec.auth.secretRef is only for secretPolicy UseExisting; remove it, or set secretPolicy: UseExisting",
);
/// The operator makes no key for a Secret of the user.
pub const OWN_KEYS_ARE_ROTATED_BY_HAND: CelRule = rule(
    "self.?secretPolicy.orValue('Generate') != 'UseExisting' || !self.?rotation.?every.hasValue()",
    "spec.auth.rotation.every is only for secretPolicy Generate, because keys of your Secret are made by you; remove it, and write a new active key to your Secret when it is time",
);
/// A life that rotations can keep up with.
pub const ROTATION_EVERY: CelRule = rule(
    "duration(self) >= duration('10s') && duration(self) <= duration('87600h')",
    "spec.auth.rotation.every must lie between 10s and 87600h (ten years); hours or days are usual",
);
/// Time to notice.
pub const ROTATION_OVERLAP: CelRule = rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('8760h')",
    "spec.auth.rotation.overlap must lie between 1s and 8760h (one year)",
);
/// A replaced key ends before the next one is replaced.
pub const OVERLAP_FITS: CelRule = rule(
    "!has(self.every) || duration(self.?overlap.orValue('1h')) < duration(self.every)",
    "spec.auth.rotation.overlap (1h when left out) must be shorter than every",
);
/// Long enough to see a crash.
pub const UPGRADE_OBSERVE: CelRule = rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('24h')",
    "spec.sidecar.upgrade.observe must lie between 1s and 24h",
);
/// A window that clocks fit in.
pub const WINDOW: CelRule = rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
    "spec.auth.timestampWindow must lie between 1s and 1h",
);
/// A life that renewal can keep up with.
pub const CERTIFICATE_DURATION: CelRule = rule(
    "duration(self) >= duration('1h') && duration(self) <= duration('8760h')",
    "spec.tls.duration must lie between 1h and 8760h (one year)",
);
/// A certificate that is given is named.
pub const CERTIFICATE_IS_GIVEN: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') != 'Existing' || has(self.secretRef)",
    "spec.tls.secretRef must name your Secret with tls.crt, tls.key and ca.crt when issuer is Existing",
);
/// One that is made is not.
pub const CERTIFICATE_IS_USED: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') == 'Existing' || !has(self.secretRef)",
    "spec.tls.secretRef is only for issuer Existing; remove it, or set issuer: Existing",
);
/// A certificate that is given has a life already.
pub const DURATION_IS_MADE: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') != 'Existing' || !has(self.duration)",
    "spec.tls.duration is not for issuer Existing, because whoever made the certificate gave it its end; remove it",
);
/// An issuer that is asked is named.
pub const ISSUER_IS_GIVEN: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') != 'CertManager' || has(self.issuerRef)",
    "spec.tls.issuerRef must name an Issuer or ClusterIssuer of cert-manager when issuer is CertManager",
);
/// One that is not asked is not.
pub const ISSUER_IS_USED: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') == 'CertManager' || !has(self.issuerRef)",
    "spec.tls.issuerRef is only for issuer CertManager; remove it, or set issuer: CertManager",
);
/// Time for a renewed certificate to reach every pod.
pub const RENEWAL_ARRIVES: CelRule = rule(
    "self.?issuer.orValue('SelfManaged') == 'Existing' || duration(self.?renewBefore.orValue('5m')) >= duration('5m')",
    "spec.tls.renewBefore must be at least 5m, because a renewed certificate takes minutes until it is in every pod; only with issuer Existing, where nobody renews it, it may be less",
);
/// Renewal before the end.
pub const RENEW_BEFORE: CelRule = rule(
    "!has(self.renewBefore) || (duration(self.renewBefore) > duration('0s') \
     && (self.?issuer.orValue('SelfManaged') == 'Existing' \
     || duration(self.renewBefore) < duration(self.?duration.orValue('2160h'))))",
    "spec.tls.renewBefore must be longer than 0s and shorter than duration (2160h when left out)",
);

/// A base URL, and nothing that is not for everybody's eyes.
pub const OTLP_ENDPOINT: CelRule = rule(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != '' \
     && !self.contains('?') && !self.contains('#') && !self.contains('@') && !self.matches('/v1/traces/*$')",
    "spec.observability.tracing.otlpEndpoint must be the collector's base URL for OTLP over HTTP, as http://otel-collector.observability:4318, without credentials (headersSecretRef is for them), query and /v1/traces",
);
/// Longest time of an attempt.
pub const OTLP_TIMEOUT: CelRule = rule(
    "duration(self) >= duration('10ms') && duration(self) <= duration('1m')",
    "spec.observability.tracing.timeout must lie between 10ms and 1m",
);

/// Two listeners.
pub const PORTS_DIFFER: CelRule = rule(
    "self.?protocolPort.orValue(7419) != self.?adminPort.orValue(7420)",
    "spec.sidecar.protocolPort (7419 when left out) and adminPort (7420 when left out) must differ",
);
/// Bounds of a message.
pub const MESSAGE_SIZE: CelRule = rule(
    "quantity(string(self)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self)).compareTo(quantity('1Gi')) <= 0",
    "spec.sidecar.maxMessageSize must lie between 1Ki and 1Gi",
);
/// Room for at least one of the largest messages.
pub const BYTES_IN_FLIGHT: CelRule = rule(
    "!self.?maxBytesInFlight.hasValue() || (quantity(string(self.maxBytesInFlight)).compareTo(quantity('16Gi')) <= 0 \
     && (self.?maxMessageSize.hasValue() \
     ? quantity(string(self.maxBytesInFlight)).compareTo(quantity(string(self.maxMessageSize))) >= 0 \
     : quantity(string(self.maxBytesInFlight)).compareTo(quantity('10Mi')) >= 0))",
    "spec.sidecar.maxBytesInFlight must lie between maxMessageSize (10Mi when left out) and 16Gi",
);
/// Requests within limits.
pub const CPU_FITS: CelRule = rule(
    "!self.?requests.?cpu.hasValue() || !self.?limits.?cpu.hasValue() \
     || quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0",
    "spec.sidecar.resources.requests.cpu must not exceed limits.cpu",
);
/// Requests within limits.
pub const MEMORY_FITS: CelRule = rule(
    "!self.?requests.?memory.hasValue() || !self.?limits.?memory.hasValue() \
     || quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0",
    "spec.sidecar.resources.requests.memory must not exceed limits.memory",
);
