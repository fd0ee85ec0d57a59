//! An OpenAI-compatible embeddings API on loopback, whose models differ in what they make of a text, and that can be told to misbehave.
//!
//! The vectors are those of the built-in embedder, so that a search by meaning through it finds something.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use context_manager_memory::builtin;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Well,
    /// As it should, so much later.
    Slow(Duration),
    /// Never.
    Hangs,
    /// 429, with so many seconds in `Retry-After`.
    Throttles(u64),
    /// With this status.
    Fails(u16),
    /// With vectors that are one number short.
    ShortVectors,
    /// With one vector less than asked for.
    TooFew,
    /// With one vector more than asked for.
    TooMany,
    /// With the first position twice.
    Doubled,
    /// With positions that nobody asked for.
    Displaced,
    /// With something that is no JSON.
    Garbage,
    /// With 200 and a page for people.
    Page,
    /// With half of the body that it announced.
    CutOff,
    /// By closing the connection.
    HangsUp,
    /// Not at all: nobody listens.
    Refuses,
}

/// A running API; it ends with the runtime or when dropped.
///
/// A model is called `NAME-DIMENSIONS`. The vectors of a model whose name begins with `opposite` point the other way.
pub struct Embeddings {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    seen: Seen,
    _tasks: JoinSet<()>,
}

/// What came, and what is refused.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Texts that got vectors, by model.
    texts: BTreeMap<String, usize>,
    /// When requests came.
    arrivals: Vec<Instant>,
    /// Their headers.
    calls: Vec<HeaderMap>,
    /// Texts with this in them are refused.
    poison: Option<String>,
    /// Longer texts are refused.
    most_bytes: Option<usize>,
}

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Vec<String>,
}

impl Embeddings {
    /// Listens on a free port, and answers well.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, seen) = (listener.local_addr()?, Seen::default());
        let (behaviour, set) = watch::channel(Behaviour::Well);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, address, set, seen.clone()));
        Ok(Self { address, behaviour, seen, _tasks: tasks })
    }

    /// The beginning of the table `[embedding]` of a sidecar's configuration for this API and a model.
    #[must_use]
    pub fn config(&self, model: &str) -> String {
        let dimensions = dimensions(model).unwrap_or_default();
        let url = format!("http://{}/v1/embeddings", self.address);
        format!(
            "[embedding]\nprovider = \"open_ai\"\nurl = \"{url}\"\nmodel = \"{model}\"\ndimensions = {dimensions}\n"
        )
    }

    /// The whole table, for a sidecar that sends every text, and sends it once.
    #[must_use]
    pub fn config_once(&self, model: &str) -> String {
        let once = "timeout = \"2s\"\ncache = { capacity = \"0\" }\nretry = { max_attempts = 1 }\n";
        self.config(model) + once
    }

    /// Changes how requests from now on are answered.
    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Refuses texts that have this in them.
    pub fn refuse(&self, text: &str) {
        self.seen.inner().poison = Some(text.to_owned());
    }

    /// Refuses texts with more bytes, as a model with a small window does.
    pub fn takes(&self, bytes: usize) {
        self.seen.inner().most_bytes = Some(bytes);
    }

    /// How many texts of a model got vectors.
    #[must_use]
    pub fn texts(&self, model: &str) -> usize {
        self.seen.inner().texts.get(model).copied().unwrap_or_default()
    }

    /// The headers of requests, since the last time this was asked.
    #[must_use]
    pub fn take_calls(&self) -> Vec<HeaderMap> {
        std::mem::take(&mut self.seen.inner().calls)
    }

    /// When requests came, since the last time this was asked.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        std::mem::take(&mut self.seen.inner().arrivals)
    }
}

