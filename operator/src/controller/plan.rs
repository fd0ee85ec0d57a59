//! What a valid resource asks for, with every default decided: pure.

mod managed;
mod store;

use std::time::Duration;

use context_manager_crds::{
    ContextManager,
    context_manager::{
        ReclaimPolicy,
        auth::SecretPolicy,
        embedding::{EmbeddingTls, SecretKeyRef},
        qdrant::ConfigMapKeyRef,
        sidecar::UpgradeStrategy,
        tls::{Issuer, IssuerRef, Tls},
        vector_store::{AccessMode, VolumeClaimTemplate},
    },
    duration::Duration as DurationText,
    quantity::Quantity,
    validate::validate,
};
use context_manager_protocol::{config::SidecarConfig, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

use super::config::sidecar_config;
use crate::{pki::client::Identity, upgrade::Request};
pub use managed::{ManagedPlan, RestorePlan, SnapshotPlace, SnapshotPlan, Source};
pub use store::{CaSource, Overlap, QdrantPlan, RunBy};

/// How long a certificate lives unless the resource says otherwise.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// Share of the pods whose sidecars are upgraded at a time unless the resource says otherwise, in percent.
const UPGRADE_BATCH: usize = 10;
/// How long an upgraded sidecar is watched unless the resource says otherwise.
const UPGRADE_OBSERVE: Duration = Duration::from_secs(30);
/// How long a replaced key verifies unless the resource says otherwise.
const KEY_OVERLAP: Duration = Duration::from_hours(1);

/// What a resource asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The reference by which children belong to it.
    pub owner: OwnerReference,
    /// Where the key ring comes from.
    pub keys: KeySource,
    /// When its key is replaced.
    pub rotation: RotationPlan,
    /// The Secret with the embedding API's key; made by the user, mounted by pods.
    pub embedding_key: Option<SecretKeyRef>,
    /// The CA that the embedding API's certificate is checked against; made by the user, published in the configuration.
    pub embedding_ca: Option<CaSource>,
    /// The certificate of its sidecars.
    pub certificate: CertificatePlan,
    /// The sidecar's configuration, without the CA of the embedding API.
    pub config: SidecarConfig,
    /// Where contexts are kept.
    pub storage: StoragePlan,
    /// What pods of other namespaces get of it.
    pub grants: GrantPlan,
    /// How running pods get another version of the sidecar.
    pub upgrade: UpgradePlan,
    /// One upgrade that a person asked for.
    pub upgrade_request: Option<Request>,
    /// Whether the operator only observes.
    pub suspended: bool,
}

/// Where the key ring comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// It is made once.
    Generate,
    /// It is copied from a Secret of the user.
    Existing {
        /// Name of the Secret.
        secret: String,
        /// Key inside.
        key: String,
    },
}

/// When the key that signs is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPlan {
    /// How long a key signs; `None` is until a rotation is asked for.
    pub every: Option<Duration>,
    /// How long a replaced key verifies.
    pub overlap: Duration,
    /// The value of the annotation that asks for a new key.
    pub request: Option<String>,
}

/// Other namespaces whose pods may use the resource, and what they need beside what every pod mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantPlan {
    /// The namespaces; never the resource's own.
    pub namespaces: Vec<String>,
    /// The Secret with the headers of exports of traces; made by the user.
    pub otlp_headers: Option<SecretKeyRef>,
    /// The `ConfigMap` with the CA of the trace collector; made by the user.
    pub otlp_ca: Option<ConfigMapKeyRef>,
}

/// How running pods get another version of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradePlan {
    /// What is done with a pod that is outdated.
    pub strategy: UpgradeStrategy,
    /// Share of the pods that is upgraded at a time.
    pub batch_percent: usize,
    /// How long an upgraded sidecar must be ready before the next ones follow.
    pub observe: Duration,
}

