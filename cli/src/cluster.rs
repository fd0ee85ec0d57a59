//! The cluster as the caller may see it.

use std::future::Future;

use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{args::Connection, error::Error};

/// A client, and the namespaces that count.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The one that was asked for, or that of the context.
    pub(crate) namespace: String,
    /// Whether it was asked for.
    pub(crate) namespace_given: bool,
    /// Where the operator is installed.
    pub(crate) operator_namespace: String,
    /// The release that is meant there; all of them when absent.
    pub(crate) release: Option<String>,
}

/// The `ContextManager`s that may be looked at.
pub(crate) struct Visible {
    pub(crate) found: Vec<DynamicObject>,
    /// The only namespace that they are from because the others may not be looked at.
    pub(crate) only: Option<String>,
}

impl Visible {
    /// What is to be said to somebody who sees less than they asked for.
    pub(crate) fn note(&self) -> Option<String> {
        let only = self.only.as_ref()?;
        Some(format!("you may not list the ContextManagers of all namespaces; this is namespace {only:?} alone"))
    }
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked of the cluster yet.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, Error> {
        let Connection { kubeconfig, context, namespace, user, operator_namespace, release } = connection;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let mut config = match kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(read) => Config::from_custom_kubeconfig(read, &options).await,
                Err(error) => Err(error),
            },
            None => Config::from_kubeconfig(&options).await,
        }
        .map_err(|source| Error::Kubeconfig { source: Box::new(source) })?;
        if user.is_some() {
            config.auth_info.impersonate.clone_from(user);
        }
        // A wrong answer should come soon; a person waits for it.
        config.connect_timeout = Some(std::time::Duration::from_secs(10));
        config.default_retry = false;
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|source| Error::Client { source: Box::new(source) })?;
        Ok(Self {
            client,
            namespace: namespace.clone().unwrap_or(default_namespace),
            namespace_given: namespace.is_some(),
            operator_namespace: operator_namespace.clone(),
            release: release.clone(),
        })
    }

    /// The `ContextManager`s of a namespace, or of all.
    pub(crate) async fn resources(&self, namespace: Option<&str>) -> Result<Vec<DynamicObject>, Error> {
        let (api, action) = match namespace {
            Some(namespace) => {
                (self.resources_of(namespace), format!("list the ContextManagers of namespace {namespace:?}"))
            }
            None => (
                Api::all_with(self.client.clone(), &resource_type()),
                "list the ContextManagers of all namespaces".to_owned(),
            ),
        };
        let list = call(&action, "list contextmanagers.contextmanager.dev", api.list(&ListParams::default())).await;
        Ok(or_no_definition(list)?.items)
    }

    /// Those that may be looked at: of the namespace that was asked for, or else of all, or else, for somebody who may not list these, of
    /// the context's namespace. Every subcommand that is about more than one namespace goes by this.
    pub(crate) async fn visible(&self) -> Result<Visible, Error> {
        if self.namespace_given {
            return Ok(Visible { found: self.resources(Some(&self.namespace)).await?, only: None });
        }
        match self.resources(None).await {
            Ok(found) => Ok(Visible { found, only: None }),
            Err(Error::Forbidden { .. }) => {
                let found = self.resources(Some(&self.namespace)).await?;
                Ok(Visible { found, only: Some(self.namespace.clone()) })
            }
            Err(error) => Err(error),
        }
    }

    /// One of them.
    pub(crate) async fn resource(&self, name: &str) -> Result<DynamicObject, Error> {
        self.resource_of(&self.namespace, name).await
    }

    /// One of them in a namespace.
    pub(crate) async fn resource_of(&self, namespace: &str, name: &str) -> Result<DynamicObject, Error> {
        let api = self.resources_of(namespace);
        let action = format!("read the ContextManager {name:?} of namespace {namespace:?}");
        let found = call(&action, "get contextmanagers.contextmanager.dev", api.get_opt(name)).await;
        or_no_definition(found)?.ok_or_else(|| Error::Missing {
            what: format!("the ContextManager {name:?} of namespace {namespace:?}"),
            remedy: "`kubectl get contextmanagers -A` lists those that do".to_owned(),
        })
    }

    pub(crate) fn resources_of(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource_type())
    }

    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub(crate) fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The type of `ContextManager`, for objects that an older or newer version wrote.
pub(crate) fn resource_type() -> kube::core::ApiResource {
    kube::core::ApiResource::erase::<context_manager_crds::ContextManager>(&())
}

/// A call of the API server, with what its failure means.
pub(crate) async fn call<T>(
    action: &str,
    right: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    call.await.map_err(|source| Error::from_api(action, right, source))
}

/// Whether the API server has no such object, or no such type.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An answer about `ContextManager`s. That there is no such path means that there is no such type; of a missing object the API server says
/// so, and it is no error here.
fn or_no_definition<T>(answer: Result<T, Error>) -> Result<T, Error> {
    answer.map_err(|error| {
        if matches!(&error, Error::Api { source, .. } if is_not_found(source)) {
            return Error::Missing {
                what: "the type ContextManager".to_owned(),
                remedy: "install the chart, and look at `kubectl context check`".to_owned(),
            };
        }
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_means_that_the_definition_is_missing() {
        let answer = |code: u16| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            or_no_definition::<()>(Err(Error::from_api("read", "get x", kube::Error::Api(Box::new(status)))))
        };
        assert!(answer(404).is_err_and(|error| error.to_string().contains("the type ContextManager does not exist")));
        assert!(answer(500).is_err_and(|error| error.to_string().contains("failed to read")));
        assert!(or_no_definition(Ok(None::<()>)).is_ok_and(|found| found.is_none()));
    }
}
