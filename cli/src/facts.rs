//! All that a decision depends on: the namespace, its `ContextManager`s, and the webhook's own settings.

#![expect(clippy::doc_markdown, reason = "texts of arguments become help, which is shown as plain text")]

use context_manager_operator::{
    inject::{self, Decision, NamespaceFacts, OnMissing, Reason, Resource, Settings},
    webhook::view,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::DynamicObject;

use crate::{
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
    workload::Subject,
};

/// What stands where the image is not known; no registry can hold it.
pub(crate) const UNKNOWN_IMAGE: &str = "unknown";

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
    resources: Result<Vec<Resource>, Error>,
    /// Resources of other namespaces that allow this one.
    granted: Result<Vec<Resource>, Error>,
    pub(crate) settings: Settings,
    /// Whether the image of the settings is a real one.
    pub(crate) image_known: bool,
    /// What could not be read, and what was taken instead.
    pub(crate) notes: Vec<String>,
}

impl Facts {
    /// What the cluster says.
    pub(crate) async fn fetch(cluster: &Cluster, namespace: &str, settings: &SettingsArgs) -> Self {
        let mut notes = Vec::new();
        let known = known(cluster, namespace).await.unwrap_or_else(|error| {
            notes.push(format!("{error}; so the labels of namespace {namespace:?} are not known, and taken as absent"));
            NamespaceFacts { name: namespace.to_owned(), ..NamespaceFacts::default() }
        });
        let views = |found: Vec<DynamicObject>| found.iter().filter_map(view::resource).collect::<Vec<_>>();
        // Who may not list those of other namespaces may know enough by those of this one.
        let (resources, granted) = match cluster.resources(None).await.map(views) {
            Ok(all) => {
                let (own, others): (Vec<_>, Vec<_>) = all
                    .into_iter()
                    .filter(|found| found.serves(namespace))
                    .partition(|found| found.namespace == namespace);
                (Ok(own), Ok(others))
            }
            Err(error) => (cluster.resources(Some(namespace)).await.map(views), Err(error)),
        };
        let (settings, image_known) = read_settings(cluster, settings, &mut notes).await;
        Self { namespace: known, resources, granted, settings, image_known, notes }
    }

    /// What files and flags say.
    pub(crate) fn offline(namespace: &str, settings: &SettingsArgs) -> Self {
        let SettingsArgs { sidecar_image, on_missing } = settings;
        Self {
            namespace: NamespaceFacts { name: namespace.to_owned(), ..NamespaceFacts::default() },
            resources: Ok(Vec::new()),
            granted: Ok(Vec::new()),
            image_known: sidecar_image.is_some(),
            settings: Settings {
                sidecar_image: sidecar_image.clone().unwrap_or_else(|| UNKNOWN_IMAGE.to_owned()),
                on_missing: on_missing.map_or_else(OnMissing::default, OnMissing::from),
                class: None,
            },
            notes: Vec::new(),
        }
    }

    /// Takes a resource of a file, which wins over one of the same name. One that says no namespace is of this one.
    pub(crate) fn add(&mut self, object: &DynamicObject) {
        let Some(mut resource) = view::resource(object) else { return };
        if resource.namespace.is_empty() {
            resource.namespace.clone_from(&self.namespace.name);
        }
        let list = if resource.namespace == self.namespace.name { &mut self.resources } else { &mut self.granted };
        let mut known = std::mem::replace(list, Ok(Vec::new())).unwrap_or_default();
        known.retain(|other| (&other.namespace, &other.name) != (&resource.namespace, &resource.name));
        known.push(resource);
        *list = Ok(known);
    }

    /// The webhook's decision. Where it hangs on resources that could not be read, there is none.
    pub(crate) fn decide(&self, subject: &Subject) -> Result<Decision, Error> {
        let known: Vec<_> = [&self.resources, &self.granted].into_iter().flatten().flatten().cloned().collect();
        let decision = inject::decide(&subject.pod, &self.namespace, &known, &self.settings);
        let hangs_on = if decision.reason() == Reason::NotGranted { &self.granted } else { &self.resources };
        match hangs_on.as_ref().err().filter(|_| decision.reason().may_be_stale()) {
            Some(error) => Err(Error::Refused(format!("the decision hangs on what cannot be read: {error}"))),
            None => Ok(decision),
        }
    }
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

async fn read_settings(cluster: &Cluster, given: &SettingsArgs, notes: &mut Vec<String>) -> (Settings, bool) {
    let SettingsArgs { sidecar_image, on_missing } = given;
    let webhook = if sidecar_image.is_some() && on_missing.is_some() {
        None
    } else {
        operator::deployment(cluster, Component::Webhook).await.unwrap_or_else(|error| {
            notes.push(format!(
                "{error}; so the webhook's own settings are not known: pass --sidecar-image and --on-missing"
            ));
            None
        })
    };
    let image = sidecar_image.clone().or_else(|| webhook.as_ref().and_then(operator::sidecar_image));
    let from_webhook = || webhook.as_ref().map(operator::on_missing).unwrap_or_default();
    let settings = Settings {
        on_missing: on_missing.map_or_else(from_webhook, OnMissing::from),
        sidecar_image: image.clone().unwrap_or_else(|| UNKNOWN_IMAGE.to_owned()),
        class: webhook.as_ref().map(operator::class),
    };
    (settings, image.is_some())
}
