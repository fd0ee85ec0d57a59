//! All that a decision depends on: the namespace, its `ContextManager`s, and the webhook's own settings.

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

use context_manager_operator::{
    inject::{self, Decision, Injection, NamespaceFacts, OnMissing, Reason, Resource, Settings, Skip},
    webhook::view,
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment, core::v1::Namespace,
};
use kube::api::DynamicObject;

use crate::{
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
    workload::Subject,
};

/// What stands where the image is not known; no registry can hold it.
const UNKNOWN_IMAGE: &str = "unknown";

/// Flags for what is otherwise read from the webhook's Deployment.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SettingsArgs {
    /// Image of the sidecar, for resources that name none; that of the installed webhook when absent
    #[arg(long, value_name = "IMAGE")]
    pub(crate) sidecar_image: Option<String>,
    /// What the webhook does with pods of opted-in namespaces for which no ContextManager can be chosen; that of the installed webhook when absent
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_missing: Option<Missing>,
}

/// `OnMissing` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Missing {
    /// They are refused
    Deny,
    /// They are admitted with a warning
    Skip,
}

impl From<Missing> for OnMissing {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Deny => Self::Deny,
            Missing::Skip => Self::Skip,
        }
    }
}

/// What is known of a namespace.
pub(crate) struct Facts {
    pub(crate) namespace: NamespaceFacts,
    /// Its resources, and those of other namespaces that allow it.
    resources: Vec<Resource>,
    /// Why those of the cluster are not among them, where they could not be read: its own, and those of other namespaces.
    unread: Option<Error>,
    unread_others: Option<Error>,
    /// The webhooks that decide on its pods. There is always one: if none is known, that of flags and defaults.
    webhooks: Vec<Webhook>,
    /// What could not be read, and what was taken instead.
    pub(crate) notes: Vec<String>,
}

/// What a webhook is told.
struct Webhook {
    /// The release that it is of.
    release: String,
    /// The name of the registration by which the API server asks it; nothing where only flags tell of it.
    configuration: Option<String>,
    settings: Settings,
}

impl Facts {
    /// What the cluster says.
    pub(crate) async fn fetch(cluster: &Cluster, namespace: &str, settings: &SettingsArgs) -> Self {
        let mut notes = Vec::new();
        let known = known(cluster, namespace).await.unwrap_or_else(|error| {
            notes.push(format!("{error}; so the labels of namespace {namespace:?} are not known, and taken as absent"));
            NamespaceFacts { name: namespace.to_owned(), ..NamespaceFacts::default() }
        });
        let views = |found: Vec<DynamicObject>| {
            let all = found.iter().filter_map(view::resource);
            all.filter(|found| found.serves(namespace)).collect::<Vec<_>>()
        };
        // Who may not list those of other namespaces may know enough by those of this one.
        let (resources, unread, unread_others) = match cluster.resources(None).await.map(views) {
            Ok(all) => (all, None, None),
            Err(others) => match cluster.resources(Some(namespace)).await.map(views) {
                Ok(own) => (own, None, Some(others)),
                Err(own) => (Vec::new(), Some(own), Some(others)),
            },
        };
        let webhooks = webhooks(cluster, namespace, settings, &mut notes).await;
        Self { namespace: known, resources, unread, unread_others, webhooks, notes }
    }

    /// What files and flags say.
    pub(crate) fn offline(namespace: &str, settings: &SettingsArgs) -> Self {
        Self {
            namespace: NamespaceFacts { name: namespace.to_owned(), ..NamespaceFacts::default() },
            resources: Vec::new(),
            unread: None,
            unread_others: None,
            webhooks: vec![Webhook::told(None, settings)],
            notes: Vec::new(),
        }
    }

    /// Takes a resource of a file, which wins over the cluster's of the same name, also where it does not allow this namespace any more.
    pub(crate) fn add(&mut self, object: &DynamicObject) {
        let Some(resource) = view::resource(object) else { return };
        self.resources.retain(|other| (&other.namespace, &other.name) != (&resource.namespace, &resource.name));
        if resource.serves(&self.namespace.name) {
            self.resources.push(resource);
        }
    }

    /// The webhooks' decision. Where it hangs on resources that could not be read, there is none.
    pub(crate) fn decide(&self, subject: &Subject) -> Result<Decision, Error> {
        let decision = self.decide_together(subject)?;
        let hangs_on = if decision.reason() == Reason::NotGranted { &self.unread_others } else { &self.unread };
        match hangs_on.as_ref().filter(|_| decision.reason().may_be_stale()) {
            Some(error) => Err(Error::Refused(format!("the decision hangs on what cannot be read: {error}"))),
            None => Ok(decision),
        }
    }