impl UpgradePlan {
    /// The plan with what was asked for this image, if anything was.
    #[must_use]
    pub fn asked(self, request: Option<&Request>, image: &str) -> Self {
        let strategy = request.and_then(|request| request.strategy_for(image)).unwrap_or(self.strategy);
        Self { strategy, ..self }
    }
}

/// The certificate of the sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificatePlan {
    /// The operator's own CA makes it.
    SelfManaged {
        /// Whom it speaks for.
        identity: Identity,
        /// How long it lives.
        lifetime: Duration,
        /// How long before its end it is renewed.
        renew_before: Duration,
    },
    /// It is copied from a Secret of the user.
    Existing {
        /// Name of the Secret.
        secret: String,
        /// How long before its end it is said to end soon; a third of its life when `None`.
        replace_before: Option<Duration>,
    },
    /// cert-manager makes it.
    CertManager(CertManagerPlan),
}

/// What cert-manager is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertManagerPlan {
    /// Name of the issuer.
    pub issuer: String,
    /// Its kind.
    pub kind: String,
    /// Its API group.
    pub group: String,
    /// Whom the certificate speaks for.
    pub identity: Identity,
    /// How long it lives.
    pub lifetime: Duration,
    /// How long before its end it is renewed.
    pub renew_before: Duration,
}

/// Where contexts are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum StoragePlan {
    /// Each pod has a volume that ends with it.
    EmptyDir,
    /// One claim for all pods.
    Claim(ClaimPlan),
    /// A collection of a Qdrant server.
    Qdrant(Box<QdrantPlan>),
    /// The same of a server that the operator runs.
    Managed(Box<ManagedPlan>),
}

impl StoragePlan {
    /// The server, if it is one.
    #[must_use]
    pub fn server(&self) -> Option<&QdrantPlan> {
        match self {
            Self::Qdrant(plan) => Some(plan),
            Self::Managed(plan) => Some(&plan.qdrant),
            Self::EmptyDir | Self::Claim(_) => None,
        }
    }
}

/// The claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPlan {
    /// Its name.
    pub name: String,
    /// Its class; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// How it may be mounted.
    pub access_modes: Vec<&'static str>,
    /// Its size.
    pub size: Quantity,
    /// The volume it binds to.
    pub volume: Option<String>,
    /// Whether it outlives the resource.
    pub retain: bool,
}

/// Why there is no plan: what a person has to change, one sentence for each rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct Invalid {
    /// The sentences.
    pub problems: Vec<String>,
}

impl Plan {
    /// Makes the plan of a resource.
    ///
    /// # Errors
    /// When the resource breaks a rule, which takes one that was admitted before the rule existed.
    pub fn of(resource: &ContextManager) -> Result<Self, Invalid> {
        let problems: Vec<String> = validate(resource).iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            return Err(Invalid { problems });
        }
        let incomplete = || Invalid { problems: vec!["the object has no name, namespace or uid".to_owned()] };
        let name = resource.metadata.name.clone().ok_or_else(incomplete)?;
        let namespace = resource.metadata.namespace.clone().ok_or_else(incomplete)?;
        let owner = resource.controller_owner_ref(&()).ok_or_else(incomplete)?;
        let spec = &resource.spec;
        let config = sidecar_config(spec, (&namespace, &name), resource.metadata.generation.unwrap_or_default());
        // What the sidecar would refuse must not reach it.
        SidecarConfig::from_toml(&config.to_toml()).map_err(|error| Invalid {
            problems: vec![format!("the sidecar would refuse this configuration: {error}")],
        })?;
        let embedding = spec.embedding.as_ref();
        Ok(Self {
            keys: key_source(resource),
            rotation: rotation(resource),
            embedding_key: embedding.and_then(|embedding| embedding.api_key_secret_ref.clone()),
            embedding_ca: embedding.and_then(|embedding| embedding_ca(embedding.tls.as_ref()?)),
            certificate: certificate(resource, Identity::new(&namespace, &name)),
            storage: storage(resource, &name, &config),
            grants: grants(resource, &namespace),
            upgrade: upgrade(resource),
            upgrade_request: Request::of(&resource.metadata),
            config,
            suspended: spec.suspend.unwrap_or_default(),
            name,
            namespace,
            owner,
        })
    }
}

