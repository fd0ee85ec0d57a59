//! The objects of a managed Qdrant as they should be: pure.

use context_manager_protocol::names;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{config, pod, restoration::Restoration};
use crate::controller::{
    build::{INSTANCE, RESOURCE, metadata},
    plan::{ManagedPlan, Plan},
};

/// Label of the nodes.
const NODE: (&str, &str) = ("app.kubernetes.io/name", "context-manager-qdrant");

/// Whether all nodes have been ready at once.
pub(super) fn is_formed(map: &ConfigMap) -> bool {
    map.data.as_ref().is_some_and(|data| data.contains_key(config::FORMED_FILE))
}

/// The selector of the nodes' pods.
pub(super) fn node_selector(plan: &Plan) -> String {
    format!("{}={},{RESOURCE}={}", NODE.0, NODE.1, plan.name)
}

/// The names of the nodes' certificate.
pub(super) fn hosts(plan: &Plan) -> Vec<String> {
    let namespace = &plan.namespace;
    vec![
        format!("{}.{namespace}.svc", names::qdrant(&plan.name)),
        format!("*.{}.{namespace}.svc", names::qdrant_peers(&plan.name)),
        // For a person with `kubectl port-forward`.
        "localhost".to_owned(),
    ]
}

/// Makes the objects.
pub(super) struct Builder<'a> {
    plan: &'a Plan,
    wanted: &'a ManagedPlan,
    /// Namespace of the controller.
    home: &'a str,
    /// What is or was restored, if anything.
    restoration: Option<&'a Restoration>,
}

impl<'a> Builder<'a> {
    pub(super) const fn new(plan: &'a Plan, wanted: &'a ManagedPlan, home: &'a str) -> Self {
        Self { plan, wanted, home, restoration: None }
    }

    /// The same for a cluster that is made from a snapshot.
    pub(super) const fn restoring(self, restoration: Option<&'a Restoration>) -> Self {
        Self { restoration, ..self }
    }

    fn named(&self, name: String) -> ObjectMeta {
        let mut metadata = metadata(self.plan, name, true);
        metadata.labels.get_or_insert_default().insert(NODE.0.to_owned(), NODE.1.to_owned());
        metadata
    }

    fn metadata(&self) -> ObjectMeta {
        self.named(names::qdrant(&self.plan.name))
    }

    fn selector(&self) -> Value {
        json!({NODE.0: NODE.1, RESOURCE: self.plan.name})
    }

    /// The Service of sidecars and operator: the nodes that are ready.
    pub(super) fn service(&self) -> Service {
        made(json!({
            "metadata": self.metadata(),
            "spec": {"selector": self.selector(), "ports": ports(&[("rest", config::REST), ("grpc", config::GRPC)])},
        }))
    }