    /// Of these registrations those of the webhooks that decide. That the API server asks another release's, which passes the pods by, is
    /// no help. Of a webhook that only flags tell of it may be any.
    pub(crate) fn deciding_registrations<'r>(
        &self,
        subject: &Subject,
        all: &'r [MutatingWebhookConfiguration],
    ) -> Vec<&'r MutatingWebhookConfiguration> {
        let mut deciding: Vec<_> = self.deciding(subject).into_iter().map(|(webhook, _)| webhook).collect();
        if deciding.is_empty() {
            // All pass it by.
            deciding.extend(&self.webhooks);
        }
        let is_theirs = |registration: &&MutatingWebhookConfiguration| {
            let name = registration.metadata.name.as_ref();
            deciding.iter().any(|webhook| webhook.configuration.is_none() || webhook.configuration.as_ref() == name)
        };
        all.iter().filter(is_theirs).collect()
    }

    /// Each webhook passes by what is of another class. Of the others one that refuses the pod is enough.
    fn deciding(&self, subject: &Subject) -> Vec<(&Webhook, Decision)> {
        let decide =
            |webhook: &Webhook| inject::decide(&subject.pod, &self.namespace, &self.resources, &webhook.settings);
        let decided = self.webhooks.iter().map(|webhook| (webhook, decide(webhook)));
        let (refused, admitted): (Vec<_>, Vec<_>) = decided
            .filter(|(_, decision)| decision.reason() != Reason::OtherClass)
            .partition(|(_, decision)| matches!(decision, Decision::Deny(_)));
        if refused.is_empty() { admitted } else { refused }
    }

    fn decide_together(&self, subject: &Subject) -> Result<Decision, Error> {
        let mut deciding = self.deciding(subject);
        deciding.dedup_by(|(_, next), (_, first)| {
            next == first || matches!((next, first), (Decision::Deny(_), Decision::Deny(_)))
        });
        if deciding.len() > 1 {
            let releases: Vec<_> = deciding.iter().map(|(webhook, _)| webhook.release.as_str()).collect();
            return Err(operator::ambiguous(&releases));
        }
        let decision = deciding.pop().map(|(_, decision)| decision);
        Ok(decision.unwrap_or(Decision::Skip(Skip { reason: Reason::OtherClass, warning: None })))
    }
}

/// Whether the image of an injected sidecar is a real one.
pub(crate) fn image_known(injection: &Injection) -> bool {
    injection.sidecar["image"] != UNKNOWN_IMAGE
}

async fn known(cluster: &Cluster, name: &str) -> Result<NamespaceFacts, Error> {
    let action = format!("read namespace {name:?}");
    let found = call(&action, "get namespaces", cluster.all::<Namespace>().get_opt(name)).await?;
    let found = found.ok_or_else(|| Error::Missing {
        what: format!("namespace {name:?}"),
        remedy: "name one by --namespace".to_owned(),
    })?;
    Ok(NamespaceFacts { name: name.to_owned(), labels: found.metadata.labels.unwrap_or_default() })
}

/// The webhooks that serve a namespace.
async fn webhooks(cluster: &Cluster, namespace: &str, given: &SettingsArgs, notes: &mut Vec<String>) -> Vec<Webhook> {
    if given.sidecar_image.is_some() && given.on_missing.is_some() {
        return vec![Webhook::told(None, given)];
    }
    let mut found = operator::deployments(cluster, Component::Webhook).await.unwrap_or_else(|error| {
        notes.push(format!(
            "{error}; so the webhook's own settings are not known: pass --sidecar-image and --on-missing"
        ));
        Vec::new()
    });
    found.retain(|webhook| operator::watches(webhook, namespace));
    if found.is_empty() {
        return vec![Webhook::told(None, given)];
    }
    found.iter().map(|webhook| Webhook::told(Some(webhook), given)).collect()
}

