//! Whether a pod gets a sidecar, and the JSON patch that gives it one.
//!
//! Owns the truth table of opting in, the choice of the `ContextManager`, the checks for clashes, and the injected
//! container, volumes and environment. All of it is pure: no clock, no randomness, no cluster. The webhook calls it for
//! each admission; whatever else has to know the decision (a watchdog, a command line) calls the same two functions:
//! [`decide`] and [`patch`].
//!
//! A pod is only ever looked at and changed as raw JSON: decoding it into a typed `Pod` and encoding it again would drop
//! the fields that this version of the types does not know.

use std::collections::BTreeMap;

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;
use serde_json::Value;

mod agent;
mod clash;
mod classic;
mod host_network;
mod opt_in;
mod options;
mod patch;
mod pod;
mod pod_level;
mod ports;
mod reason;
mod resource;
mod select;
mod sidecar;
#[cfg(test)]
mod tests;

pub use agent::{Owner, owner};
pub use patch::patch;
pub use ports::Ports;
pub use reason::Reason;
pub use resource::{ConfigMapKey, OnMissing, Resource, SecretKey, Storage};
pub use select::foreign;

pub(crate) use opt_in::MIRROR;

use opt_in::OptIn;
use options::Options;
use pod::Pod;

/// What is known of the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name; the sidecar's tenant.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What the operator's own configuration says about injection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The sidecar's image, for resources that name none.
    pub sidecar_image: String,
    /// What happens to a pod of an opted-in namespace for which no resource can be chosen.
    pub on_missing: OnMissing,
    /// The class of the resources that are served; all of them when absent.
    pub class: Option<String>,
}

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject(Box<Injection>),
    /// It is admitted as it is.
    Skip(Skip),
    /// It is refused.
    Deny(Denial),
}

impl Decision {
    /// The reason, as a stable name.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Inject(_) => Reason::Injected,
            Self::Skip(skip) => skip.reason,
            Self::Deny(denial) => denial.reason,
        }
    }
}

/// Why a pod is admitted without a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The reason, as a stable name.
    pub reason: Reason,
    /// What to tell whoever created the pod; absent when the pod got just what was asked for.
    pub warning: Option<String>,
}

/// Why a pod is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The reason, as a stable name.
    pub reason: Reason,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// All that a pod is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The `ContextManager` it uses.
    pub resource: String,
    /// The namespace of that, if it is another one than the pod's.
    pub from: Option<String>,
    /// Its agent's id.
    pub agent: String,
    /// How the sidecar is injected.
    pub mode: Mode,
    /// The sidecar container.
    pub sidecar: Value,
    /// The volumes, each with its name.
    pub volumes: Vec<Value>,
    /// Names of the containers that get access.
    pub containers: Vec<String>,
    /// Environment of those containers.
    pub env: Vec<(String, String)>,
    /// Volume mounts of those containers.
    pub mounts: Vec<Value>,
    /// The ports that the sidecar listens on; none in a pod that shares the node's network, where there are Unix sockets alone.
    pub ports: Option<Ports>,
    /// Hash of all of the above.
    pub hash: String,
    /// Hash of what any pod of the resource gets.
    pub template: String,
    /// What to tell whoever created the pod.
    pub warnings: Vec<String>,
}

impl Injection {
    /// What a person calls the `ContextManager` in the pod's namespace.
    #[must_use]
    pub fn resource_name(&self) -> String {
        self.from.as_ref().map_or_else(|| self.resource.clone(), |from| format!("{from}/{}", self.resource))
    }
}

/// Decides about a pod as it was submitted, or as it already runs: an injected pod gets the decision it got before.
///
/// `resources` are the `ContextManager`s of the pod's namespace, in any order, and those of other namespaces as far as they are known.
/// Of the latter none is taken that the pod does not name and that does not allow its namespace.
///
/// ```
/// use context_manager_operator::inject::{Decision, NamespaceFacts, OnMissing, Reason, Settings, decide};
///
/// let settings = Settings { sidecar_image: "sidecar:1".into(), on_missing: OnMissing::Skip, class: None };
/// let namespace = NamespaceFacts { name: "team-a".into(), ..NamespaceFacts::default() };
/// let pod = serde_json::json!({
///     "metadata": {"name": "agent", "annotations": {"contextmanager.dev/inject": "true"}},
///     "spec": {"containers": [{"name": "agent"}]},
/// });
/// let Decision::Deny(denial) = decide(&pod, &namespace, &[], &settings) else { unreachable!() };
/// assert_eq!(denial.reason, Reason::NoResource);
/// ```
#[must_use]
pub fn decide(pod: &Value, namespace: &NamespaceFacts, resources: &[Resource], settings: &Settings) -> Decision {
    let pod = Pod::new(pod);
    let origin = match opt_in::opt_in(pod, namespace) {
        OptIn::Asked(origin) => origin,
        OptIn::Not(skip) => return Decision::Skip(skip),
        OptIn::Invalid(denial) => return Decision::Deny(denial),
    };
    inject(pod, namespace, resources, settings, origin).unwrap_or_else(|refusal| refusal)
}

