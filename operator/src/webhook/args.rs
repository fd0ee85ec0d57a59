//! The command line of the webhook, and its translation into settings. Each flag can come from the environment too.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use context_manager_protocol::names;

use super::{Settings, Times};
use crate::{
    inject::{self, OnMissing},
    pki::{self, Issuer, Lifetimes},
    scope::Scope,
};

/// Flags of `context-manager-operator webhook`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address on which the API server calls, over TLS
    #[arg(long, env = "CONTEXT_MANAGER_WEBHOOK_ADDRESS", default_value = "0.0.0.0:10250")]
    pub address: SocketAddr,
    /// Address of probes and metrics
    #[arg(long, env = "CONTEXT_MANAGER_ADMIN_ADDRESS", default_value = "0.0.0.0:8081")]
    pub admin_address: SocketAddr,
    /// Image of the injected sidecar, for resources that name none
    #[arg(long, env = "CONTEXT_MANAGER_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// Whether a pod of an opted-in namespace is refused or admitted when no `ContextManager` can be chosen for it
    #[arg(long, env = "CONTEXT_MANAGER_ON_MISSING", value_enum, default_value = "skip")]
    pub on_missing: Missing,
    /// Class of the `ContextManager`s that are served: those whose spec.controllerClassName is the same
    #[arg(long, env = "CONTEXT_MANAGER_CONTROLLER_CLASS", default_value = names::DEFAULT_CLASS)]
    pub controller_class: String,
    /// Namespace whose pods are looked at, by rights in it alone; several separated by commas, all without it
    #[arg(long, env = "CONTEXT_MANAGER_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespace: Vec<String>,
    /// Namespace of this process; the CA's secret is kept there
    #[arg(long, env = "CONTEXT_MANAGER_NAMESPACE")]
    pub namespace: String,
    /// Name of the `Service` in front of the webhook
    #[arg(long, env = "CONTEXT_MANAGER_WEBHOOK_SERVICE", default_value = "context-manager-webhook")]
    pub service: String,
    /// Name of the `MutatingWebhookConfiguration`
    #[arg(long, env = "CONTEXT_MANAGER_WEBHOOK_CONFIGURATION", default_value = "context-manager")]
    pub webhook_configuration: String,
    /// Who makes the served certificate
    #[arg(long, env = "CONTEXT_MANAGER_CERTIFICATE_ISSUER", value_enum, default_value = "self-managed")]
    pub certificate_issuer: Issuer,
    /// Name of the secret with `tls.crt`, `tls.key` and `ca.crt` of the issuers `existing` and `cert-manager`
    #[arg(long, env = "CONTEXT_MANAGER_CERTIFICATE_SECRET", required_if_eq_any = [("certificate_issuer", "existing"), ("certificate_issuer", "cert-manager")])]
    pub certificate_secret: Option<String>,
    /// Name of the secret with the CA
    #[arg(long, env = "CONTEXT_MANAGER_CA_SECRET", default_value = pki::WEBHOOK_CA)]
    pub ca_secret: String,
    /// Further DNS names or addresses that the certificate is valid for
    #[arg(long, env = "CONTEXT_MANAGER_SERVER_NAMES", value_delimiter = ',')]
    pub server_name: Vec<String>,
    /// Lifetime of the CA
    #[arg(long, env = "CONTEXT_MANAGER_CA_LIFETIME", default_value = "365d", value_parser = positive)]
    pub ca_lifetime: Duration,
    /// How long before its end the CA gets a successor
    #[arg(long, env = "CONTEXT_MANAGER_CA_RENEW_BEFORE", default_value = "60d", value_parser = positive)]
    pub ca_renew_before: Duration,
    /// How long a new CA is published before it signs, or before a new certificate of another issuer is served
    #[arg(long, env = "CONTEXT_MANAGER_CA_GRACE", default_value = "3m", value_parser = positive)]
    pub ca_grace: Duration,
    /// Lifetime of the served certificate
    #[arg(long, env = "CONTEXT_MANAGER_LEAF_LIFETIME", default_value = "1d", value_parser = positive)]
    pub leaf_lifetime: Duration,
    /// Time between two looks at the clock and the cluster
    #[arg(long, env = "CONTEXT_MANAGER_PKI_POLL", default_value = "30s", value_parser = positive)]
    pub pki_poll: Duration,
    /// How long a connection is kept at most; it never outlives its certificate
    #[arg(long, env = "CONTEXT_MANAGER_CONNECTION_AGE", default_value = "5m", value_parser = positive)]
    pub connection_age: Duration,
    /// File in PEM with the CAs of the certificates that API servers show when they call; without it nobody is asked for one
    #[arg(long, env = "CONTEXT_MANAGER_API_SERVER_CA")]
    pub api_server_ca: Option<PathBuf>,
    /// How long requests in flight are given at the end
    #[arg(long, env = "CONTEXT_MANAGER_DRAIN", default_value = "10s", value_parser = positive)]
    pub drain: Duration,
    /// Name of this replica, shown in events
    #[arg(long, env = "POD_NAME", default_value = "context-manager-webhook")]
    pub instance: String,
}