    /// The Service by which nodes find each other, ready or not.
    pub(super) fn peers(&self) -> Service {
        made(json!({
            "metadata": self.named(names::qdrant_peers(&self.plan.name)),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": true,
                "selector": self.selector(),
                "ports": ports(&[("peer", config::PEER)]),
            },
        }))
    }

    /// What nodes read. That the cluster is formed is remembered here, and no reason to start nodes anew.
    pub(super) fn config_map(&self, formed: bool) -> ConfigMap {
        let mut data = json!({
            config::CONFIG_FILE: config::yaml(self.plan, self.wanted),
            config::START_FILE: config::start(self.plan, self.wanted),
        });
        if formed {
            data[config::FORMED_FILE] = json!("true");
            // A node alone has nobody to join.
            if self.wanted.nodes > 1 {
                data[config::REJOIN_FILE] = json!("true");
            }
        }
        if let Some(Restoration { from, is_asked: _, done }) = self.restoration {
            data[config::RESTORE_FILE] = json!(from.to_string());
            if let Some(snapshot) = done {
                data[config::RESTORED_FILE] = json!(snapshot);
            }
        }
        made(json!({"metadata": self.metadata(), "data": data}))
    }

    /// Whoever empties machines takes one node at a time.
    pub(super) fn budget(&self) -> PodDisruptionBudget {
        made(json!({
            "metadata": self.metadata(),
            "spec": {
                "maxUnavailable": 1,
                // A node that is of no use does not keep itself from being replaced.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": self.selector()},
            },
        }))
    }

    /// Nodes reach each other, the resource's pods reach gRPC, the controller reaches gRPC and REST, and nobody else anything.
    pub(super) fn policy(&self) -> NetworkPolicy {
        let port = |port: u16| json!({"port": port, "protocol": "TCP"});
        let nodes = json!({"podSelector": {"matchLabels": self.selector()}});
        let agents = json!({"podSelector": {"matchLabels": {names::INJECTED: self.plan.name}}});
        // Pods of other namespaces that the resource allows.
        let guests = self.plan.grants.namespaces.iter().map(|namespace| {
            json!({
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "podSelector": {"matchLabels": {
                    names::INJECTED: self.plan.name,
                    names::INJECTED_FROM: self.plan.namespace,
                }},
            })
        });
        let agents: Vec<_> = std::iter::once(agents).chain(guests).collect();
        let home = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.home}}});
        made(json!({
            "metadata": self.metadata(),
            "spec": {
                "podSelector": {"matchLabels": self.selector()},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [nodes], "ports": [port(config::REST), port(config::GRPC), port(config::PEER)]},
                    {"from": agents, "ports": [port(config::GRPC)]},
                    {"from": [home], "ports": [port(config::REST), port(config::GRPC)]},
                ],
            },
        }))
    }

    /// The nodes, of which there are to be so many now. Another `fingerprint` of their Secret makes them start anew, one by one.
    pub(super) fn stateful_set(&self, fingerprint: &str, pods: i32) -> StatefulSet {
        let Self { plan, wanted, .. } = self;
        let policy = if wanted.retain { "Retain" } else { "Delete" };
        let source = self.restoration.and_then(Restoration::source);
        let labels = self.metadata().labels.unwrap_or_default();
        // Without the label all nodes would be started anew, and pods have an owner.
        let mut of_pods = labels.clone();
        of_pods.insert(INSTANCE.to_owned(), plan.name.clone());
        let mut claim = json!({
            "metadata": {"name": pod::VOLUME_DATA, "labels": labels},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": wanted.size.to_string()}},
            },
        });
        if let Some(class) = &wanted.storage_class {
            claim["spec"]["storageClassName"] = json!(class);
        }
        made(json!({
            "metadata": self.metadata(),
            "spec": {
                "serviceName": names::qdrant_peers(&plan.name),
                "replicas": pods,
                // At once: after an outage of all, none becomes ready before most of them run.
                "podManagementPolicy": "Parallel",
                // Which node is next, and when, is decided by what Qdrant says of its replicas.
                "updateStrategy": {"type": "OnDelete"},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy, "whenScaled": "Retain"},
                "selector": {"matchLabels": self.selector()},
                "template": pod::template(plan, wanted, (json!(of_pods), self.selector()), fingerprint, source),
                "volumeClaimTemplates": [claim],
            },
        }))
    }
}

/// The template of claims cannot be changed: one of an earlier version keeps its labels.
pub(super) fn keep_claim_labels(desired: &mut StatefulSet, live: &StatefulSet) {
    let desired = desired.spec.volume_claim_templates.iter_mut().flatten();
    for (desired, live) in desired.zip(live.spec.volume_claim_templates.iter().flatten()) {
        desired.metadata.labels.clone_from(&live.metadata.labels);
    }
}

fn ports(ports: &[(&str, u16)]) -> Value {
    ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"}))
        .collect()
}

