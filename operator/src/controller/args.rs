//! The command line of the controller. Each flag can come from the environment too.

use std::{net::SocketAddr, time::Duration};

use clap::ArgAction;
use context_manager_protocol::names;

use super::{Settings, keys, store::sweep, watchdog};
use crate::{pki, scope::Scope};

/// Flags of `context-manager-operator controller`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address of probes and metrics
    #[arg(long, env = "CONTEXT_MANAGER_ADMIN_ADDRESS", default_value = "0.0.0.0:8081")]
    pub admin_address: SocketAddr,
    /// Namespace of this process; its lease and the CA of the sidecars' certificates are kept there
    #[arg(long, env = "CONTEXT_MANAGER_NAMESPACE")]
    pub namespace: String,
    /// Class of the `ContextManager`s that are reconciled: those whose spec.controllerClassName is the same
    #[arg(long, env = "CONTEXT_MANAGER_CONTROLLER_CLASS", default_value = names::DEFAULT_CLASS)]
    pub controller_class: String,
    /// Namespace whose `ContextManager`s are reconciled, by rights in it alone; several separated by commas, all without it
    #[arg(long, env = "CONTEXT_MANAGER_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespace: Vec<String>,
    /// Name of the `MutatingWebhookConfiguration` that injects sidecars
    #[arg(long, env = "CONTEXT_MANAGER_WEBHOOK_CONFIGURATION", default_value = "context-manager")]
    pub webhook_configuration: String,
    /// Image of the sidecar, for resources that name none: the webhook's. Without it, no pod counts as outdated
    #[arg(long, env = "CONTEXT_MANAGER_SIDECAR_IMAGE")]
    pub sidecar_image: Option<String>,
    /// Name of the lease by which one replica leads
    #[arg(long, env = "CONTEXT_MANAGER_LEASE", default_value = "context-manager-controller")]
    pub lease: String,
    /// How long a leader that vanished is waited for; at least 6s
    #[arg(long, env = "CONTEXT_MANAGER_LEASE_DURATION", default_value = "15s", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Name of the secret with the CA of the sidecars' certificates
    #[arg(long, env = "CONTEXT_MANAGER_CLIENT_CA_SECRET", default_value = pki::CLIENT_CA)]
    pub client_ca_secret: String,
    /// Whether there are rights to the Certificates of cert-manager: those of resources that have another issuer now are deleted
    #[arg(long, env = "CONTEXT_MANAGER_CERT_MANAGER")]
    pub cert_manager: bool,
    /// Whether there are the rights to run Qdrant clusters, for spec.vectorStore.managed
    #[arg(long, env = "CONTEXT_MANAGER_MANAGED_QDRANT", default_value_t = true, action = ArgAction::Set)]
    pub managed_qdrant: bool,
    /// Time between two looks at an object of which nothing was heard
    #[arg(long, env = "CONTEXT_MANAGER_RESYNC", default_value = "60s", value_parser = at_least_a_second)]
    pub resync: Duration,
    /// How long a rotation of a key waits for a sidecar that cannot be asked whether it has loaded the new one
    #[arg(long, env = "CONTEXT_MANAGER_ROTATION_PATIENCE", default_value = "5m", value_parser = at_least_a_second)]
    pub rotation_patience: Duration,
    /// Least time between publishing a key and signing with it; it must outlast the start of a pod's volumes
    #[arg(long, env = "CONTEXT_MANAGER_ROTATION_SETTLE", default_value = "10s", value_parser = at_least_a_second)]
    pub rotation_settle: Duration,
    /// What is done with pods that ask for a sidecar by their label and have none
    #[arg(long, env = "CONTEXT_MANAGER_WATCHDOG", default_value = "report")]
    pub watchdog: watchdog::Mode,
    /// What is done with expired contexts on Qdrant servers whose agents have no pod any more
    #[arg(long, env = "CONTEXT_MANAGER_SWEEP", default_value = "delete")]
    pub sweep: sweep::Mode,
    /// Time between two looks for them
    #[arg(long, env = "CONTEXT_MANAGER_SWEEP_INTERVAL", default_value = "10m", value_parser = at_least_a_second)]
    pub sweep_interval: Duration,
    /// How long they must be expired
    #[arg(long, env = "CONTEXT_MANAGER_SWEEP_GRACE", default_value = "1h", value_parser = at_least_a_second)]
    pub sweep_grace: Duration,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "context-manager-controller")]
    pub instance: String,
}

impl From<Args> for Settings {
    fn from(args: Args) -> Self {
        let Args {
            admin_address,
            namespace,
            controller_class,
            watch_namespace,
            webhook_configuration,
            sidecar_image,
            lease,
            lease_duration,
            client_ca_secret,
            cert_manager,
            managed_qdrant,
            resync,
            rotation_patience,
            rotation_settle,
            watchdog,
            sweep,
            sweep_interval,
            sweep_grace,
            instance,
        } = args;
        let authority = pki::client::Settings::new(namespace.clone(), client_ca_secret);
        let sweep = sweep::Settings { mode: sweep, interval: sweep_interval, grace: sweep_grace };
        Self {
            admin_address,
            namespace,
            class: controller_class,
            scope: Scope::of(watch_namespace),
            instance,
            webhook_configuration,
            sidecar_image,
            lease,
            lease_duration,
            authority,
            cert_manager,
            managed_qdrant,
            resync,
            keys: keys::Settings { settle: rotation_settle, patience: rotation_patience },
            watchdog,
            sweep,
        }
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    duration(text, super::lease::SHORTEST)
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1))
}

fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < least {
        return Err(format!("{text} is too short; use at least {}", humantime::format_duration(least)));
    }
    Ok(duration)
}
