//! What a person is told about a server that cannot be used: what is wrong, in which field, and what to do.

use context_manager_qdrant::{Distrust, Failure, Options, Refusal, Trust};
use tracing::debug;

use super::Target;
use crate::controller::{
    plan::RunBy,
    status::Trouble,
    store::{UNCHECKED, server::Error},
};

impl Target {
    /// What a person is told about a failure; what the server said is for the log alone.
    pub(in crate::controller::store) fn trouble(&self, error: &Error) -> Trouble {
        let cause: &dyn std::error::Error = error;
        debug!(resource = self.scope.subject, cause, "A look at the Qdrant server failed");
        let url = &self.options.url;
        let error = match error {
            // Nobody reads it: what is written to the status passes the same fence.
            Error::Closed(closed) => return Trouble::passing(UNCHECKED, closed.to_string()),
            Error::Qdrant(error) => error,
        };
        match error.failure() {
            Failure::Unreachable => self.unreachable(),
            // Nobody but the operator can put these right, and it does: nodes with an old key or certificate are made anew.
            Failure::Distrusted(_) | Failure::Unauthorized if self.run_by == RunBy::Operator => Trouble::passing(
                "StoreUpdating",
                format!("the nodes behind {url} do not all have the API key and certificate of their Secret yet"),
            ),
            Failure::Distrusted(problem) => Trouble::stalled("StoreNotTrusted", self.distrusted(problem)),
            Failure::Unwelcome(refusal) => Trouble::stalled("ClientCertificateRefused", self.unwelcome(refusal)),
            Failure::Unauthorized => Trouble::stalled(
                "StoreUnauthorized",
                format!(
                    "{url} does not take the API key of spec.vectorStore.qdrant.apiKeySecretRef for the collection {}; write \
                     one that may make and change collections",
                    self.options.collection
                ),
            ),
            Failure::Incompatible => Trouble::stalled("StoreIncompatible", error.to_string()),
            Failure::Settings => Trouble::stalled("StoreNotTrusted", format!("spec.vectorStore.qdrant: {error}")),
            Failure::Refused => {
                Trouble::passing("StoreFailing", format!("{url} answers, but not as it should: {error}; see its log"))
            }
        }
    }

    /// What to do about a server whose certificate is not accepted.
    fn distrusted(&self, problem: Distrust) -> String {
        let url = &self.options.url;
        let what = match problem {
            Distrust::UnknownAuthority => match &self.options.trust {
                Trust::Bundle(_) => {
                    "is not signed by the CA of spec.vectorStore.qdrant.tls; give the certificate of the CA that signed it \
                     there, in caSecretRef or caConfigMapRef"
                }
                Trust::WebRoots | Trust::File(_) | Trust::Anybody => {
                    "is not signed by a CA of the web; give the certificate of the CA that signed it in caSecretRef or \
                     caConfigMapRef of spec.vectorStore.qdrant.tls"
                }
            },
            Distrust::Expired => "has expired; renew it there, or set the clock of the controller's node",
            Distrust::NotYetValid => "is not valid yet; set the clocks of the server and of the controller's node",
            Distrust::OtherName => {
                "is for another name; write a host that it is for to spec.vectorStore.qdrant.url, or have it made for this \
                 one, as a subject alternative name"
            }
            Distrust::Revoked => "was revoked; replace it there",
            Distrust::Uncheckable => {
                "cannot be checked; it has to be an X.509 certificate for servers with an RSA, ECDSA or Ed25519 key"
            }
        };
        format!("the certificate of {url} {what}")
    }

    /// What to do about a server that does not let the sidecars' certificate pass.
    fn unwelcome(&self, refusal: Refusal) -> String {
        let Self { options: Options { url, .. }, tls_secret: secret, .. } = self;
        let (problem, remedy) = match refusal {
            Refusal::NoCertificate => {
                ("asks for a client certificate, and there is none yet", "see the condition TLSReady".to_owned())
            }
            Refusal::OtherAuthorities => (
                "asks for a client certificate of the CAs that it names, and none of them signed that of spec.tls",
                make_known(secret),
            ),
            Refusal::UnknownAuthority => {
                ("does not know the CA that signed the client certificate of spec.tls", make_known(secret))
            }
            Refusal::Expired => (
                "says that the client certificate of spec.tls has expired",
                format!(
                    "see the condition TLSReady, and compare the server's clock with tls.crt of the Secret {secret}"
                ),
            ),
            Refusal::Revoked => (
                "says that the client certificate of spec.tls was revoked",
                format!("let its issuer make another one; it is tls.crt of the Secret {secret}"),
            ),
            Refusal::NotTaken => (
                "does not take the client certificate of spec.tls",
                format!(
                    "its log, or that of the proxy in front of it, says why: it has to take the name and the usage in \
                     tls.crt of the Secret {secret}, and {}",
                    make_known(secret)
                ),
            ),
        };
        format!("{url} {problem}; {remedy}")
    }

    pub(super) fn unreachable(&self) -> Trouble {
        let url = &self.options.url;
        let port = if url.trim_end_matches('/').ends_with(":6333") {
            " 6333 is the port of its REST interface; use the gRPC port, 6334."
        } else {
            ""
        };
        let how = match &self.options.identity {
            Some(_) => format!(
                " over TLS, and, if it asks who calls, takes certificates of the CA in ca.crt of the Secret {}",
                self.tls_secret
            ),
            None if url.starts_with("https://") => " over TLS".to_owned(),
            None => " without TLS".to_owned(),
        };
        let message = format!(
            "{url} does not answer.{port} Look whether the server runs and serves gRPC there{how}, and whether a NetworkPolicy \
             lets the controller's namespace and the agents' pods reach it"
        );
        Trouble::passing("StoreUnreachable", message)
    }
}

/// How a server is made to know the CA of the sidecars' certificate.
fn make_known(secret: &str) -> String {
    format!(
        "give ca.crt of the Secret {secret} to the server, or to the proxy in front of it, as the CA of its clients, or \
         choose in spec.tls.issuer who signs for them"
    )
}
