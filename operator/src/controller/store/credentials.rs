//! What a server is shown and asked: the user's API key and CA, read by name.

use secrecy::SecretString;

use crate::controller::{
    error::Error,
    given,
    plan::{CaSource, Plan, QdrantPlan},
    reconcile::Context,
    status::Trouble,
};

/// What a server is shown and asked.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Credentials {
    /// What is sent as `api-key`.
    pub(in crate::controller) key: Option<SecretString>,
    /// The certificates in PEM that may vouch for the server.
    pub(in crate::controller) ca: Option<Vec<u8>>,
}

/// What the resource refers to.
pub(super) async fn fetch(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
) -> Result<Result<Credentials, Trouble>, Error> {
    let mut found = Credentials::default();
    if let Some(reference) = &wanted.api_key {
        let field = "spec.vectorStore.qdrant.apiKeySecretRef";
        match given::secret(context, &plan.namespace, field, reference).await?.and_then(|key| header(field, key)) {
            Ok(key) => found.key = Some(key),
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    let ca = match &wanted.ca {
        None => return Ok(Ok(found)),
        Some(CaSource::Secret(reference)) => {
            given::secret(context, &plan.namespace, "spec.vectorStore.qdrant.tls.caSecretRef", reference).await?
        }
        Some(CaSource::ConfigMap(reference)) => {
            given::config_map(context, &plan.namespace, "spec.vectorStore.qdrant.tls.caConfigMapRef", reference).await?
        }
    };
    Ok(ca.map(|ca| Credentials { ca: Some(ca), ..found }))
}

/// The key without the line end that `kubectl create secret --from-file` keeps.
fn header(field: &str, key: Vec<u8>) -> Result<SecretString, Trouble> {
    let text = String::from_utf8(key).ok().map(|text| text.trim().to_owned());
    let plain = |text: &String| text.bytes().all(|byte| byte.is_ascii_graphic());
    text.filter(plain).map(SecretString::from).ok_or_else(|| {
        let message = format!("{field}: the key has a character that an HTTP header cannot carry; write it anew");
        Trouble::stalled("SecretInvalid", message)
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_key_is_one_word() {
        let read = |key: &str| header("f", key.into()).map(|key| key.expose_secret().to_owned());
        assert_eq!(read("abc.DEF-1\n").as_deref(), Ok("abc.DEF-1"));
        for wrong in ["two words", "two\nlines", "übel"] {
            let trouble = read(wrong).expect_err(wrong);
            assert!(trouble.message.starts_with("f: ") && !trouble.message.contains(wrong), "{}", trouble.message);
        }
    }
}
