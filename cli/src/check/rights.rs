//! Rights: the caller's to install, the operator's to work, and what the caller may do with this program.
//!
//! The API server is asked, by reviews of access; what roles say is never interpreted here. Which rights the operator needs is what the
//! chart gives it ([`chart`]) with the values of the installation ([`installed`]).

mod chart;
mod installed;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::PostParams;

use super::{finding::Findings, namespaces};
use crate::{
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
};

/// Most questions at a time.
const AT_ONCE: usize = 8;

/// Where a right is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Cluster,
    /// A namespace that the operator serves, where it does not serve all.
    In(String),
    /// The operator's namespace.
    Home,
    /// The namespace of the caller.
    Here,
}

/// Verbs on a resource, as `resource.group` with an optional `/subresource`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Right {
    scope: Scope,
    verbs: Vec<String>,
    resource: String,
    /// The only object that it is about.
    name: Option<String>,
}

impl Right {
    fn new(scope: Scope, verbs: &[&str], resource: impl Into<String>) -> Self {
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        Self { scope, verbs, resource: resource.into(), name: None }
    }
}

/// Verbs and a resource in the namespace of the caller.
type Needed = (&'static [&'static str], &'static str);

/// A subcommand, and what it takes.
type Use = (&'static str, &'static [Needed]);

/// What this program can do, and what it takes.
const USES: &[Use] = &[
    ("status", &[(&["list"], "contextmanagers.contextmanager.dev")]),
    ("explain", &[(&["list"], "contextmanagers.contextmanager.dev"), (&["get"], "pods")]),
    ("rotate keys", &[(&["patch"], "contextmanagers.contextmanager.dev")]),
    ("upgrade-sidecars", &[(&["get", "list", "patch"], "contextmanagers.contextmanager.dev"), (&["list"], "pods")]),
    ("query", TO_ASK_A_SIDECAR),
    ("export", TO_ASK_A_SIDECAR),
    ("import", TO_ASK_A_SIDECAR),
];

/// The pod that is named, a way to its loopback address, and the key that its agent signs with.
const TO_ASK_A_SIDECAR: &[Needed] = &[(&["get"], "pods"), (&["create"], "pods/portforward"), (&["get"], "secrets")];

/// Whether the caller may install the chart.
pub(super) async fn to_install(cluster: &Cluster, findings: &mut Findings) {
    let check = "rights-to-install";
    let mut rights = chart::to_install();
    // Who does not see the namespace has to make it, or to find somebody who does.
    if !namespaces::is_there(cluster).await {
        rights.insert(0, Right::new(Scope::Cluster, &["create"], "namespaces"));
    }
    match lacking(cluster, &Who::Caller, &rights).await {
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
    for (component, check) in
        [(Component::Controller, "rights-of-controller"), (Component::Webhook, "rights-of-webhook")]
    {
        // That there is none or that they are unreadable is a finding already.
        for deployment in operator::deployments(cluster, component).await.unwrap_or_default() {
            let rights = installed::rights(component, &deployment);
            let account = deployment.spec.template.spec.and_then(|spec| spec.service_account_name);
            let account = account.unwrap_or_else(|| "default".to_owned());
            let user = format!("system:serviceaccount:{}:{account}", cluster.operator_namespace);
            match lacking(cluster, &Who::User(user), &rights).await {
                Ok(lacking) if lacking.is_empty() => {
                    findings.fine(check, format!("ServiceAccount {account} has them all"));
                }
                Ok(lacking) => findings.problem(
                    check,
                    format!("ServiceAccount {account} may not {}", lacking.join("; ")),
                    "install the chart again: somebody changed its ClusterRole, Role or bindings",
                ),
                Err(error) => findings.unknown(check, &error),
            }
        }
    }
}

/// What the caller may do with this program.
pub(super) async fn of_caller(cluster: &Cluster, findings: &mut Findings) {
    let check = "your-rights";
    let (mut may, mut may_not) = (Vec::new(), Vec::new());
    for (what, rights) in USES {
        let rights: Vec<_> = rights.iter().map(|(verbs, resource)| Right::new(Scope::Here, verbs, *resource)).collect();
        match lacking(cluster, &Who::Caller, &rights).await {
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
    let questions = rights.iter().map(|right| async move {
        let mut denied = Vec::new();
        for verb in &right.verbs {
            if !allowed(cluster, who, attributes(cluster, right, verb)).await? {
                denied.push(verb.as_str());
            }
        }
        Ok::<_, Error>((!denied.is_empty()).then(|| words(cluster, right, &denied)))
    });
    let answers: Vec<_> = stream::iter(questions).buffered(AT_ONCE).collect().await;
    let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
    Ok(answers.into_iter().flatten().collect())
}

fn words(cluster: &Cluster, right: &Right, verbs: &[&str]) -> String {
    let name = right.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
    let place = place(cluster, &right.scope).map(|place| format!(" in namespace {place}")).unwrap_or_default();
    format!("{} {}{name}{place}", verbs.join(", "), right.resource)
}

fn place(cluster: &Cluster, scope: &Scope) -> Option<String> {
    match scope {
        Scope::Cluster => None,
        Scope::In(namespace) => Some(namespace.clone()),
        Scope::Home => Some(cluster.operator_namespace.clone()),
        Scope::Here => Some(cluster.namespace.clone()),
    }
}

fn attributes(cluster: &Cluster, right: &Right, verb: &str) -> ResourceAttributes {
    let resource = right.resource.as_str();
    let (resource, subresource) =
        resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub.to_owned())));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    ResourceAttributes {
        group: Some(group.to_owned()),
        namespace: place(cluster, &right.scope),
        name: right.name.clone(),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    }
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
