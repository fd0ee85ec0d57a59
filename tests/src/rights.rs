//! A part of the operator under the rights that the chart gives it, and nothing more: the client impersonates a user of its own, and
//! every request is written down as the right it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use http::{Method, Request, Uri};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    client::Body,
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::{BoxError, service_fn};

use crate::{
    cluster,
    objects::{rendered, rendered_in},
};

const POLL: Duration = Duration::from_millis(50);

/// A right: API group, resource with its subresource, verb.
pub type Right = (String, String, String);

/// What the chart permits a part.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// In the whole cluster.
    pub cluster: Vec<PolicyRule>,
    /// In the operator's namespace.
    pub home: Vec<PolicyRule>,
    /// In these namespaces.
    pub spaces: BTreeMap<String, Vec<PolicyRule>>,
}

/// Says why a trial without something failed.
///
/// # Errors
/// When it did not, so that nothing needs it.
pub fn needed<T>(what: &str, trial: Result<T>) -> Result<Error> {
    let Err(error) = trial else { bail!("nothing fails without {what}, so the chart should not give it") };
    println!("without {what}: {error:#}");
    Ok(error)
}

/// The rules of a rendered `Role` or `ClusterRole`.
fn rules_of(role: &Value) -> Result<Vec<PolicyRule>> {
    Ok(serde_json::from_value(role["rules"].clone())?)
}

impl Rules {
    /// Those of a part such as `controller`, as helm renders them with the chart's defaults. `configuration` takes the place of the
    /// webhook configuration's name.
    ///
    /// # Errors
    /// When the rendered chart has none.
    pub fn of(part: &str, configuration: &str) -> Result<Self> {
        let name = format!("context-manager-{part}");
        Self::read(&rendered("ClusterRole", &name)?, &rendered("Role", &name)?, configuration)
    }

    /// Those of a part with the values of the chart that give it more.
    ///
    /// # Errors
    /// When the rendered chart has none.
    pub fn with_options(part: &str, configuration: &str) -> Result<Self> {
        const FILE: &str = "tests/golden/chart/every-option.yaml";
        let role = |kind: &str| rendered_in(FILE, kind, &format!("memory-{part}"), None);
        Self::read(&role("ClusterRole")?, &role("Role")?, configuration)
    }

    /// Those of a part with the values of the chart that give it least.
    ///
    /// # Errors
    /// When the rendered chart has none.
    pub fn least(part: &str, configuration: &str) -> Result<Self> {
        const FILE: &str = "tests/golden/chart/least-rights.yaml";
        let role = |kind: &str| rendered_in(FILE, kind, &format!("context-manager-{part}"), None);
        Self::read(&role("ClusterRole")?, &role("Role")?, configuration)
    }

    fn read(cluster: &Value, home: &Value, configuration: &str) -> Result<Self> {
        let mut cluster = rules_of(cluster)?;
        for named in cluster.iter_mut().filter_map(|rule| rule.resource_names.as_mut()) {
            *named = vec![configuration.to_owned()];
        }
        Ok(Self { cluster, home: rules_of(home)?, spaces: BTreeMap::new() })
    }

    /// Those of a part with `scope: Namespaced`, for these namespaces. The names of the chart's objects give way to those that are given.
    ///
    /// # Errors
    /// When the rendered chart has none.
    pub fn namespaced(part: &str, configuration: &str, ca: &str, namespaces: &[&str]) -> Result<Self> {
        const FILE: &str = "tests/golden/chart/namespaced.yaml";
        let name = format!("blue-{part}");
        let mut cluster = rules_of(&rendered_in(FILE, "ClusterRole", &name, None)?)?;
        for rule in &mut cluster {
            let named = rule.resource_names.as_mut().context("a right in the whole cluster, by no name")?;
            *named = if rule.resources.iter().flatten().any(|resource| resource == "namespaces") {
                namespaces.iter().map(|&namespace| namespace.to_owned()).collect()
            } else {
                vec![configuration.to_owned()]
            };
        }
        let mut home = rules_of(&rendered_in(FILE, "Role", &name, Some("context-manager-system"))?)?;
        for named in home.iter_mut().filter_map(|rule| rule.resource_names.as_mut()) {
            *named = vec![ca.to_owned()];
        }
        let there = rules_of(&rendered_in(FILE, "Role", &name, Some("team-a"))?)?;
        let spaces = namespaces.iter().map(|&namespace| (namespace.to_owned(), there.clone())).collect();
        Ok(Self { cluster, home, spaces })
    }

