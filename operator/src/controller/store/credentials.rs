//! What a server is shown and asked: the user's API key and CA, and the certificate of the sidecars, read by name.

use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::SecretString;

use crate::controller::{
    build, certificate,
    context::Context,
    error::{Error, call},
    given,
    keys::owned,
    plan::{Plan, QdrantPlan},
    status::Trouble,
};
use crate::pki::client::Pair;

/// What a server is shown and asked.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Credentials {
    /// What is sent as `api-key`.
    pub(in crate::controller) key: Option<SecretString>,
    /// The certificates in PEM that may vouch for the server.
    pub(in crate::controller) ca: Option<Vec<u8>>,
    /// What a server that asks who calls is shown: the same as by the sidecars.
    pub(in crate::controller) certificate: Option<Pair>,
}

impl Credentials {
    /// Whether all is there that sidecars have. A namespace that is deleted may have lost the certificate before its resources.
    pub(super) const fn are_whole(&self, wanted: &QdrantPlan) -> bool {
        wanted.store.cert_file.is_none() || self.certificate.is_some()
    }
}

/// What the resource refers to.
pub(super) async fn fetch(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
) -> Result<Result<Credentials, Trouble>, Error> {
    let mut found = Credentials::default();
    if wanted.store.cert_file.is_some() {
        found.certificate = own_certificate(context, plan).await?;
    }
    if let Some(reference) = &wanted.api_key {
        let field = "spec.vectorStore.qdrant.apiKeySecretRef";
        match given::secret(context, &plan.namespace, field, reference).await?.and_then(|key| header(field, key)) {
            Ok(key) => found.key = Some(key),
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    let Some(source) = &wanted.ca else { return Ok(Ok(found)) };
    let fields = ["spec.vectorStore.qdrant.tls.caSecretRef", "spec.vectorStore.qdrant.tls.caConfigMapRef"];
    let ca = given::ca(context, &plan.namespace, fields, source).await?;
    Ok(ca.map(|ca| Credentials { ca: Some(ca), ..found }))
}

/// The certificate of the sidecars, if it is made by now.
async fn own_certificate(context: &Context, plan: &Plan) -> Result<Option<Pair>, Error> {
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the certificate", api.get_opt(&names::tls_secret(&plan.name))).await?;
    let ours = live.filter(|live| build::is_ours(&live.metadata) || owned(live, plan));
    Ok(ours.as_ref().and_then(certificate::pair_in))
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
