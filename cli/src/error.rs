//! What can go wrong; each message names the remedy.

use crate::answer::Exit;

/// Why a subcommand could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable kubeconfig.
    #[error("no cluster is configured; set KUBECONFIG, or pass --kubeconfig and --context")]
    Kubeconfig {
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Client {
        /// What is wrong with it.
        source: Box<kube::Error>,
    },
    /// The API server refuses for want of a right.
    #[error("not allowed to {action}; ask the cluster's administrator for the right to {right}")]
    Forbidden {
        /// What was tried.
        action: String,
        /// A verb and a resource.
        right: String,
    },
    /// The caller is nobody to the API server.
    #[error("the API server does not accept your credentials when asked to {action}; log in again")]
    Unauthorized {
        /// What was tried.
        action: String,
    },
    /// The API server does not answer.
    #[error(
        "the API server does not answer when asked to {action}; is the cluster of this context up, and reachable from here?"
    )]
    Unreachable {
        /// What was tried.
        action: String,
        /// What the connection said.
        source: Box<kube::Error>,
    },
    /// The API server answers with another error.
    #[error("failed to {action}")]
    Api {
        /// What was tried.
        action: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// Something that was named does not exist.
    #[error("{what} does not exist; {remedy}")]
    Missing {
        /// What was looked for.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read or understood.
    #[error("{file}: {what}")]
    Input {
        /// Its name, or `standard input`.
        file: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// What was asked for is refused, with a reason.
    #[error("{0}")]
    Refused(String),
    /// An answer cannot be written.
    #[error("failed to write the answer: {what}")]
    Write {
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// The exit code that says so.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Kubeconfig { .. }
            | Self::Client { .. }
            | Self::Forbidden { .. }
            | Self::Unauthorized { .. }
            | Self::Unreachable { .. }
            | Self::Api { .. }
            | Self::Missing { .. }
            | Self::Input { .. }
            | Self::Refused(_)
            | Self::Write { .. } => Exit::Failed,
        }
    }

    /// What the API server's answer means. `action` continues "failed to"; `right` is a verb and a resource.
    pub(crate) fn from_api(action: &str, right: &str, source: kube::Error) -> Self {
        let action = action.to_owned();
        let (code, said) =
            if let kube::Error::Api(status) = &source { (status.code, status.message.as_str()) } else { (0, "") };
        let silent = matches!(&source, kube::Error::HyperError(_) | kube::Error::Service(_));
        match code {
            401 => Self::Unauthorized { action },
            403 if lacks_right(right, said) => Self::Forbidden { action, right: right.to_owned() },
            _ if silent => Self::Unreachable { action, source: Box::new(source) },
            _ => Self::Api { action, source: Box::new(source) },
        }
    }
}

/// Whether a 403 is about a right, as nothing else keeps anybody from reading, or as the API server's authorizer says so. Pod Security, quotas and
/// admission webhooks refuse what is written with the same status, and their own words say more.
pub(crate) fn lacks_right(right: &str, said: &str) -> bool {
    let reads = ["get ", "list ", "watch "].iter().any(|verb| right.starts_with(verb));
    reads || said.contains("cannot ") && said.contains(" resource \"")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn who_may_do_it_and_is_refused_all_the_same_is_told_why() {
        let refused = |right: &str, said: &str| {
            let status = Status { code: 403, message: said.to_owned(), ..Status::default() };
            Error::from_api("do it", right, kube::Error::Api(Box::new(status)))
        };
        let rights =
            r#"pods "a" is forbidden: User "ann" cannot patch resource "pods" in API group "" in the namespace "team""#;
        let patch = "patch pods";
        assert!(matches!(refused(patch, rights), Error::Forbidden { .. }));
        assert!(
            matches!(refused("list pods", "no entry"), Error::Forbidden { .. }),
            "nothing else guards what is read"
        );
        let policy = r#"admission webhook "calm.example.com" denied the request: not now"#;
        assert!(matches!(refused(patch, policy), Error::Api { .. }), "the webhook's own words say more");
    }
}