    /// One right for each group, resource and verb.
    #[must_use]
    pub fn rights(&self) -> BTreeSet<Right> {
        let mut rights = BTreeSet::new();
        for rule in self.cluster.iter().chain(&self.home).chain(self.spaces.values().flatten()) {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
                }
            }
        }
        rights
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let spaces: usize = self.spaces.values().map(Vec::len).sum();
        self.cluster.len() + self.home.len() + spaces
    }

    /// Whether nothing was needed that they do not give.
    ///
    /// # Errors
    /// When something was.
    pub fn suffice(&self, used: &BTreeSet<Right>) -> Result<()> {
        let given = self.rights();
        let beyond: Vec<_> = used.difference(&given).collect();
        ensure!(beyond.is_empty(), "it asked for what it may not: {beyond:?}");
        Ok(())
    }

    /// The same without one rule, wherever it is.
    #[must_use]
    pub fn without(&self, rule: &PolicyRule) -> Self {
        let mut less = self.clone();
        for rules in [&mut less.cluster, &mut less.home].into_iter().chain(less.spaces.values_mut()) {
            rules.retain(|other| other != rule);
        }
        less
    }

    /// The same without one right.
    #[must_use]
    pub fn without_right(&self, right: &Right) -> Self {
        let less = |rules: &[PolicyRule]| rules.iter().flat_map(|rule| rule_without(rule, right)).collect();
        let spaces = self.spaces.iter().map(|(at, rules)| (at.clone(), less(rules))).collect();
        Self { cluster: less(&self.cluster), home: less(&self.home), spaces }
    }
}

/// A rule for each of its resources, without one right.
fn rule_without(rule: &PolicyRule, (group, resource, verb): &Right) -> Vec<PolicyRule> {
    let concerned = rule.api_groups.iter().flatten().any(|other| other == group);
    let each = rule.resources.iter().flatten().map(|name| {
        let mut rule = PolicyRule { resources: Some(vec![name.clone()]), ..rule.clone() };
        if concerned && name == resource {
            rule.verbs.retain(|other| other != verb);
        }
        rule
    });
    // A rule without verbs is refused.
    each.filter(|rule| !rule.verbs.is_empty()).collect()
}

/// A user with these rights; they end when it is dropped.
pub struct User {
    name: String,
    /// Where it has a Role.
    places: Vec<String>,
    home: String,
    given: BTreeSet<Right>,
    used: Arc<Mutex<BTreeSet<Right>>>,
}

impl User {
    /// Makes one. `home` is the operator's namespace.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create(client: &Client, home: &str, rules: &Rules) -> Result<Self> {
        let name = format!("suite-{}", uuid::Uuid::new_v4());
        let local: Vec<_> = [(home, &rules.home)]
            .into_iter()
            .chain(rules.spaces.iter().map(|(at, rules)| (at.as_str(), rules)))
            .collect();
        let places = local.iter().map(|(place, _)| (*place).to_owned()).collect();
        let user = Self { name, places, home: home.to_owned(), given: rules.rights(), used: Arc::default() };
        let name = &user.name;
        let subjects = json!([{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]);
        let reference = |kind: &str| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"});
        let binding =
            |kind: &str| json!({"metadata": {"name": name}, "subjects": subjects, "roleRef": reference(kind)});
        let role = |rules: &[PolicyRule]| json!({"metadata": {"name": name}, "rules": rules});
        let made = PostParams::default();
        Api::<ClusterRole>::all(client.clone()).create(&made, &serde_json::from_value(role(&rules.cluster))?).await?;
        Api::<ClusterRoleBinding>::all(client.clone())
            .create(&made, &serde_json::from_value(binding("ClusterRole"))?)
            .await?;
        for (place, rules) in local {
            let there = Api::<Role>::namespaced(client.clone(), place);
            there.create(&made, &serde_json::from_value(role(rules))?).await?;
            let bindings = Api::<RoleBinding>::namespaced(client.clone(), place);
            bindings.create(&made, &serde_json::from_value(binding("Role"))?).await?;
        }
        Ok(user)
    }