/// [`OnMissing`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Missing {
    /// The pod is refused.
    Deny,
    /// The pod is admitted with a warning and an event.
    Skip,
}

/// Flags that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The CA would be renewed as soon as it is made.
    #[error("--ca-renew-before must be shorter than --ca-lifetime")]
    RenewBefore,
    /// Leaves would outlive the time in which their CA has a successor.
    #[error(
        "--leaf-lifetime and --ca-grace must be shorter together than --ca-renew-before, so that no leaf is cut short by the end of its CA"
    )]
    LeafLifetime,
    /// A leaf could end between two looks.
    #[error("--pki-poll must be at most a third of --leaf-lifetime, which is when a leaf is renewed before its end")]
    Poll,
    /// A replica could miss the overlap of what was given before and now.
    #[error("--pki-poll must be at most --ca-grace, which is how long what is new and what was before overlap")]
    Grace,
    /// The second listener would find the port taken.
    #[error("--address and --admin-address have the same port, {0}; give one of them another")]
    SamePort(u16),
}

impl TryFrom<Args> for Settings {
    type Error = Error;

    fn try_from(args: Args) -> Result<Self, Error> {
        let Args {
            address,
            admin_address,
            sidecar_image,
            on_missing,
            controller_class,
            watch_namespace,
            namespace,
            service,
            webhook_configuration,
            certificate_issuer,
            certificate_secret,
            ca_secret,
            server_name,
            ca_lifetime,
            ca_renew_before,
            ca_grace,
            leaf_lifetime,
            pki_poll,
            connection_age,
            api_server_ca,
            drain,
            instance,
        } = args;
        let (one, other) = (address.ip(), admin_address.ip());
        let meet = one == other || one.is_unspecified() || other.is_unspecified();
        if meet && address.port() == admin_address.port() && address.port() != 0 {
            return Err(Error::SamePort(address.port()));
        }
        match certificate_issuer {
            Issuer::SelfManaged if ca_renew_before >= ca_lifetime => return Err(Error::RenewBefore),
            Issuer::SelfManaged if leaf_lifetime.saturating_add(ca_grace) >= ca_renew_before => {
                return Err(Error::LeafLifetime);
            }
            Issuer::SelfManaged if pki_poll > leaf_lifetime / 3 => return Err(Error::Poll),
            Issuer::Existing | Issuer::CertManager if pki_poll > ca_grace => return Err(Error::Grace),
            Issuer::SelfManaged | Issuer::Existing | Issuer::CertManager => {}
        }
        // clap has seen to it that other issuers' has a name.
        let secret = match certificate_issuer {
            Issuer::SelfManaged => ca_secret,
            Issuer::Existing | Issuer::CertManager => certificate_secret.unwrap_or(ca_secret),
        };
        let mut server_names = pki::service_names(&service, &namespace);
        server_names.extend(server_name);
        let on_missing = match on_missing {
            Missing::Deny => OnMissing::Deny,
            Missing::Skip => OnMissing::Skip,
        };
        Ok(Self {
            address,
            admin_address,
            scope: Scope::of(watch_namespace),
            injection: inject::Settings { sidecar_image, on_missing, class: Some(controller_class) },
            pki: pki::Settings {
                namespace,
                issuer: certificate_issuer,
                secret,
                configuration: webhook_configuration,
                server_names,
                lifetimes: Lifetimes {
                    authority: ca_lifetime,
                    renew_before: ca_renew_before,
                    leaf: leaf_lifetime,
                    grace: ca_grace,
                },
                poll: pki_poll,
            },
            instance,
            times: Times { connection_age, drain },
            api_server_ca,
        })
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write a duration such as \"30s\", \"12h\" or \"90d\"")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn settings(more: &[&str]) -> Result<Settings, Error> {
        let least = ["webhook", "--sidecar-image", "sidecar:1", "--namespace", "system"];
        Settings::try_from(Command::try_parse_from(least.iter().chain(more)).unwrap().args)
    }