impl Webhook {
    /// What flags say, and for the rest its Deployment.
    fn told(webhook: Option<&Deployment>, SettingsArgs { sidecar_image, on_missing }: &SettingsArgs) -> Self {
        let image = sidecar_image.clone().or_else(|| webhook.and_then(operator::sidecar_image));
        let from_webhook = || webhook.map(operator::on_missing).unwrap_or_default();
        let settings = Settings {
            on_missing: on_missing.map_or_else(from_webhook, OnMissing::from),
            sidecar_image: image.unwrap_or_else(|| UNKNOWN_IMAGE.to_owned()),
            class: webhook.map(operator::class),
        };
        Self {
            release: webhook.map(operator::release).unwrap_or_default().to_owned(),
            configuration: webhook.map(operator::configuration_of),
            settings,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workload;

    fn webhook(release: &str, class: &str, image: &str) -> Webhook {
        let settings =
            Settings { sidecar_image: image.to_owned(), on_missing: OnMissing::Skip, class: Some(class.to_owned()) };
        Webhook { release: release.to_owned(), configuration: Some(release.to_owned()), settings }
    }

    /// A namespace with a resource of the class blue, and these webhooks.
    fn facts(webhooks: Vec<Webhook>) -> Facts {
        let mut facts = Facts::offline("team", &SettingsArgs::default());
        let resource = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": "team"}, "spec": {"controllerClassName": "blue"}});
        facts.add(&serde_json::from_value(resource).unwrap());
        facts.webhooks = webhooks;
        facts
    }

    fn subject() -> Subject {
        let metadata = json!({"name": "a", "annotations": {"contextmanager.dev/inject": "true"}});
        let spec = json!({"containers": [{"name": "agent"}]});
        workload::subject(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn of_several_webhooks_the_one_of_the_resources_class_decides() {
        let (green, blue) = (|| webhook("a", "default", "sidecar:1"), || webhook("b", "blue", "sidecar:2"));
        for webhooks in [vec![green(), blue()], vec![blue(), green()], vec![blue(), blue()]] {
            let decision = facts(webhooks).decide(&subject()).unwrap();
            let Decision::Inject(injection) = decision else { unreachable!() };
            assert_eq!(injection.sidecar["image"], "sidecar:2");
        }
        assert_eq!(facts(vec![green()]).decide(&subject()).unwrap().reason(), Reason::OtherClass);
    }

    #[test]
    fn only_the_registration_of_the_webhook_that_decides_counts() {
        let registration = |name: &str| -> MutatingWebhookConfiguration {
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
        };
        let all = [registration("a"), registration("b"), registration("c")];
        let of = |facts: &Facts| -> Vec<_> {
            let found = facts.deciding_registrations(&subject(), &all);
            found.into_iter().filter_map(|found| found.metadata.name.clone()).collect()
        };
        let (green, blue) = (|| webhook("a", "default", "sidecar:1"), || webhook("b", "blue", "sidecar:2"));
        assert_eq!(of(&facts(vec![green(), blue()])), ["b"]);
        assert_eq!(of(&facts(vec![green()])), ["a"], "it is what passes the pod by");
        assert_eq!(of(&facts(vec![Webhook::told(None, &SettingsArgs::default())])), ["a", "b", "c"]);
    }

    #[test]
    fn webhooks_of_one_class_that_differ_have_to_be_chosen_among() {
        let webhooks = vec![webhook("a", "blue", "sidecar:1"), webhook("b", "blue", "sidecar:2")];
        let said = facts(webhooks).decide(&subject()).unwrap_err().to_string();
        assert!(said.contains("\"a\", \"b\"") && said.contains("--release"), "{said}");
    }

    #[test]
    fn a_refusal_of_one_webhook_refuses_the_pod() {
        let mut strict = webhook("b", "blue", "sidecar:2");
        strict.settings.on_missing = OnMissing::Deny;
        let mut facts = facts(vec![webhook("a", "default", "sidecar:1"), strict]);
        facts.resources.clear();
        facts.namespace.labels.insert("contextmanager.dev/inject".to_owned(), "true".to_owned());
        let mut subject = subject();
        subject.pod["metadata"]["annotations"] = json!({});
        assert!(matches!(facts.decide(&subject), Ok(Decision::Deny(_))));
    }

    #[test]
    fn a_file_does_not_stand_in_for_what_cannot_be_read() {
        let mut facts = facts(vec![webhook("b", "blue", "sidecar:2")]);
        let forbidden = || Some(Error::Refused("not allowed".to_owned()));
        (facts.unread, facts.unread_others) = (forbidden(), forbidden());
        assert!(matches!(facts.decide(&subject()), Ok(Decision::Inject(_))), "what the file says is known");
        for other in ["other", "platform/memory"] {
            let mut subject = subject();
            subject.pod["metadata"]["annotations"]["contextmanager.dev/name"] = json!(other);
            assert!(facts.decide(&subject).is_err_and(|error| error.to_string().contains("not allowed")), "{other}");
        }
    }
}
