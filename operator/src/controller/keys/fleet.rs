//! What the running sidecars say of their keys: each is asked at its admin port, which shows ids and never keys.
//!
//! Pods are listed when a rotation waits for them, and at no other time. A pod that no node has yet mounts the ring when it starts, so
//! it is not waited for; one that has ended signs nothing any more.
//!
//! A look has a deadline as a whole, however many pods there are and whatever they do: other resources wait for the same places. Pods of
//! other namespaces, whose owners are not those of the resource, have a time of their own, so they take none from its own pods.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use context_manager_protocol::names;
use futures::{StreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Bytes};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Client;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    answers::{Known, Said},
    step::Question,
};
use crate::{
    controller::{
        context::Context,
        error::Error,
        exchange::{BROKEN, exchange},
        pages::each_pod,
        plan::Plan,
        status::listed,
    },
    pods,
};

/// Most pods that are asked at once.
const AT_ONCE: usize = 32;
/// Longest time of an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest time of all questions of a reconciliation to pods of the resource's own namespace.
const OWN: Duration = Duration::from_secs(5);
/// How much longer pods of other namespaces may take.
const GUESTS: Duration = Duration::from_secs(2);
/// Largest answer that is read, of which a line at a time is kept.
const LARGEST: usize = 1 << 20;
/// Longest line that may show a key.
const LONGEST_LINE: usize = 1_000;
/// The metric that shows a key.
const METRIC: &str = "context_manager_key_loaded{";

/// Pods that a rotation waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// How many pods were asked.
    pub(super) asked: usize,
    /// Those that answer and do not have what they should, or were not asked yet for want of time.
    pub(super) lagging: Vec<(String, &'static str)>,
    /// Those of other namespaces that do not. Whoever may make pods there must not hold the resource's key for ever.
    pub(super) guests: Vec<(String, &'static str)>,
    /// Those that cannot be asked, each with the reason.
    pub(super) silent: Vec<(String, &'static str)>,
    /// Those that can never be asked, because their sidecar listens on no port.
    pub(super) closed: Vec<String>,
}

/// A pod with a sidecar, and where it can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    pod: String,
    uid: String,
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

impl Waiting {
    /// Whether nobody is waited for.
    pub(super) const fn is_empty(&self) -> bool {
        self.answered() && self.closed.is_empty()
    }

    /// Whether every pod that can be asked has what it should.
    pub(super) const fn answered(&self) -> bool {
        self.lagging.is_empty() && self.guests.is_empty() && self.silent.is_empty()
    }

    /// How many pods are waited for.
    pub(super) const fn len(&self) -> usize {
        self.lagging.len() + self.guests.len() + self.silent.len() + self.closed.len()
    }

    /// Their names.
    pub(super) fn pods(&self) -> impl Iterator<Item = String> {
        self.named().map(|(pod, _)| pod.clone()).chain(self.closed.iter().cloned())
    }

    /// The names of those that are waited for up to a bound alone.
    pub(super) fn bounded(&self) -> Vec<String> {
        let named = self.silent.iter().chain(&self.guests).map(|(pod, _)| pod);
        named.chain(&self.closed).cloned().collect()
    }

    fn named(&self) -> impl Iterator<Item = &(String, &'static str)> {
        self.silent.iter().chain(&self.lagging).chain(&self.guests)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named().map(|(pod, why)| format!("{pod} ({why})"));
        let closed = self.closed.iter().map(|pod| format!("{pod} (listens on no port)"));
        let all: Vec<_> = named.chain(closed).collect();
        write!(formatter, "{} of {} pods: {}", self.len(), self.asked, listed(&all))
    }
}

/// Why a pod is waited for that answers.
const NOT_LOADED: &str = "has not loaded it";
/// Why one is that did not get its turn.
const NOT_ASKED: &str = "was not asked yet";

/// Until when a reconciliation may ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    own: Instant,
    guests: Instant,
}

impl Deadlines {
    /// From now on.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { own: now + OWN, guests: now + OWN + GUESTS }
    }
}