/// A hash of what any pod of the resource gets now: a pod that carries another one is outdated. What is the pod's own, such as its
/// annotations and its agent, does not count.
#[must_use]
pub fn template(resource: &Resource, default_image: &str) -> String {
    let nobody = Value::Null;
    // Every option of a pod without annotations is the resource's, so there is none that could be refused.
    let Ok(options) = Options::read(Pod::new(&nobody), resource) else { return String::new() };
    let Ok((ports, _)) = ports::choose(Pod::new(&nobody), &options) else { return String::new() };
    let template = String::new();
    let (containers, warnings) = (resource.containers.clone(), Vec::new());
    let input = sidecar::Input {
        tenant: "",
        agent: "",
        resource,
        options: &options,
        ports: Some(ports),
        user: None,
        default_image,
        containers,
        template,
        warnings,
    };
    sidecar::build(&input).hash
}

/// Who asked for the sidecar; it decides between refusing a pod and admitting it with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The pod itself.
    Pod,
    /// The pod's namespace, for all of its pods.
    Namespace,
}

fn inject(
    pod: Pod<'_>,
    namespace: &NamespaceFacts,
    resources: &[Resource],
    settings: &Settings,
    origin: Origin,
) -> Result<Decision, Decision> {
    let chosen = select::select(pod, namespace, resources, settings, origin);
    let is_other = |resource: &Resource| settings.class.as_ref().is_some_and(|class| *class != resource.class);
    // Whether there is a resource for it or not, such a pod is no agent that waits for one.
    if pod.is_for_windows() && !chosen.as_ref().is_ok_and(|resource| is_other(resource)) {
        return Err(unsuitable(origin, Reason::WindowsPod, windows_message()));
    }
    let resource = chosen?;
    // Only now: whichever operator looks, the choice among all resources is the same, so no pod gets two sidecars.
    if is_other(resource) {
        return Err(Decision::Skip(Skip { reason: Reason::OtherClass, warning: None }));
    }
    let copied = (resource.namespace != namespace.name).then(|| resource.granted());
    let resource = copied.as_ref().unwrap_or(resource);
    let options = pod_level::fit(pod, Options::read(pod, resource).map_err(Decision::Deny)?, origin)?;
    clash::check(pod).map_err(Decision::Deny)?;
    let (ports, notes) = if pod.host_network() {
        (None, host_network::warnings(pod, resource))
    } else {
        let (ports, moves) = ports::choose(pod, &options).map_err(Decision::Deny)?;
        (Some(ports), moves)
    };
    let containers = select::containers(pod, &options, resource, origin)?;
    let agent = options.agent.clone().unwrap_or_else(|| agent::default_id(pod));
    let mut warnings = options::warnings(pod);
    warnings.extend(classic::check(pod, &options, origin)?);
    warnings.extend(notes);
    if resource.socket && ports.is_some() && !pod.shares_a_group() {
        warnings.push(socket_message());
    }
    let injection = sidecar::build(&sidecar::Input {
        tenant: &namespace.name,
        agent: &agent,
        resource,
        options: &options,
        ports,
        user: sidecar::user(pod),
        default_image: &settings.sidecar_image,
        containers,
        template: template(resource, &settings.sidecar_image),
        warnings,
    });
    Ok(Decision::Inject(Box::new(injection)))
}

/// A pod that asked itself is refused, so that the mistake is seen; one that only lives in an opted-in namespace runs.
fn unsuitable(origin: Origin, reason: Reason, message: String) -> Decision {
    match origin {
        Origin::Pod => Decision::Deny(Denial { reason, message }),
        Origin::Namespace => Decision::Skip(Skip { reason, warning: Some(format!("no sidecar injected: {message}")) }),
    }
}

fn windows_message() -> String {
    format!("the pod is one for Windows, and there is no sidecar for that; set {}: \"false\" on it", names::INJECT)
}

fn socket_message() -> String {
    format!(
        "the pod has no securityContext.fsGroup, so containers of another user than the sidecar's cannot use the socket {}; set one, or \
         use the port",
        names::SOCKET_FILE
    )
}