fn embedding_ca(EmbeddingTls { ca_secret_ref, ca_config_map_ref }: &EmbeddingTls) -> Option<CaSource> {
    CaSource::of(ca_secret_ref.as_ref(), ca_config_map_ref.as_ref())
}

fn key_source(resource: &ContextManager) -> KeySource {
    let auth = resource.spec.auth.clone().unwrap_or_default();
    match (auth.secret_policy.unwrap_or_default(), auth.secret_ref) {
        (SecretPolicy::UseExisting, Some(reference)) => KeySource::Existing {
            secret: reference.name,
            key: reference.key.unwrap_or_else(|| names::KEYS_FILE.to_owned()),
        },
        (SecretPolicy::Generate, _) | (SecretPolicy::UseExisting, None) => KeySource::Generate,
    }
}

fn certificate(resource: &ContextManager, identity: Identity) -> CertificatePlan {
    let Tls { issuer, secret_ref, issuer_ref, duration, renew_before } = resource.spec.tls.clone().unwrap_or_default();
    let given = renew_before.map(DurationText::get);
    let lifetime = duration.map_or(CERTIFICATE_LIFETIME, DurationText::get);
    let renew_before = given.unwrap_or(lifetime / 3);
    match (issuer.unwrap_or_default(), secret_ref, issuer_ref) {
        (Issuer::Existing, Some(reference), _) => {
            CertificatePlan::Existing { secret: reference.name, replace_before: given }
        }
        (Issuer::CertManager, _, Some(IssuerRef { name, kind, group })) => {
            CertificatePlan::CertManager(CertManagerPlan {
                issuer: name,
                kind: kind.unwrap_or_else(|| "Issuer".to_owned()),
                group: group.unwrap_or_else(|| "cert-manager.io".to_owned()),
                identity,
                lifetime,
                renew_before,
            })
        }
        // The rules leave nothing but the first of them.
        (Issuer::SelfManaged, ..) | (Issuer::Existing, None, _) | (Issuer::CertManager, _, None) => {
            CertificatePlan::SelfManaged { identity, lifetime, renew_before }
        }
    }
}

fn rotation(resource: &ContextManager) -> RotationPlan {
    let rotation = resource.spec.auth.as_ref().and_then(|auth| auth.rotation).unwrap_or_default();
    let request = resource.annotations().get(names::ROTATE).filter(|value| !value.is_empty());
    RotationPlan {
        every: rotation.every.map(DurationText::get),
        overlap: rotation.overlap.map_or(KEY_OVERLAP, DurationText::get),
        request: request.cloned(),
    }
}

/// The schema cannot compare with the namespace of an object, so a resource may list its own: that means nothing.
fn grants(resource: &ContextManager, own: &str) -> GrantPlan {
    let tracing = resource.spec.observability.as_ref().and_then(|observability| observability.tracing.as_ref());
    GrantPlan {
        namespaces: resource.spec.allowed_namespaces().iter().filter(|name| *name != own).cloned().collect(),
        otlp_headers: tracing.and_then(|tracing| tracing.headers_secret_ref.clone()),
        otlp_ca: tracing.and_then(|tracing| tracing.ca_config_map_ref.clone()),
    }
}

fn upgrade(resource: &ContextManager) -> UpgradePlan {
    let upgrade = resource.spec.sidecar.as_ref().and_then(|sidecar| sidecar.upgrade).unwrap_or_default();
    UpgradePlan {
        strategy: upgrade.strategy.unwrap_or_default(),
        batch_percent: upgrade.batch_percent.and_then(|share| share.try_into().ok()).unwrap_or(UPGRADE_BATCH),
        observe: upgrade.observe.map_or(UPGRADE_OBSERVE, DurationText::get),
    }
}