/// Asks every sidecar of the resource, as far as the time suffices.
pub(super) async fn ask(
    context: &Context,
    plan: &Plan,
    granted: &[String],
    question: &Question,
    deadlines: Deadlines,
) -> Result<Waiting, Error> {
    let own = places(&context.client, plan, None).await?;
    let mut guests = Vec::new();
    for namespace in granted {
        guests.extend(places(&context.client, plan, Some(namespace.as_str())).await?);
    }
    let mut known = context.answers.take(&plan.owner.uid, question);
    let here: BTreeSet<&str> = own.iter().chain(&guests).map(|place| place.uid.as_str()).collect();
    known.keep(|uid| here.contains(uid));
    ask_all(&own, &mut known, question, deadlines.own).await;
    ask_all(&guests, &mut known, question, deadlines.guests).await;
    let waiting = waiting(&own, &guests, &known);
    context.answers.put(&plan.owner.uid, known);
    Ok(waiting)
}

/// Asks those of whom it is not known that they have what they should, until the time is over.
async fn ask_all(places: &[Place], known: &mut Known, question: &Question, until: Instant) {
    let mut turns: Vec<_> = places.iter().filter_map(|place| Some((known.order(&place.uid)?, place.clone()))).collect();
    turns.sort_unstable_by_key(|(order, _)| *order);
    let answers = stream::iter(turns.into_iter().map(|(_, place)| look(place, question, until)));
    let mut answers = answers.buffer_unordered(AT_ONCE);
    while let Some((Place { uid, .. }, answer)) = answers.next().await {
        match answer {
            Some(Ok(true)) => known.note(uid, Said::Yes),
            Some(Ok(false)) => known.note(uid, Said::No),
            Some(Err(why)) => known.note(uid, Said::Nothing(why)),
            None => {}
        }
    }
}

/// Whether a sidecar has what it should; nothing if it cannot be asked, or the time is over.
async fn look(place: Place, question: &Question, until: Instant) -> (Place, Option<Result<bool, &'static str>>) {
    let left = until.saturating_duration_since(Instant::now());
    let said = match place.address {
        Address::Unknown(why) => Some(Err(why)),
        Address::Known(address) if !left.is_zero() => {
            Some(timeout(ANSWER.min(left), fetch(address, question)).await.unwrap_or(Err("does not answer in time")))
        }
        Address::Known(_) | Address::Closed => None,
    };
    (place, said)
}

/// Who is waited for by what is known.
fn waiting(own: &[Place], guests: &[Place], known: &Known) -> Waiting {
    let mut waiting = Waiting { asked: own.len() + guests.len(), ..Waiting::default() };
    let own = own.iter().map(|place| (place, false));
    for (Place { pod, uid, address }, is_guest) in own.chain(guests.iter().map(|place| (place, true))) {
        let pod = pod.clone();
        match (address, known.of(uid)) {
            (Address::Closed, _) => waiting.closed.push(pod),
            (_, Some(Said::Yes)) => {}
            (_, Some(Said::Nothing(why))) => waiting.silent.push((pod, why)),
            (_, Some(Said::No)) if is_guest => waiting.guests.push((pod, NOT_LOADED)),
            (_, Some(Said::No)) => waiting.lagging.push((pod, NOT_LOADED)),
            (_, None) if is_guest => waiting.silent.push((pod, NOT_ASKED)),
            (_, None) => waiting.lagging.push((pod, NOT_ASKED)),
        }
    }
    waiting.lagging.sort_unstable();
    waiting.guests.sort_unstable();
    waiting.silent.sort_unstable();
    waiting.closed.sort_unstable();
    waiting
}

/// The pods of the resource's own namespace, or of another one that it allows.
async fn places(client: &Client, plan: &Plan, granted: Option<&str>) -> Result<Vec<Place>, Error> {
    let from = granted.map(|_| plan.namespace.as_str());
    let (namespace, labels) = (granted.unwrap_or(&plan.namespace), pods::selector(&plan.name, from));
    let mut places = Vec::new();
    // A pod that is missing here would not be waited for.
    each_pod(client, namespace, &labels, |pod| places.extend(place(pod))).await?;
    Ok(places)
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
    Some(Place { pod: pods::title(pod), uid: pod.metadata.uid.clone().unwrap_or_default(), address })
}

