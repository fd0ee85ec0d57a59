//! Rights: the caller's to install, the operator's to work, and what the caller may do with this program.
//!
//! The API server is asked, by reviews of access; what roles say is never interpreted here.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::PostParams;

use super::finding::Findings;
use crate::{
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
};

/// Most questions at a time.
const AT_ONCE: usize = 8;

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Cluster,
    /// The operator's namespace.
    Home,
    /// The namespace of the caller.
    Here,
}

/// Verbs on a resource, as `resource.group` with an optional `/subresource`.
type Right = (Scope, &'static [&'static str], &'static str);

/// What helm creates from the chart.
const INSTALL: &[Right] = &[
    (Scope::Cluster, &["create", "patch"], "customresourcedefinitions.apiextensions.k8s.io"),
    (Scope::Cluster, &["create", "patch"], "clusterroles.rbac.authorization.k8s.io"),
    (Scope::Cluster, &["create", "patch"], "clusterrolebindings.rbac.authorization.k8s.io"),
    (Scope::Cluster, &["create", "patch"], "mutatingwebhookconfigurations.admissionregistration.k8s.io"),
    (Scope::Home, &["create", "patch"], "roles.rbac.authorization.k8s.io"),
    (Scope::Home, &["create", "patch"], "rolebindings.rbac.authorization.k8s.io"),
    (Scope::Home, &["create", "patch"], "deployments.apps"),
    (Scope::Home, &["create", "patch"], "services"),
    (Scope::Home, &["create", "patch"], "serviceaccounts"),
    (Scope::Home, &["create", "patch"], "poddisruptionbudgets.policy"),
    (Scope::Home, &["create", "list"], "secrets"),
];

const CONTROLLER: &[Right] = &[
    (Scope::Cluster, &["list", "watch", "patch"], "contextmanagers.contextmanager.dev"),
    (Scope::Cluster, &["patch"], "contextmanagers.contextmanager.dev/status"),
    (Scope::Cluster, &["get", "list", "watch", "create", "patch"], "configmaps"),
    (Scope::Cluster, &["get", "list", "watch", "create", "patch"], "persistentvolumeclaims"),
    (Scope::Cluster, &["get", "create", "update", "patch"], "secrets"),
    (Scope::Cluster, &["list", "watch"], "pods"),
    (Scope::Cluster, &["create", "patch"], "events.events.k8s.io"),
    (Scope::Home, &["get", "create", "patch"], "leases.coordination.k8s.io"),
];

const WEBHOOK: &[Right] = &[
    (Scope::Cluster, &["get", "list", "watch"], "namespaces"),
    (Scope::Cluster, &["get", "list", "watch"], "contextmanagers.contextmanager.dev"),
    (Scope::Cluster, &["create", "patch"], "events.events.k8s.io"),
    (Scope::Home, &["create"], "secrets"),
];

/// What this program can do, and what it takes.
const USES: &[(&str, &[Right])] = &[
    ("status", &[(Scope::Here, &["list"], "contextmanagers.contextmanager.dev")]),
    ("explain", &[(Scope::Here, &["list"], "contextmanagers.contextmanager.dev"), (Scope::Here, &["get"], "pods")]),
    ("rotate keys", &[(Scope::Here, &["patch"], "contextmanagers.contextmanager.dev")]),
    (
        "query",
        &[
            (Scope::Here, &["get"], "pods"),
            (Scope::Here, &["create"], "pods/portforward"),
            (Scope::Here, &["get"], "secrets"),
        ],
    ),
];

/// Whether the caller may install the chart.
pub(super) async fn to_install(cluster: &Cluster, findings: &mut Findings) {
    let check = "rights-to-install";
    match lacking(cluster, &Who::Caller, INSTALL).await {
        Ok(lacking) if lacking.is_empty() => findings.fine(check, "you may make all that the chart has"),
        Ok(lacking) => findings.problem(
            check,
            format!("you may not {}", lacking.join("; ")),
            "let somebody with these rights, such as a cluster-admin, install the chart",
        ),
        Err(error) => findings.unknown(check, &error),
    }
}