fn storage(resource: &ContextManager, name: &str, config: &SidecarConfig) -> StoragePlan {
    if let Some(plan) = ManagedPlan::of(resource, config) {
        return StoragePlan::Managed(Box::new(plan));
    }
    if let Some(plan) = QdrantPlan::of(&resource.spec, config) {
        return StoragePlan::Qdrant(Box::new(plan));
    }
    let embedded = resource.spec.vector_store.as_ref().and_then(|store| store.embedded.as_ref());
    let template = embedded
        .and_then(|embedded| embedded.storage.as_ref())
        .and_then(|storage| storage.volume_claim_template.as_ref());
    let Some(template) = template else { return StoragePlan::EmptyDir };
    let VolumeClaimTemplate { storage_class_name, resources, volume_name, .. } = template;
    let access_modes = template.access_modes().iter().map(|mode| match mode {
        AccessMode::ReadWriteOnce => "ReadWriteOnce",
        AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
        AccessMode::ReadWriteMany => "ReadWriteMany",
    });
    StoragePlan::Claim(ClaimPlan {
        name: names::data_claim(name),
        storage_class: storage_class_name.clone(),
        access_modes: access_modes.collect(),
        size: resources.requests.storage.clone(),
        volume: volume_name.clone(),
        retain: resource.spec.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A resource of the namespace `team` as the API server would hand it out.
    pub(in super::super) fn resource(spec: &serde_json::Value) -> ContextManager {
        serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1",
            "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": "team", "uid": "uid-1", "generation": 2},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn an_empty_spec_has_a_whole_plan() {
        let plan = Plan::of(&resource(&json!({}))).unwrap();
        assert_eq!(plan.keys, KeySource::Generate);
        assert_eq!(plan.rotation, RotationPlan { every: None, overlap: KEY_OVERLAP, request: None });
        assert_eq!(plan.storage, StoragePlan::EmptyDir);
        let identity = Identity::new("team", "memory");
        let (lifetime, renew_before) = (CERTIFICATE_LIFETIME, CERTIFICATE_LIFETIME / 3);
        assert_eq!(plan.certificate, CertificatePlan::SelfManaged { identity, lifetime, renew_before });
        assert_eq!(plan.owner.controller, Some(true));
        assert_eq!(plan.config.generation, 2);
    }

    #[test]
    fn a_certificate_that_is_given_is_named_by_its_secret() {
        let spec = json!({"tls": {"issuer": "Existing", "secretRef": {"name": "mine"}, "renewBefore": "240h"}});
        let replace_before = Some(Duration::from_hours(240));
        let expected = CertificatePlan::Existing { secret: "mine".to_owned(), replace_before };
        assert_eq!(Plan::of(&resource(&spec)).unwrap().certificate, expected);
    }

    #[test]
    fn what_was_admitted_before_a_rule_existed_is_refused_with_its_words() {
        let invalid = Plan::of(&resource(&json!({"sidecar": {"adminPort": 7419}}))).unwrap_err();
        assert!(invalid.to_string().contains("spec.sidecar.protocolPort"), "{invalid}");
    }

    #[test]
    fn a_claim_is_retained_unless_it_shall_go() {
        let claim = |policy: &str| {
            let spec = json!({
                "vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": {
                    "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "disk"}}}},
                "reclaimPolicy": policy,
            });
            match Plan::of(&resource(&spec)).unwrap().storage {
                StoragePlan::Claim(claim) => claim,
                StoragePlan::EmptyDir | StoragePlan::Qdrant(_) | StoragePlan::Managed(_) => {
                    unreachable!("the spec has a claim")
                }
            }
        };
        let kept = claim("Retain");
        assert_eq!(
            (kept.name.as_str(), kept.retain, kept.access_modes),
            ("memory-context-data", true, vec!["ReadWriteOnce"])
        );
        assert_eq!((kept.storage_class.as_deref(), kept.volume.as_deref()), (Some(""), Some("disk")));
        assert!(!claim("Delete").retain);
    }
}