    /// The user's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client that acts as this user.
    ///
    /// # Errors
    /// When there is no cluster.
    pub async fn client(&self) -> Result<Client> {
        self.client_of(cluster::config().await?)
    }

    /// The same at the API server of a configuration.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn client_of(&self, mut config: Config) -> Result<Client> {
        config.auth_info.impersonate = Some(self.name.clone());
        config.auth_info.impersonate_groups = Some(vec!["system:authenticated".to_owned()]);
        config.default_retry = false;
        let used = Arc::clone(&self.used);
        let noting = move |request: Request<Body>| {
            if let Some(right) = right(request.method(), request.uri()) {
                used.lock().unwrap_or_else(PoisonError::into_inner).insert(right);
            }
            request
        };
        let plain = Client::try_from(config)?;
        let service = service_fn(move |request: Request<Body>| {
            let (client, request) = (plain.clone(), noting(request));
            async move { client.send(request).await.map_err(BoxError::from) }
        });
        Ok(Client::new(service, &self.home))
    }

    /// The rights that were needed so far.
    #[must_use]
    pub fn used(&self) -> BTreeSet<Right> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it asks for what it may not, and says which rights it would have needed.
    pub async fn refused(&self) -> Vec<Right> {
        loop {
            let refused: Vec<_> = self.used().difference(&self.given).cloned().collect();
            if !refused.is_empty() {
                return refused;
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let (name, places) = (self.name.clone(), self.places.clone());
        cluster::clean_up(&format!("the rights of {name}"), async move |client| {
            let now = DeleteParams::default();
            Api::<ClusterRoleBinding>::all(client.clone()).delete(&name, &now).await?;
            Api::<ClusterRole>::all(client.clone()).delete(&name, &now).await?;
            for place in places {
                Api::<RoleBinding>::namespaced(client.clone(), &place).delete(&name, &now).await?;
                Api::<Role>::namespaced(client.clone(), &place).delete(&name, &now).await?;
            }
            Ok(())
        });
    }
}

/// The right that a request needs, as the API server's authoriser names it. Discovery needs none of the chart's.
#[must_use]
pub fn right(method: &Method, uri: &Uri) -> Option<Right> {
    let mut parts = uri.path().trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => String::new(),
        "apis" => parts.next()?.to_owned(),
        _ => return None,
    };
    parts.next()?;
    let mut rest: Vec<_> = parts.collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    let query = uri.query().unwrap_or_default();
    let is_watch = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
    let name = rest.get(1);
    let resource =
        rest.get(2).map_or_else(|| rest.first().map(|&kind| kind.to_owned()), |sub| Some(format!("{}/{sub}", rest[0])));
    let verb = match (method.as_str(), name) {
        ("GET", _) if is_watch => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => return None,
    };
    Some((group, resource?, verb.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_by_the_right_they_need() {
        let of = |method: Method, uri: &str| {
            right(&method, &uri.parse().expect("a path"))
                .map(|(group, resource, verb)| format!("{verb} {resource}.{group}"))
        };
        assert_eq!(of(Method::GET, "/api/v1/pods?labelSelector=x").as_deref(), Some("list pods."));
        assert_eq!(of(Method::GET, "/api/v1/namespaces/a/pods?watch=true").as_deref(), Some("watch pods."));
        assert_eq!(of(Method::GET, "/api/v1/namespaces/a").as_deref(), Some("get namespaces."));
        assert_eq!(of(Method::POST, "/api/v1/namespaces/a/pods/b/eviction").as_deref(), Some("create pods/eviction."));
        let status = "/apis/contextmanager.dev/v1alpha1/namespaces/a/contextmanagers/b/status";
        assert_eq!(of(Method::PATCH, status).as_deref(), Some("patch contextmanagers/status.contextmanager.dev"));
        assert_eq!(of(Method::GET, "/version"), None);
    }
}