fn admin_port(sidecar: &Container) -> u16 {
    let ports = sidecar.ports.iter().flatten();
    let named = ports.into_iter().find(|port| port.name.as_deref() == Some(names::ADMIN_PORT_NAME));
    named.and_then(|port| port.container_port.try_into().ok()).unwrap_or(names::DEFAULT_ADMIN_PORT)
}

async fn fetch(address: SocketAddr, question: &Question) -> Result<bool, &'static str> {
    let stream = TcpStream::connect(address).await.map_err(|_| "cannot be reached")?;
    let request = Request::get("/metrics").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|_| "cannot be asked")?;
    exchange(
        stream,
        request,
        || BROKEN,
        |answer| async move {
            if !answer.status().is_success() {
                return Err("answers with an error");
            }
            shows(Limited::new(answer.into_body(), LARGEST), question).await
        },
    )
    .await
}

/// Whether a page of metrics shows the key that is asked for. No more of the page is kept than a line: pods can be made to answer anything.
async fn shows<B: Body<Data = Bytes>>(page: B, question: &Question) -> Result<bool, &'static str> {
    let mut page = pin!(page);
    let mut line = Vec::<u8>::new();
    while let Some(frame) = page.frame().await {
        let Ok(data) = frame.map_err(|_| "breaks its answer off")?.into_data() else { continue };
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(line.len());
            line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                if is_answer(&line, question) {
                    return Ok(true);
                }
                line.clear();
            }
        }
    }
    Ok(is_answer(&line, question))
}

