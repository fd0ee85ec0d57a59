//! What the running sidecars say of their keys: each is asked at its admin port, which shows ids and never keys.
//!
//! Pods are listed when a rotation waits for them, and at no other time. A pod that no node has yet mounts the ring when it starts, so
//! it is not waited for; one that has ended signs nothing any more.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use context_manager_protocol::names;
use futures::{StreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{Api, Client, api::ListParams};
use tokio::{net::TcpStream, time::timeout};

use super::step::Question;
use crate::{
    controller::{
        error::{Error, call},
        exchange::{BROKEN, exchange},
        plan::Plan,
        status::listed,
    },
    pods,
};

/// Most pods that are asked at once.
const AT_ONCE: usize = 16;
/// Longest time of an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Largest answer that is read.
const LARGEST: usize = 4 << 20;
/// Pods of one page.
const PAGE: u32 = 500;
/// The metric that shows a key.
const METRIC: &str = "context_manager_key_loaded{";

/// Pods that a rotation waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// How many pods were asked.
    pub(super) asked: usize,
    /// Those that answer and do not have what they should.
    pub(super) lagging: Vec<String>,
    /// Those that cannot be asked, each with the reason.
    pub(super) silent: Vec<(String, &'static str)>,
    /// Those that can never be asked, because their sidecar listens on no port.
    pub(super) closed: Vec<String>,
}

/// A pod with a sidecar, and where it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    pod: String,
    address: Address,
}

/// Where a sidecar listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    Known(SocketAddr),
    /// It is not known, and why.
    Unknown(&'static str),
    /// On no port at all.
    Closed,
}

/// The ids that a sidecar shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    active: Option<String>,
    all: BTreeSet<String>,
}

impl Waiting {
    /// Whether nobody is waited for.
    pub(super) const fn is_empty(&self) -> bool {
        self.answered() && self.closed.is_empty()
    }

    /// Whether every pod that can be asked has what it should.
    pub(super) const fn answered(&self) -> bool {
        self.lagging.is_empty() && self.silent.is_empty()
    }

    /// How many pods are waited for.
    pub(super) const fn len(&self) -> usize {
        self.lagging.len() + self.silent.len() + self.closed.len()
    }

    /// Their names.
    pub(super) fn pods(&self) -> impl Iterator<Item = String> {
        self.lagging.iter().chain(self.silent.iter().map(|(pod, _)| pod)).chain(&self.closed).cloned()
    }

    /// The names of those that cannot be asked.
    pub(super) fn silent_pods(&self) -> Vec<String> {
        self.silent.iter().map(|(pod, _)| pod).chain(&self.closed).cloned().collect()
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lagging = self.lagging.iter().map(|pod| format!("{pod} (has not loaded it)"));
        let silent = self.silent.iter().map(|(pod, why)| format!("{pod} ({why})"));
        let closed = self.closed.iter().map(|pod| format!("{pod} (listens on no port)"));
        let all: Vec<_> = silent.chain(lagging).chain(closed).collect();
        write!(formatter, "{} of {} pods: {}", self.len(), self.asked, listed(&all))
    }
}

/// Asks every sidecar of the resource.
pub(super) async fn ask(
    client: &Client,
    plan: &Plan,
    granted: &[String],
    question: &Question,
) -> Result<Waiting, Error> {
    let mut places = places(client, plan, None).await?;
    for namespace in granted {
        places.extend(self::places(client, plan, Some(namespace.as_str())).await?);
    }
    let mut waiting = Waiting { asked: places.len(), ..Waiting::default() };
    let answers = stream::iter(places.into_iter().map(async |Place { pod, address }| {
        let answer = match address {
            Address::Known(address) => {
                Some(timeout(ANSWER, fetch(address)).await.unwrap_or(Err("does not answer in time")))
            }
            Address::Unknown(why) => Some(Err(why)),
            Address::Closed => None,
        };
        (pod, answer)
    }));
    let mut answers = answers.buffer_unordered(AT_ONCE);
    while let Some((pod, answer)) = answers.next().await {
        match answer {
            Some(Ok(shown)) if shown.answers(question) => {}
            Some(Ok(_)) => waiting.lagging.push(pod),
            Some(Err(why)) => waiting.silent.push((pod, why)),
            None => waiting.closed.push(pod),
        }
    }
    waiting.lagging.sort_unstable();
    waiting.silent.sort_unstable();
    waiting.closed.sort_unstable();
    Ok(waiting)
}

/// The pods of the resource's own namespace, or of another one that it allows.
async fn places(client: &Client, plan: &Plan, granted: Option<&str>) -> Result<Vec<Place>, Error> {
    let api = Api::<Pod>::namespaced(client.clone(), granted.unwrap_or(&plan.namespace));
    let from = granted.map(|_| plan.namespace.as_str());
    let mut params = ListParams::default().labels(&pods::selector(&plan.name, from)).limit(PAGE);
    let mut places = Vec::new();
    loop {
        // The newest state, and not what a cache has: a pod that is missing here would not be waited for.
        let page = call("list the pods with a sidecar", api.list(&params)).await?;
        places.extend(page.items.iter().filter_map(place));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(places),
        }
    }
}

/// Where a pod's sidecar can be asked, if it has one that may have read a key ring.
fn place(pod: &Pod) -> Option<Place> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    if pods::has_ended(pod) {
        return None;
    }
    let sidecar = pods::sidecar(pod)?;
    let address = status.and_then(|status| status.pod_ip.as_deref()).filter(|address| !address.is_empty());
    let address = match (address, &spec.node_name) {
        (None, None) => return None,
        // At the node's address somebody else may answer.
        _ if pods::is_closed(pod) => Address::Closed,
        (Some(address), _) => match address.parse::<IpAddr>() {
            Ok(address) => Address::Known(SocketAddr::new(address, admin_port(sidecar))),
            Err(_) => Address::Unknown("has an address that is none"),
        },
        (None, Some(_)) => Address::Unknown("has no address yet"),
    };
    Some(Place { pod: pods::title(pod), address })
}