impl Seen {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dimensions(model: &str) -> Option<usize> {
    model.rsplit_once('-')?.1.parse().ok()
}

/// Takes connections, but for the times at which nobody listens.
async fn listen(first: TcpListener, address: SocketAddr, mut set: watch::Receiver<Behaviour>, seen: Seen) {
    let mut connections = JoinSet::new();
    let mut listener = Some(first);
    loop {
        let refuses = *set.borrow_and_update() == Behaviour::Refuses;
        if refuses {
            listener = None;
            if set.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        tokio::select! {
            changed = set.changed() => if changed.is_err() { return },
            accepted = open.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let (set, seen) = (set.clone(), seen.clone());
                // A caller that goes away in the middle is none of its concern.
                connections.spawn(async move { drop(answer(stream, set, seen).await) });
                while connections.try_join_next().is_some() {}
            }
        }
    }
}

/// One request on a connection of its own.
async fn answer(mut stream: TcpStream, set: watch::Receiver<Behaviour>, seen: Seen) -> Result<()> {
    let (headers, request) = read(&mut stream).await?;
    {
        let mut inner = seen.inner();
        inner.arrivals.push(Instant::now());
        inner.calls.push(headers);
    }
    let behaviour = *set.borrow();
    let (status, extra, body) = match behaviour {
        Behaviour::HangsUp | Behaviour::Refuses => return Ok(()),
        Behaviour::Hangs => std::future::pending().await,
        Behaviour::Throttles(seconds) => (429, format!("retry-after: {seconds}\r\n"), "{}".to_owned()),
        Behaviour::Fails(status) => (status, String::new(), "{\"error\": \"a word of the API\"}".to_owned()),
        Behaviour::Garbage => (200, String::new(), "{\"data\": [{\"embedding\": [0.1, NaN".to_owned()),
        Behaviour::Page => (200, String::new(), "<html><body>Sign in to the network</body></html>".to_owned()),
        Behaviour::Slow(delay) => {
            tokio::time::sleep(delay).await;
            vectors(&request, behaviour, &seen)
        }
        Behaviour::Well
        | Behaviour::ShortVectors
        | Behaviour::TooFew
        | Behaviour::TooMany
        | Behaviour::Doubled
        | Behaviour::Displaced
        | Behaviour::CutOff => vectors(&request, behaviour, &seen),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} answer\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{extra}\r\n"
    );
    let most = if behaviour == Behaviour::CutOff { length / 2 } else { length };
    stream.write_all(&[head.as_bytes(), &body.as_bytes()[..most]].concat()).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Status, further headers and body of an answer with vectors, as right as they are to be.
fn vectors(Request { model, input }: &Request, behaviour: Behaviour, seen: &Seen) -> (u16, String, String) {
    let refused = |status| (status, String::new(), "{}".to_owned());
    let Some(dimensions) = dimensions(model) else { return refused(404) };
    {
        let mut inner = seen.inner();
        let is_poison = |text: &String| inner.poison.as_ref().is_some_and(|poison| text.contains(poison.as_str()));
        let is_too_long = |text: &String| inner.most_bytes.is_some_and(|most| text.len() > most);
        if input.iter().any(|text| is_poison(text) || is_too_long(text)) {
            return refused(400);
        }
        *inner.texts.entry(model.clone()).or_default() += input.len();
    }
    let sign = if model.starts_with("opposite") { -1.0 } else { 1.0 };
    let vector = |text: &String| builtin::embed(text, dimensions).into_iter().map(|value| value * sign).collect();
    let mut items: Vec<(usize, Vec<f32>)> = input.iter().map(vector).enumerate().collect();
    match behaviour {
        Behaviour::ShortVectors => items.iter_mut().for_each(|(_, vector)| vector.truncate(dimensions - 1)),
        Behaviour::TooFew => drop(items.remove(0)),
        Behaviour::TooMany => items.push((items.len(), vec![0.5; dimensions])),
        Behaviour::Doubled => items.push((0, vec![0.5; dimensions])),
        Behaviour::Displaced => items.iter_mut().for_each(|(index, _)| *index += 1_000),
        Behaviour::Well
        | Behaviour::Slow(_)
        | Behaviour::Hangs
        | Behaviour::Throttles(_)
        | Behaviour::Fails(_)
        | Behaviour::Garbage
        | Behaviour::Page
        | Behaviour::CutOff
        | Behaviour::HangsUp
        | Behaviour::Refuses => {}
    }
    let data: Vec<Value> = items.iter().map(|(index, vector)| json!({"index": index, "embedding": vector})).collect();
    (200, String::new(), json!({"object": "list", "data": data}).to_string())
}

fn headers(head: &[u8]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in std::str::from_utf8(head)?.lines().skip(1) {
        let (name, value) = line.split_once(':').context("a header")?;
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value.trim())?);
    }
    Ok(headers)
}

async fn read(stream: &mut TcpStream) -> Result<(HeaderMap, Request)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let headers = headers(&bytes[..end])?;
            let length: usize = headers.get(header::CONTENT_LENGTH).context("a length")?.to_str()?.parse()?;
            if bytes.len() >= end + 4 + length {
                return Ok((headers, serde_json::from_slice(&bytes[end + 4..end + 4 + length])?));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("the caller went away");
        }
    }
}
