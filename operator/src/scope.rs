//! Where the operator looks for resources and pods: in the whole cluster, or in some namespaces, by rights in those alone.

use std::collections::BTreeSet;

use kube::{Api, Client, Resource, core::NamespaceResourceScope};

/// Where resources are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    #[default]
    Cluster,
    /// In these namespaces.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    /// These namespaces, or all if there is none.
    ///
    /// ```
    /// use context_manager_operator::scope::Scope;
    ///
    /// assert_eq!(Scope::of(Vec::new()), Scope::Cluster);
    /// assert_eq!(Scope::of(vec!["b".to_owned(), "a".to_owned()]).places(), [Some("a"), Some("b")]);
    /// ```
    #[must_use]
    pub fn of(namespaces: Vec<String>) -> Self {
        let named: BTreeSet<_> = namespaces.into_iter().filter(|name| !name.is_empty()).collect();
        if named.is_empty() { Self::Cluster } else { Self::Namespaces(named) }
    }

    /// What has to be listed and watched: each namespace by itself, or `None` for all at once.
    #[must_use]
    pub fn places(&self) -> Vec<Option<&str>> {
        match self {
            Self::Cluster => vec![None],
            Self::Namespaces(names) => names.iter().map(|name| Some(name.as_str())).collect(),
        }
    }

    /// Whether objects of a namespace are looked at.
    ///
    /// ```
    /// use context_manager_operator::scope::Scope;
    ///
    /// assert!(Scope::Cluster.contains("a"));
    /// assert!(!Scope::of(vec!["a".to_owned()]).contains("b"));
    /// ```
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// Objects of a place.
pub(crate) fn api<K>(client: &Client, place: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match place {
        None => Api::all(client.clone()),
        Some(namespace) => Api::namespaced(client.clone(), namespace),
    }
}