    #[test]
    fn the_certificate_is_valid_for_the_service_and_what_was_added() {
        let names = settings(&["--server-name", "10.0.0.1,hook.example"]).unwrap().pki.server_names;
        assert!(names.contains(&"context-manager-webhook.system.svc".to_owned()), "{names:?}");
        assert!(names.contains(&"10.0.0.1".to_owned()) && names.contains(&"hook.example".to_owned()), "{names:?}");
    }

    #[test]
    fn lifetimes_that_contradict_each_other_are_refused() {
        assert_eq!(settings(&["--ca-lifetime", "10d"]), Err(Error::RenewBefore));
        assert_eq!(settings(&["--leaf-lifetime", "61d"]), Err(Error::LeafLifetime));
        let short = ["--ca-lifetime", "30s", "--ca-renew-before", "10s", "--leaf-lifetime", "6s"];
        assert_eq!(settings(&short), Err(Error::LeafLifetime), "the grace comes before the leaf");
        let short = [&short[..], &["--ca-grace", "3s"]].concat();
        assert_eq!(settings(&short), Err(Error::Poll));
        let short = [&short[..], &["--pki-poll", "2s"]].concat();
        assert_eq!(settings(&short).unwrap().pki.lifetimes.authority, Duration::from_secs(30));
    }

    #[test]
    fn another_issuer_needs_a_secret_and_no_lifetimes() {
        let least = ["webhook", "--sidecar-image", "sidecar:1", "--namespace", "system"];
        for issuer in ["existing", "cert-manager"] {
            let without = Command::try_parse_from(least.iter().chain(&["--certificate-issuer", issuer]));
            assert!(without.is_err_and(|error| error.to_string().contains("--certificate-secret")), "{issuer}");
            let given = ["--certificate-issuer", issuer, "--certificate-secret", "mine", "--leaf-lifetime", "61d"];
            assert_eq!(settings(&given).unwrap().pki.secret, "mine");
            assert_eq!(settings(&[&given[..], &["--pki-poll", "4m"]].concat()), Err(Error::Grace));
        }
        assert_eq!(settings(&["--certificate-secret", "mine"]).unwrap().pki.secret, "context-manager-webhook-ca");
    }

    #[test]
    fn two_listeners_of_one_port_are_refused() {
        assert_eq!(settings(&["--address", "0.0.0.0:8081"]), Err(Error::SamePort(8_081)));
        let ports = |one, other| settings(&["--address", one, "--admin-address", other]);
        assert_eq!(ports("10.0.0.1:9443", "0.0.0.0:9443"), Err(Error::SamePort(9_443)));
        assert_eq!(ports("10.0.0.1:9443", "10.0.0.1:9443"), Err(Error::SamePort(9_443)));
        for (one, other) in [("10.0.0.1:9443", "127.0.0.1:9443"), ("127.0.0.1:0", "127.0.0.1:0")] {
            assert!(ports(one, other).is_ok(), "{one} {other}");
        }
    }

    #[test]
    fn a_duration_of_nothing_or_nonsense_is_refused() {
        for bad in ["0s", "soon", "-1s"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
    }
}