/// Whether the operator may do its work.
pub(super) async fn of_operator(cluster: &Cluster, findings: &mut Findings) {
    for (component, check, rights) in [
        (Component::Controller, "rights-of-controller", CONTROLLER),
        (Component::Webhook, "rights-of-webhook", WEBHOOK),
    ] {
        // That the Deployment is missing or unreadable is a finding already.
        let Ok(Some(deployment)) = operator::deployment(cluster, component).await else { continue };
        let account = deployment.spec.template.spec.and_then(|spec| spec.service_account_name);
        let account = account.unwrap_or_else(|| "default".to_owned());
        let user = format!("system:serviceaccount:{}:{account}", cluster.operator_namespace);
        match lacking(cluster, &Who::User(user), rights).await {
            Ok(lacking) if lacking.is_empty() => findings.fine(check, format!("ServiceAccount {account} has them all")),
            Ok(lacking) => findings.problem(
                check,
                format!("ServiceAccount {account} may not {}", lacking.join("; ")),
                "install the chart again: somebody changed its ClusterRole, Role or bindings",
            ),
            Err(error) => findings.unknown(check, &error),
        }
    }
}

/// What the caller may do with this program.
pub(super) async fn of_caller(cluster: &Cluster, findings: &mut Findings) {
    let check = "your-rights";
    let (mut may, mut may_not) = (Vec::new(), Vec::new());
    for (what, rights) in USES {
        match lacking(cluster, &Who::Caller, rights).await {
            Ok(lacking) if lacking.is_empty() => may.push(*what),
            Ok(lacking) => may_not.push(format!("{what} (it takes the right to {})", lacking.join(" and to "))),
            Err(error) => return findings.unknown(check, &error),
        }
    }
    let may_not = if may_not.is_empty() { String::new() } else { format!("; but not {}", may_not.join(", ")) };
    findings
        .fine(check, format!("in namespace {:?} you may use {}{may_not}", cluster.namespace, crate::table::list(&may)));
}

enum Who {
    Caller,
    User(String),
}

/// The rights that somebody lacks, in words.
async fn lacking(cluster: &Cluster, who: &Who, rights: &[Right]) -> Result<Vec<String>, Error> {
    let questions = rights.iter().map(|(scope, verbs, resource)| async move {
        let mut denied = Vec::new();
        let mut place = String::new();
        for verb in *verbs {
            let (attributes, where_) = attributes(cluster, *scope, verb, resource);
            if !allowed(cluster, who, attributes).await? {
                denied.push(*verb);
            }
            place = where_;
        }
        Ok::<_, Error>((!denied.is_empty()).then(|| format!("{} {resource}{place}", denied.join(", "))))
    });
    let answers: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
    Ok(answers.into_iter().flatten().collect())
}

fn attributes(cluster: &Cluster, scope: Scope, verb: &str, resource: &str) -> (ResourceAttributes, String) {
    let (resource, subresource) =
        resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub.to_owned())));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let namespace = match scope {
        Scope::Cluster => None,
        Scope::Home => Some(cluster.operator_namespace.clone()),
        Scope::Here => Some(cluster.namespace.clone()),
    };
    let place = namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        namespace,
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    (attributes, place)
}

async fn allowed(cluster: &Cluster, who: &Who, attributes: ResourceAttributes) -> Result<bool, Error> {
    let params = PostParams::default();
    match who {
        Who::Caller => {
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let api = cluster.all::<SelfSubjectAccessReview>();
            let right = "create selfsubjectaccessreviews.authorization.k8s.io";
            let answer = call("ask for your own rights", right, api.create(&params, &review)).await?;
            Ok(answer.status.is_some_and(|status| status.allowed))
        }
        Who::User(user) => {
            // A ServiceAccount gets most rights by its groups in clusters with unusual roles; the API server adds them only at login.
            let groups = user.split(':').nth(2).map(|namespace| {
                vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ]
            });
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(user.clone()),
                groups,
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let api = cluster.all::<SubjectAccessReview>();
            let right = "create subjectaccessreviews.authorization.k8s.io";
            let answer = call("ask for the operator's rights", right, api.create(&params, &review)).await?;
            Ok(answer.status.is_some_and(|status| status.allowed))
        }
    }
}
