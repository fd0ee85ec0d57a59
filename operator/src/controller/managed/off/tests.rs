//! Looks at clusters without the rights to run one, with an API server that refuses what these rights are needed for, or takes it.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{
        Settings,
        context::tests::context_with,
        keys, managed,
        objects::{Objects, Rights, SECRETS},
        plan::{StoragePlan, tests::resource},
    },
    pki::{
        self,
        client::{Facts, Pair},
    },
};

pub(in super::super) const KEY: &str = "0123456789abcdef0123456789abcdef";
pub(in super::super) const MAP: &str = "/api/v1/namespaces/team/configmaps/memory-context-qdrant";

impl Objects {
    /// A controller with these rights.
    pub(in super::super) fn context(&self) -> Context {
        let minute = Duration::from_mins(1);
        context_with(&self.client(), |settings| Settings {
            authority: pki::client::Settings::new("home", "client-ca"),
            managed_qdrant: self.rights != Rights::None,
            resync: minute,
            keys: keys::Settings { settle: minute, patience: minute },
            ..settings
        })
    }

    /// Looks at the cluster of a resource, whose server does not answer, until it is known that it does not.
    pub(in super::super) async fn look(&self, context: &Context, managed: Value) -> Found {
        let mut plan = Plan::of(&resource(&json!({"vectorStore": {"managed": managed}}))).unwrap();
        let StoragePlan::Managed(wanted) = &mut plan.storage else { unreachable!("the spec has it") };
        wanted.qdrant.store.url = "https://127.0.0.1:1".to_owned();
        let wanted = wanted.clone();
        loop {
            let found = Box::pin(managed::ensure(context, &plan, &wanted, None)).await.unwrap();
            match found.step {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return found,
            }
        }
    }
}

/// When a token ends.
pub(in super::super) fn end_of(token: &str) -> Timestamp {
    let claims = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    Timestamp::from_second(claims["exp"].as_i64().unwrap()).unwrap()
}

pub(in super::super) fn reason(found: &Found) -> &str {
    match &found.finding {
        Ok(_) => unreachable!("no server answers"),
        Err(trouble) => trouble.reason,
    }
}

#[tokio::test]
async fn sidecars_of_a_cluster_that_is_there_get_tokens_and_its_nodes_certificates() {
    let objects = Objects::default();
    let context = objects.context();
    let now = Timestamp::now();
    let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}}))).unwrap();
    let trust = context.authority.trust(&context.client).await.unwrap();
    let Pair { certificate, key } =
        trust.issue_server(&build::hosts(&plan), now, Duration::from_hours(10 * 24)).unwrap();
    let files = [
        (secret::API_KEY, KEY),
        (names::CA_FILE, &*trust.bundle()),
        (names::CERTIFICATE_FILE, &*certificate),
        (names::PRIVATE_KEY_FILE, &*key),
    ];
    objects.put(MAP, &[("formed", "true")]);
    objects.put(&format!("{SECRETS}/memory-context-qdrant"), &files);
    objects.put(&format!("{SECRETS}/memory-context-store"), &[(names::QDRANT_API_KEY_FILE, "one that ended")]);

    let found = objects.look(&context, json!({})).await;

    let token = objects.file("memory-context-store", names::QDRANT_API_KEY_FILE).unwrap();
    let rest = end_of(&token).duration_since(now);
    assert!(rest.as_hours() >= 23, "{rest:?}");
    assert_eq!(objects.file("memory-context-qdrant", secret::API_KEY).as_deref(), Some(KEY), "nodes have this one");
    let renewed = objects.file("memory-context-qdrant", names::CERTIFICATE_FILE).unwrap();
    let rest = Facts::read(&renewed).unwrap().not_after.duration_since(now);
    assert!(rest.as_hours() > 300 * 24, "{rest:?}");
    assert_ne!(reason(&found), REASON, "what is said of the store is what was seen of it");
    assert!(matches!(&*found.beside, [(CURRENT, Err(Trouble { reason: REASON, .. }))]));
    assert!(found.next.is_some(), "it is looked at again");

    let shown = found.certificate.unwrap();
    let facts = Facts::read(&renewed).unwrap();
    assert_eq!((&*shown.name, shown.not_after.0, &shown.fingerprint), ("nodes", facts.not_after, &facts.fingerprint));
    let page = context.metrics.render().unwrap();
    let of = r#"{resource="memory",resource_namespace="team"}"#;
    let end = facts.not_after.as_second();
    for line in [
        format!("context_manager_node_certificate_not_after_timestamp_seconds{of} {end}\n"),
        format!("context_manager_nodes_outdated{of} 1\n"),
    ] {
        assert!(page.contains(&line), "{page}");
    }
}

#[tokio::test]
async fn a_key_that_is_gone_is_missed_and_not_replaced() {
    let objects = Objects::default();
    objects.put(MAP, &[("formed", "true")]);
    objects.put(&format!("{SECRETS}/memory-context-qdrant"), &[(secret::API_KEY, "short")]);
    let found = objects.look(&objects.context(), json!({})).await;
    let Err(Trouble { reason, message, .. }) = &found.finding else { unreachable!("there is no key") };
    assert!(*reason == REASON && message.contains("no api-key in the Secret memory-context-qdrant"), "{message}");
    assert_eq!(objects.file("memory-context-qdrant", secret::API_KEY).as_deref(), Some("short"));
    assert_eq!(objects.file("memory-context-store", names::QDRANT_API_KEY_FILE), None);
}

#[tokio::test]
async fn a_cluster_that_nobody_uses_yet_gets_nothing() {
    let restoring = json!({
        "snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": {"snapshot": "latest"},
    });
    let begun: &[_] = &[("formed", "true"), ("restore", "latest")];
    for (files, managed, why) in [
        (None, json!({}), "it was made after the rights were gone"),
        (Some(&[][..]), json!({}), "its nodes were never all there"),
        (Some(begun), restoring, "what is restored may be half there"),
        (Some(begun), json!({}), "the same if it is not asked for any more"),
    ] {
        let objects = Objects::default();
        if let Some(files) = files {
            objects.put(MAP, files);
            objects.put(&format!("{SECRETS}/memory-context-qdrant"), &[(secret::API_KEY, KEY)]);
        }
        let found = objects.look(&objects.context(), managed).await;
        assert_eq!(reason(&found), REASON, "{why}");
        assert_eq!(objects.file("memory-context-store", names::QDRANT_API_KEY_FILE), None, "{why}");
        assert_eq!(objects.file("memory-context-qdrant", names::CERTIFICATE_FILE), None, "{why}");
    }
}