/// Whether a line shows the key that is asked for.
fn is_answer(line: &[u8], question: &Question) -> bool {
    let line = String::from_utf8_lossy(line);
    let Some((labels, _)) = line.strip_prefix(METRIC).and_then(|rest| rest.split_once('}')) else { return false };
    let label = |name: &str| labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_suffix('"'));
    let shown = label("key_id=\"");
    match question {
        Question::Verifies(id) => shown == Some(id.as_str()),
        Question::Signs(id) => shown == Some(id.as_str()) && label("role=\"") == Some("active"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
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

    #[tokio::test]
    async fn keys_are_read_from_metrics() {
        let page = "# TYPE context_manager_key_loaded gauge\ncontext_manager_key_loaded{key_id=\"b\",role=\"active\"} 1\n\
                    context_manager_key_loaded{key_id=\"c\",role=\"next\"} 1\nother{key_id=\"x\",role=\"active\"} 1\n";
        let signs = |id: &str| Question::Signs(id.to_owned());
        let verifies = |id: &str| Question::Verifies(id.to_owned());
        for (question, expected) in [
            (signs("b"), true),
            (verifies("b"), true),
            (verifies("c"), true),
            (signs("c"), false),
            (verifies("x"), false),
            (signs("x"), false),
        ] {
            // However it is cut on its way, with and without the end of its last line.
            for page in [page, page.trim_end()] {
                for size in [1, 7, page.len()] {
                    let pieces = page.as_bytes().chunks(size).map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
                    let page = StreamBody::new(stream::iter(pieces.collect::<Vec<Result<_, Infallible>>>()));
                    assert_eq!(shows(page, &question).await, Ok(expected), "{question:?} in pieces of {size}");
                }
            }
        }
    }

    #[tokio::test]
    async fn of_a_page_that_is_one_line_no_more_is_kept_than_a_line_may_have() {
        let question = Question::Verifies("b".to_owned());
        let more = "x".repeat(LONGEST_LINE);
        let long = format!("{METRIC}key_id=\"b\",more=\"{more}\"}} 1\n");
        let next = format!("{long}{METRIC}key_id=\"b\"}} 1");
        for (page, expected) in [(long, false), (next, true)] {
            assert_eq!(shows(Full::new(Bytes::from(page)), &question).await, Ok(expected));
        }
    }

    #[test]
    fn who_is_waited_for_is_named_up_to_a_number() {
        let silent = vec![("a".to_owned(), "cannot be reached")];
        let lagging = ('b'..='h').map(|pod| (pod.to_string(), NOT_LOADED)).collect();
        let waiting = Waiting { asked: 9, lagging, silent, ..Waiting::default() };
        let said = waiting.to_string();
        assert!(said.starts_with("8 of 9 pods: a (cannot be reached), b (has not loaded it)"), "{said}");
        assert!(said.ends_with("and 3 more"), "{said}");
    }

    fn at(pod: usize, address: SocketAddr) -> Place {
        Place { pod: format!("pod-{pod:04}"), uid: format!("uid-{pod}"), address: Address::Known(address) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_many_pods_ends_in_time_and_all_of_them_get_their_turn() {
        // It takes connections and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let places: Vec<_> = (0..300).map(|pod| at(pod, mute.local_addr().unwrap())).collect();
        let question = Question::Verifies("b".to_owned());
        let mut known = Known::nothing(&question);
        let mut unasked = Vec::new();
        for _ in 0..6 {
            let began = Instant::now();
            ask_all(&places, &mut known, &question, began + OWN).await;
            assert!(began.elapsed() <= OWN + Duration::from_millis(100), "{:?}", began.elapsed());
            let found = waiting(&places, &[], &known);
            assert_eq!(found.len(), 300);
            unasked.push(found.lagging.len());
        }
        assert!(unasked[0] > 100 && unasked.is_sorted_by(|one, next| one >= next), "{unasked:?}");
        assert_eq!(unasked.last(), Some(&0), "who was not asked comes first: {unasked:?}");
    }

    #[tokio::test]
    async fn pods_that_have_it_are_not_asked_again_and_guests_do_not_hold_the_key() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut asked = 0;
            while let Ok(Ok((mut stream, _))) = timeout(Duration::from_secs(1), listener.accept()).await {
                asked += 1;
                let _ = stream.read(&mut [0; 1024]).await;
                let page = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ncontext_manager_key_loaded{key_id=\"b\",role=\"active\"} 1\n";
                let _ = stream.write_all(page.as_bytes()).await;
            }
            asked
        });
        let (own, guests) = ([at(0, address), at(1, address)], [at(2, address)]);
        let mut found = Vec::new();
        for id in ["b", "c"] {
            let question = Question::Verifies(id.to_owned());
            let mut known = Known::nothing(&question);
            for _ in 0..2 {
                for places in [&own[..], &guests] {
                    ask_all(places, &mut known, &question, Instant::now() + OWN).await;
                }
            }
            found.push(waiting(&own, &guests, &known));
        }
        assert!(found[0].is_empty(), "{:?}", found[0]);
        let (lagging, guests) = (found[1].lagging.len(), found[1].bounded());
        assert_eq!((lagging, guests), (2, vec!["pod-0002".to_owned()]));
        assert_eq!(answering.await.unwrap(), 3 + 6, "who said yes is asked once");
        let unasked = waiting(&own, &[at(3, address)], &Known::nothing(&Question::Signs("b".to_owned())));
        assert_eq!((unasked.lagging.len(), unasked.silent.len()), (2, 1));
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
            fetch(address, &Question::Signs("b".to_owned())).await
        };
        let good =
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ncontext_manager_key_loaded{key_id=\"b\",role=\"active\"} 1\n";
        assert_eq!(answer(good).await, Ok(true));
        assert_eq!(answer("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await, Ok(false));
        assert_eq!(answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await, Err("answers with an error"));
        assert_eq!(answer("").await, Err("breaks the connection off"));
        let nobody = "127.0.0.1:1".parse().unwrap();
        assert_eq!(fetch(nobody, &Question::Signs("b".to_owned())).await, Err("cannot be reached"));
    }
}
