//! Reading and writing of the CA's `Secret`. Whoever comes first creates it; a write carries the version it is based on,
//! so that of two replicas with the same idea one wins and the other reads what that one wrote.

use std::collections::BTreeMap;

use context_manager_protocol::names;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::{Error, Settings, authority::Authorities, maintain::bounded};

/// The `Secret` as read.
#[derive(Debug)]
pub(super) enum Stored {
    /// It does not exist.
    Absent,
    /// It exists; its content is a set of CAs, or `Err` says why not.
    Present {
        version: Option<String>,
        content: Result<Box<Authorities>, String>,
        /// Whether somebody asks for a new CA by an annotation. The next write takes it away, because it writes what is desired alone.
        requested: bool,
    },
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// Somebody else was quicker.
    Conflict,
}

pub(super) async fn fetch(client: &Client, settings: &Settings) -> Result<Stored, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    let Some(secret) = bounded("read the CA's secret", api.get_opt(&settings.secret)).await? else {
        return Ok(Stored::Absent);
    };
    let text = |ByteString(bytes)| String::from_utf8(bytes).ok();
    let data: BTreeMap<_, _> =
        secret.data.unwrap_or_default().into_iter().filter_map(|(key, value)| Some((key, text(value)?))).collect();
    let requested = secret.metadata.annotations.is_some_and(|annotations| annotations.contains_key(names::ROTATE));
    Ok(Stored::Present {
        requested,
        version: secret.metadata.resource_version,
        content: Authorities::from_secret(&data).map(Box::new),
    })
}

/// Creates the `Secret`, or replaces the one of `version`.
pub(super) async fn write(
    client: &Client,
    settings: &Settings,
    authorities: &Authorities,
    version: Option<String>,
) -> Result<Written, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    let params = PostParams { field_manager: Some(super::trust::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let replaces = version.is_some();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(settings.secret.clone()),
            namespace: Some(settings.namespace.clone()),
            resource_version: version,
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "context-manager".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(
            authorities.to_secret().into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let result = if replaces {
        bounded("replace the CA's secret", api.replace(&settings.secret, &params, &secret)).await
    } else {
        bounded("create the CA's secret", api.create(&params, &secret)).await
    };
    match result {
        Ok(_) => Ok(Written::Done),
        Err(Error::Api { source, .. }) if lost_race(&source, replaces) => Ok(Written::Conflict),
        Err(error) => Err(error),
    }
}

/// To create what exists by now, or to replace what has changed or gone by now. Creating answers "not found" as well, when
/// the namespace is missing: that is no race.
fn lost_race(error: &kube::Error, replaces: bool) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.is_conflict() || status.is_already_exists() || (replaces && status.is_not_found())
}