/// The object that a text describes.
fn made<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("what is written here is an object of this kind, as a test shows")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::controller::plan::{RestorePlan, StoragePlan, tests::resource};

    fn with<T>(managed: &Value, policy: &str, look: impl Fn(&Builder<'_>) -> T) -> T {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": managed}, "reclaimPolicy": policy}))).unwrap();
        let StoragePlan::Managed(wanted) = &plan.storage else { unreachable!("the spec has it") };
        look(&Builder::new(&plan, wanted, "home"))
    }

    #[test]
    fn every_object_can_be_made_and_has_the_owner() {
        let full = json!({
            "replicas": 3, "storage": {"storageClassName": "fast", "size": "1Gi"},
            "resources": {"requests": {"cpu": 1}, "limits": {"memory": "2Gi"}},
            "scheduling": {
                "nodeSelector": {"disk": "nvme"}, "priorityClassName": "stores", "spread": "Required",
                "tolerations": [{"key": "stores", "operator": "Exists", "effect": "NoSchedule"}],
            },
            "snapshots": {"storage": {"volume": {"claimName": "mine"}}},
        });
        for managed in [json!({}), json!({"tls": {"enabled": false}}), full] {
            with(&managed, "Retain", |builder| {
                let all = [
                    builder.service().metadata,
                    builder.peers().metadata,
                    builder.config_map(true).metadata,
                    builder.budget().metadata,
                    builder.policy().metadata,
                    builder.stateful_set("x", 3).metadata,
                ];
                for metadata in all {
                    assert_eq!(metadata.owner_references.unwrap().len(), 1);
                    assert_eq!(metadata.labels.unwrap()[RESOURCE], "memory");
                }
            });
        }
    }

    #[test]
    fn claims_that_outlive_their_resource_lack_the_label_of_argo_cd_unless_their_template_has_it() {
        with(&json!({}), "Retain", |builder| {
            let of_claims = |set: &StatefulSet| {
                set.spec.volume_claim_templates.as_ref().unwrap()[0].metadata.labels.clone().unwrap()
            };
            let mut set = builder.stateful_set("a", 1);
            let pods = set.spec.template.metadata.clone().unwrap().labels.unwrap();
            assert_eq!(pods[INSTANCE], "memory", "or the upgrade restarts all nodes");
            assert!(!of_claims(&set).contains_key(INSTANCE));
            let mut earlier = set.clone();
            let labels = earlier.spec.volume_claim_templates.as_mut().unwrap()[0].metadata.labels.as_mut().unwrap();
            labels.insert(INSTANCE.to_owned(), "memory".to_owned());
            keep_claim_labels(&mut set, &earlier);
            assert_eq!(of_claims(&set), of_claims(&earlier));
        });
    }

    #[test]
    fn volumes_follow_the_reclaim_policy_and_nodes_what_they_read_at_their_start() {
        for policy in ["Retain", "Delete"] {
            with(&json!({"replicas": 3}), policy, |builder| {
                let set = serde_json::to_value(builder.stateful_set("a", 3)).unwrap();
                assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], policy);
                assert_eq!(set["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"], Value::Null);
                let template = |fingerprint: &str| {
                    serde_json::to_value(builder.stateful_set(fingerprint, 3)).unwrap()["spec"]["template"].clone()
                };
                assert_ne!(template("a"), template("b"));
            });
        }
    }

    #[test]
    fn snapshots_have_a_folder_of_their_resource_on_a_volume_that_is_no_nodes_own() {
        let look = |managed: &Value| {
            with(managed, "Delete", |builder| {
                let set = serde_json::to_value(builder.stateful_set("a", 1)).unwrap()["spec"].clone();
                (builder.config_map(false).data.unwrap()[config::CONFIG_FILE].clone(), set)
            })
        };
        let (config, set) = look(&json!({"snapshots": {"storage": {"volume": {"size": "1Gi"}}}}));
        let expected = "  snapshots_path: /context-manager/team/memory\n  temp_path: /qdrant/data/temp\n";
        assert!(config.contains(expected), "{config}");
        let claim =
            json!({"name": "snapshots", "persistentVolumeClaim": {"claimName": "memory-context-qdrant-snapshots"}});
        assert!(set["template"]["spec"]["volumes"].as_array().unwrap().contains(&claim), "{set}");
        assert_eq!(set["volumeClaimTemplates"].as_array().map(Vec::len), Some(1), "it would end with the resource");
        let secret = |key: &str| json!({"name": "s3", "key": key});
        let bucket = json!({
            "bucket": "mine", "endpointUrl": "http://minio:9000", "prefix": "blue",
            "accessKeyIdSecretRef": secret("id"), "secretAccessKeySecretRef": secret("key"),
        });
        let (config, set) = look(&json!({"snapshots": {"storage": {"s3": &bucket}}}));
        let expected = "  snapshots_path: /context-manager/blue/team/memory
  temp_path: /qdrant/data/temp
  snapshots_config:
    snapshots_storage: s3
    s3_config:
      bucket: \"mine\"
      endpoint_url: \"http://minio:9000\"
service:
";
        assert!(config.contains(expected), "{config}");
        let env = &set["template"]["spec"]["containers"][0]["env"];
        let key = json!({"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": secret("key")}});
        assert!(env.as_array().unwrap().contains(&key), "{env}");
        let without = set;
        for (given, expected) in [
            (
                json!({"caSecretRef": {"name": "ca", "key": "pem"}}),
                json!({"name": "s3", "secret": {
                    "secretName": "ca", "items": [{"key": "pem", "path": "ca.crt"}], "defaultMode": 0o440,
                }}),
            ),
            (
                json!({"caConfigMapRef": {"name": "ca", "key": "pem"}}),
                json!({"name": "s3", "configMap": {
                    "name": "ca", "items": [{"key": "pem", "path": "ca.crt"}],
                }}),
            ),
        ] {
            let mut bucket = bucket.clone();
            bucket["endpointUrl"] = json!("https://minio:9000");
            for (field, value) in given.as_object().unwrap() {
                bucket[field] = value.clone();
            }
            let (_, set) = look(&json!({"snapshots": {"storage": {"s3": bucket}}}));
            let pod = &set["template"]["spec"];
            assert!(pod["volumes"].as_array().unwrap().contains(&expected), "{pod}");
            let node = &pod["containers"][0];
            let variable = json!({"name": "SSL_CERT_FILE", "value": "/etc/qdrant-s3/ca.crt"});
            assert!(node["env"].as_array().unwrap().contains(&variable), "{node}");
            let mount = json!({"name": "s3", "mountPath": "/etc/qdrant-s3", "readOnly": true});
            assert!(node["volumeMounts"].as_array().unwrap().contains(&mount), "{node}");
            assert!(
                !without.to_string().contains("SSL_CERT_FILE"),
                "the roots of the image stay in force without a CA"
            );
        }
        // Who has none is not restarted for it.
        let (config, _) = look(&json!({}));
        assert!(config.contains("  snapshots_path: /qdrant/data/snapshots\nservice:"), "{config}");
    }

    #[test]
    fn a_restoration_that_is_begun_goes_on_and_one_that_is_done_is_remembered() {
        let managed = json!({
            "snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": {"snapshot": "latest"},
        });
        with(&managed, "Retain", |builder| {
            let asked = Restoration::of(builder.wanted, None).unwrap();
            assert_eq!(asked, Restoration { from: RestorePlan::from("latest"), is_asked: true, done: None });
            let map = |restoration: &Restoration| {
                Builder::new(builder.plan, builder.wanted, "home").restoring(Some(restoration)).config_map(true)
            };
            let removed = ManagedPlan { restore: None, ..builder.wanted.clone() };
            let remembered = Restoration::of(&removed, Some(&map(&asked))).unwrap();
            assert_eq!(remembered, Restoration { is_asked: false, ..asked.clone() });
            let done = Restoration { done: Some("x".to_owned()), ..asked };
            assert_eq!(Restoration::of(builder.wanted, Some(&map(&done))).unwrap(), done);
            assert_eq!(Restoration::of(&removed, None), None);
        });
    }

    #[test]
    fn nodes_read_the_snapshots_of_another_resource_until_they_are_brought_back() {
        let managed = json!({
            "snapshots": {"storage": {"volume": {"claimName": "mine"}}},
            "restoreFrom": {"snapshot": "latest", "namespace": "lost", "name": "old"},
        });
        with(&managed, "Retain", |builder| {
            let asked = Restoration::of(builder.wanted, None).unwrap();
            let env = |restoration: &Restoration| {
                let builder = Builder::new(builder.plan, builder.wanted, "home").restoring(Some(restoration));
                let set = serde_json::to_value(builder.stateful_set("a", 1)).unwrap();
                set["spec"]["template"]["spec"]["containers"][0]["env"].to_string()
            };
            let begun = env(&asked);
            assert!(begun.contains(r#""value":"/context-manager/lost/old""#), "{begun}");
            let done = env(&Restoration { done: Some("x".to_owned()), ..asked });
            assert!(!done.contains("SNAPSHOTS_PATH") && !done.contains("URL_RECOVERY"), "{done}");
        });
    }

    #[test]
    fn a_cluster_that_is_formed_is_remembered() {
        with(&json!({}), "Retain", |builder| {
            assert!(is_formed(&builder.config_map(true)) && !is_formed(&builder.config_map(false)));
        });
    }

    #[test]
    fn the_first_node_begins_and_joins_later_when_its_volume_is_lost() {
        let script = |managed: &Value| {
            with(managed, "Retain", |builder| builder.config_map(false).data.unwrap()[config::START_FILE].clone())
        };
        let three = script(&json!({"replicas": 3}));
        let expected = "set -eu
if [ \"$POD_NAME\" != memory-context-qdrant-0 ]; then
  set -- --bootstrap https://memory-context-qdrant-0.memory-context-qdrant-peers.team.svc:6335
elif [ -e /etc/qdrant/rejoin ]; then
  set -- --bootstrap https://memory-context-qdrant-1.memory-context-qdrant-peers.team.svc:6335
fi
exec ./qdrant --config-path /etc/qdrant/config.yaml --uri https://$POD_NAME.memory-context-qdrant-peers.team.svc:6335 \"$@\"
";
        assert_eq!(three, expected);
        assert_eq!(script(&json!({})), three, "nodes that come later do not change how one starts");
        let joins = |managed: &Value| {
            with(managed, "Retain", |builder| builder.config_map(true).data.unwrap().contains_key(config::REJOIN_FILE))
        };
        assert!(joins(&json!({"replicas": 3})) && !joins(&json!({})), "a node alone has nobody to join");
    }

    #[test]
    fn only_the_resources_pods_and_the_controller_reach_the_nodes() {
        let policy = with(&json!({}), "Retain", |builder| serde_json::to_value(builder.policy()).unwrap());
        let ingress = policy["spec"]["ingress"].clone();
        assert_eq!(ingress.as_array().unwrap().len(), 3);
        assert_eq!(ingress[1]["from"][0]["podSelector"]["matchLabels"], json!({names::INJECTED: "memory"}));
        assert_eq!(ingress[1]["from"].as_array().map(Vec::len), Some(1));
        assert_eq!(ingress[1]["ports"], json!([{"port": 6334, "protocol": "TCP"}]));
        assert_eq!(ingress[2]["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "home");
    }

    #[test]
    fn pods_of_a_namespace_that_is_allowed_reach_the_nodes_and_other_pods_there_do_not() {
        let spec = json!({"vectorStore": {"managed": {}}, "allowedNamespaces": ["guest", "team"]});
        let plan = Plan::of(&resource(&spec)).unwrap();
        let StoragePlan::Managed(wanted) = &plan.storage else { unreachable!("the spec has it") };
        let policy = serde_json::to_value(Builder::new(&plan, wanted, "home").policy()).unwrap();
        let rule = &policy["spec"]["ingress"][1];
        assert_eq!(rule["ports"], json!([{"port": 6334, "protocol": "TCP"}]));
        let own = json!({"podSelector": {"matchLabels": {names::INJECTED: "memory"}}});
        // Both selectors in one peer: in two, the whole namespace could.
        let guest = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "guest"}},
            "podSelector": {"matchLabels": {names::INJECTED: "memory", names::INJECTED_FROM: "team"}},
        });
        assert_eq!(rule["from"], json!([own, guest]));
    }
}