fn admin_port(sidecar: &Container) -> u16 {
    let ports = sidecar.ports.iter().flatten();
    let named = ports.into_iter().find(|port| port.name.as_deref() == Some(names::ADMIN_PORT_NAME));
    named.and_then(|port| port.container_port.try_into().ok()).unwrap_or(names::DEFAULT_ADMIN_PORT)
}

async fn fetch(address: SocketAddr) -> Result<Shown, &'static str> {
    let stream = TcpStream::connect(address).await.map_err(|_| "cannot be reached")?;
    let request = Request::get("/metrics").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|_| "cannot be asked")?;
    exchange(
        stream,
        request,
        || BROKEN,
        |answer| async {
            if !answer.status().is_success() {
                return Err("answers with an error");
            }
            let body =
                Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|_| "breaks its answer off")?;
            Ok(shown(&String::from_utf8_lossy(&body.to_bytes())))
        },
    )
    .await
}

/// The keys of a page of metrics.
fn shown(page: &str) -> Shown {
    let mut shown = Shown::default();
    for labels in page.lines().filter_map(|line| line.strip_prefix(METRIC)?.split_once('}').map(|(labels, _)| labels)) {
        let label = |name: &str| labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_suffix('"'));
        let Some(id) = label("key_id=\"") else { continue };
        if label("role=\"") == Some("active") {
            shown.active = Some(id.to_owned());
        }
        shown.all.insert(id.to_owned());
    }
    shown
}

impl Shown {
    fn answers(&self, question: &Question) -> bool {
        match question {
            Question::Verifies(id) => self.all.contains(id),
            Question::Signs(id) => self.active.as_ref() == Some(id),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn pod(spec: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec, "status": status})).unwrap()
    }

    fn spec(node: Option<&str>) -> Value {
        json!({"nodeName": node, "containers": [{"name": "agent"}], "initContainers": [
            {"name": names::CONTAINER, "ports": [{"name": names::ADMIN_PORT_NAME, "containerPort": 9001}]}]})
    }

    #[test]
    fn pods_are_asked_that_may_have_read_a_key_ring() {
        let running = place(&pod(&spec(Some("n")), &json!({"phase": "Running", "podIP": "fd00::7"}))).unwrap();
        assert_eq!(running.address, Address::Known("[fd00::7]:9001".parse().unwrap()));
        let mut classic = spec(Some("n"));
        classic["containers"] = classic["initContainers"].take();
        assert_eq!(place(&pod(&classic, &json!({"podIP": "fd00::7"}))).unwrap().address, running.address);
        let starting = place(&pod(&spec(Some("n")), &json!({"phase": "Pending"}))).unwrap();
        assert_eq!(starting.address, Address::Unknown("has no address yet"));
        let mut closed = spec(Some("n"));
        closed["initContainers"][0]["env"] = json!([{"name": names::ENV_SOCKET_ONLY, "value": "true"}]);
        assert_eq!(place(&pod(&closed, &json!({"podIP": "10.0.0.1"}))).unwrap().address, Address::Closed);
        for (spec, status) in [
            (spec(None), json!({"phase": "Pending"})),
            (spec(Some("n")), json!({"phase": "Succeeded", "podIP": "10.0.0.1"})),
            (json!({"nodeName": "n", "containers": [{"name": "agent"}]}), json!({"podIP": "10.0.0.1"})),
        ] {
            assert_eq!(place(&pod(&spec, &status)), None);
        }
    }

    #[test]
    fn keys_are_read_from_metrics() {
        let page = "# TYPE context_manager_key_loaded gauge\ncontext_manager_key_loaded{key_id=\"b\",role=\"active\"} 1\n\
                    context_manager_key_loaded{key_id=\"c\",role=\"next\"} 1\nother{key_id=\"x\",role=\"active\"} 1\n";
        let shown = shown(page);
        assert!(shown.answers(&Question::Signs("b".to_owned())) && shown.answers(&Question::Verifies("c".to_owned())));
        assert!(
            !shown.answers(&Question::Signs("c".to_owned())) && !shown.answers(&Question::Verifies("x".to_owned()))
        );
    }

    #[test]
    fn who_is_waited_for_is_named_up_to_a_number() {
        let silent = vec![("a".to_owned(), "cannot be reached")];
        let waiting =
            Waiting { asked: 9, lagging: ('b'..='h').map(String::from).collect(), silent, ..Waiting::default() };
        let said = waiting.to_string();
        assert!(said.starts_with("8 of 9 pods: a (cannot be reached), b (has not loaded it)"), "{said}");
        assert!(said.ends_with("and 3 more"), "{said}");
    }

    #[tokio::test]
    async fn an_answer_is_read_and_anything_else_has_a_reason() {
        let answer = |text: &'static str| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(text.as_bytes()).await;
            });
            fetch(address).await
        };
        let good =
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ncontext_manager_key_loaded{key_id=\"b\",role=\"active\"} 1\n";
        assert_eq!(answer(good).await.unwrap().active.as_deref(), Some("b"));
        assert_eq!(answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await, Err("answers with an error"));
        assert_eq!(answer("").await, Err("breaks the connection off"));
        assert_eq!(fetch("127.0.0.1:1".parse().unwrap()).await, Err("cannot be reached"));
    }
}
