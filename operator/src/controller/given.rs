//! Secrets and `ConfigMap`s that the user makes and a resource refers to: read by name, and never changed. A trouble names the field,
//! the object and the remedy, and never what the object holds.

use context_manager_crds::context_manager::{embedding::SecretKeyRef, qdrant::ConfigMapKeyRef};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::Api;

use super::{
    context::Context,
    error::{Error, call},
    plan::CaSource,
    status::Trouble,
};
use crate::pki::check_bundle;

/// A kind of object, and the reasons that say it is not there or not as it should be.
struct Kind {
    name: &'static str,
    not_found: &'static str,
    invalid: &'static str,
}

const SECRET: Kind = Kind { name: "Secret", not_found: "SecretNotFound", invalid: "SecretInvalid" };
const CONFIG_MAP: Kind = Kind { name: "ConfigMap", not_found: "ConfigMapNotFound", invalid: "ConfigMapInvalid" };

/// What was found of a key of an object.
enum Found {
    NoObject,
    NoKey,
    Content(Vec<u8>),
}

impl From<Option<Vec<u8>>> for Found {
    fn from(content: Option<Vec<u8>>) -> Self {
        content.map_or(Self::NoKey, Self::Content)
    }
}

/// What a key of a Secret holds.
pub(super) async fn secret(
    context: &Context,
    namespace: &str,
    field: &'static str,
    SecretKeyRef { name, key }: &SecretKeyRef,
) -> Result<Result<Vec<u8>, Trouble>, Error> {
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let secret = call("read a Secret that the resource refers to", api.get_opt(name)).await?;
    let found = secret.map_or(Found::NoObject, |secret| {
        secret.data.unwrap_or_default().remove(key).map(|ByteString(bytes)| bytes).into()
    });
    Ok(found.or_trouble(&SECRET, field, name, key))
}

/// What a key of a `ConfigMap` holds.
pub(super) async fn config_map(
    context: &Context,
    namespace: &str,
    field: &'static str,
    ConfigMapKeyRef { name, key }: &ConfigMapKeyRef,
) -> Result<Result<Vec<u8>, Trouble>, Error> {
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    let map = call("read a ConfigMap that the resource refers to", api.get_opt(name)).await?;
    let found = map.map_or(Found::NoObject, |map| {
        let text = map.data.unwrap_or_default().remove(key).map(String::into_bytes);
        text.or_else(|| map.binary_data.unwrap_or_default().remove(key).map(|ByteString(bytes)| bytes)).into()
    });
    Ok(found.or_trouble(&CONFIG_MAP, field, name, key))
}

/// The CA certificates of a Secret or a `ConfigMap`, as they are written there. `fields` are those of the one and of the other.
pub(super) async fn ca(
    context: &Context,
    namespace: &str,
    [secret, config_map]: [&'static str; 2],
    source: &CaSource,
) -> Result<Result<Vec<u8>, Trouble>, Error> {
    match source {
        CaSource::Secret(reference) => self::secret(context, namespace, secret, reference).await,
        CaSource::ConfigMap(reference) => self::config_map(context, namespace, config_map, reference).await,
    }
}

/// The same for a program that takes no notice of what it cannot use: nothing else than certificates of CAs is let through.
pub(super) async fn checked_ca(
    context: &Context,
    namespace: &str,
    fields: [&'static str; 2],
    source: &CaSource,
) -> Result<Result<Vec<u8>, Trouble>, Error> {
    let found = ca(context, namespace, fields, source).await?;
    Ok(found.and_then(|pem| match check_bundle(&pem) {
        Ok(()) => Ok(pem),
        Err(problem) => Err(unusable(fields, source, &problem)),
    }))
}

fn unusable([secret, config_map]: [&'static str; 2], source: &CaSource, problem: &str) -> Trouble {
    let (field, kind, name, key) = match source {
        CaSource::Secret(SecretKeyRef { name, key }) => (secret, &SECRET, name, key),
        CaSource::ConfigMap(ConfigMapKeyRef { name, key }) => (config_map, &CONFIG_MAP, name, key),
    };
    let message = format!(
        "{field}: the key {key:?} of the {} {name:?} {problem}; write the certificates of the CAs in PEM to it",
        kind.name
    );
    Trouble::stalled(kind.invalid, message)
}

impl Found {
    fn or_trouble(self, kind: &Kind, field: &str, name: &str, key: &str) -> Result<Vec<u8>, Trouble> {
        let Kind { name: object, not_found, invalid } = kind;
        let (reason, what) = match self {
            Self::Content(bytes) if !bytes.trim_ascii().is_empty() => return Ok(bytes),
            Self::Content(_) => (*invalid, format!("the key {key:?} of the {object} {name:?} is empty; write it")),
            Self::NoKey => (*invalid, format!("the {object} {name:?} has no key {key:?}; add it")),
            Self::NoObject => {
                (*not_found, format!("the {object} {name:?} does not exist; create it with the key {key:?}"))
            }
        };
        Err(Trouble::stalled(reason, format!("{field}: {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_that_cannot_be_used_is_named_with_the_reason_of_its_object() {
        let fields = ["spec.x.caSecretRef", "spec.x.caConfigMapRef"];
        let map = CaSource::ConfigMap(ConfigMapKeyRef { name: "mine".to_owned(), key: "ca.crt".to_owned() });
        let trouble = unusable(fields, &map, "has no certificate in it");
        assert_eq!(trouble.reason, "ConfigMapInvalid");
        let said =
            "spec.x.caConfigMapRef: the key \"ca.crt\" of the ConfigMap \"mine\" has no certificate in it; write";
        assert!(trouble.message.starts_with(said), "{}", trouble.message);
        let secret = CaSource::Secret(SecretKeyRef { name: "mine".to_owned(), key: "ca.crt".to_owned() });
        assert_eq!(unusable(fields, &secret, "").reason, "SecretInvalid");
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let said = |found: Found| found.or_trouble(&SECRET, "spec.x", "mine", "token");
        assert_eq!(said(Found::Content(b"content".to_vec())), Ok(b"content".to_vec()));
        for (found, reason, words) in [
            (Found::NoObject, "SecretNotFound", "does not exist; create it with the key \"token\""),
            (Found::NoKey, "SecretInvalid", "has no key \"token\"; add it"),
            (Found::Content(b" \n".to_vec()), "SecretInvalid", "is empty"),
        ] {
            let trouble = said(found).expect_err(words);
            assert_eq!(trouble.reason, reason);
            assert!(trouble.message.contains(words) && trouble.message.starts_with("spec.x: "), "{}", trouble.message);
            assert!(trouble.message.contains("\"mine\""), "{}", trouble.message);
        }
    }
}
