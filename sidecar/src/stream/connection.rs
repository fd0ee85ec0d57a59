//! The life of one stream, from the end of its handshake to its close.
//!
//! One task reads and writes; requests run in tasks of their own, at most [`CONCURRENT`] at once. While that many run, nothing
//! is read, and while an answer is not taken, nothing is read either: there is no queue that could grow. Answers that are not sent yet keep
//! the room and the places of their requests, as those of other connections do.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Bytes;
use context_manager_protocol::{
    codec::Format,
    keyring::KeyRing,
    stream::{AnswerFrame, AnswerKind, CorrelationId, Heartbeat},
};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info};

use super::{
    Opening,
    ending::Ending,
    metered::Metered,
    translate::{self, Asked, Received},
};
use crate::{
    identity::Verified,
    layers::{admission::Holding, body_limit::Room, measure::outcome},
    logging::AUDIT,
    metrics::{Frame, Label as _, RequestOutcome, Streams},
};

/// Most requests at once on one stream.
const CONCURRENT: usize = 32;
/// Heartbeats after which an agent that is not heard of is given up.
const PATIENCE: u32 = 3;
/// What an envelope may have beside its message.
const ENVELOPE_BYTES: u64 = 4 << 10;
/// Buffers for reading and writing; larger frames make them grow.
const BUFFER_BYTES: usize = 8 << 10;
/// Longest time for the agent to answer the closing, and most bytes that it still sends meanwhile.
const CLOSING: Duration = Duration::from_millis(500);

/// One stream.
pub(super) struct Connection {
    socket: WebSocketStream<Metered<TokioIo<Upgraded>>>,
    opening: Opening,
    verified: Verified,
    keys: Arc<KeyRing>,
    /// That of the last frame, in which the sidecar speaks when it speaks first.
    format: Format,
    requests: JoinSet<Answer>,
    heard: Instant,
    heartbeats: u64,
}

impl Connection {
    /// A stream whose handshake is done.
    pub(super) async fn new(opening: Opening, verified: Verified, format: Format, upgraded: Upgraded) -> Self {
        let largest = opening.shared.live.config().protocol.max_message_size.bytes() + ENVELOPE_BYTES;
        let largest = Some(usize::try_from(largest).unwrap_or(usize::MAX));
        let limits = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_message_size(largest)
            .max_frame_size(largest);
        let keys = opening.shared.live.keys();
        let (live, bytes) = (Arc::clone(&opening.shared.live), opening.shared.bytes_in_flight.clone());
        let metered = Metered::new(TokioIo::new(upgraded), live, bytes);
        Self {
            socket: WebSocketStream::from_raw_socket(metered, Role::Server, Some(limits)).await,
            opening,
            verified,
            keys,
            format,
            requests: JoinSet::new(),
            heard: Instant::now(),
            heartbeats: 0,
        }
    }

    /// Serves frames until the stream ends, whatever ends it.
    pub(super) async fn run(mut self, stop: &CancellationToken) {
        let Err(ending) = self.serve(stop).await;
        self.opening.shared.metrics.streams.ended.add(ending.label(), 1);
        if let Ending::KeyRetired(id) = &ending {
            info!(
                target: AUDIT,
                decision = "closed",
                reason = ending.label().as_str(),
                key.id = id,
                request.id = self.verified.request_id(),
                "Closed a stream"
            );
        }
        debug!(reason = ending.label().as_str(), request.id = self.verified.request_id(), "A stream ends");
        self.close(ending).await;
    }

    async fn serve(&mut self, stop: &CancellationToken) -> Result<Infallible, Ending> {
        let mut keys = self.opening.shared.live.watch_keys();
        self.check_key()?;
        let mut next_heartbeat = Instant::now() + self.interval();
        loop {
            let has_room = self.requests.len() < CONCURRENT;
            tokio::select! {
                // In this order: where a send took long, the next heartbeat is due, and what has come meanwhile is read before anybody is
                // given up as silent.
                biased;
                () = stop.cancelled() => return Err(Ending::Shutdown),
                Ok(()) = keys.changed() => self.check_key()?,
                Some(answer) = self.requests.join_next() => {
                    if let Ok(Answer { message, holding: _held }) = answer {
                        self.send(message).await?;
                    }
                }
                read = self.socket.next(), if has_room => {
                    self.heard = Instant::now();
                    match read {
                        Some(Ok(message)) => self.take(message).await?,
                        Some(Err(error)) => return Err(Ending::of(&error)),
                        None => return Err(Ending::Closed),
                    }
                }
                () = sleep_until(next_heartbeat) => {
                    next_heartbeat = Instant::now() + self.interval();
                    // While nothing is read, nothing can be heard.
                    if has_room && self.heard.elapsed() > PATIENCE * self.interval() {
                        return Err(Ending::Silent);
                    }
                    self.send(Message::Ping(Bytes::new())).await?;
                    self.beat(None).await?;
                }
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Ending> {
        let (format, bytes) = match message {
            Message::Text(text) => (Format::Json, Bytes::from(text)),
            Message::Binary(bytes) => (Format::MessagePack, bytes),
            Message::Close(_) => return Err(Ending::Closed),
            // A ping is answered by the library; a pong has done its work by being heard.
            Message::Ping(content) | Message::Pong(content) => {
                self.socket.get_mut().control(content.len());
                return Ok(());
            }
            Message::Frame(_) => return Ok(()),
        };
        self.format = format;
        let room = self.socket.get_mut().message(bytes.len());
        match translate::read(format, &bytes) {
            Received::Heartbeat(id) => {
                let frames = &self.opening.shared.metrics.streams.frames;
                frames.inc(Frame::Heartbeat, RequestOutcome::Ok);
                match id {
                    Some(id) => self.beat(Some(id)).await,
                    None => Ok(()),
                }
            }
            Received::Asked(mut asked) => {
                let counted = Counted::new(&self.opening.shared.metrics.streams, asked.frame);
                let room = room.map_err(|full| asked.request = Err(full.into())).ok().map(Room::from);
                let answer = answer(self.opening.clone(), self.verified.clone(), format, (*asked, room), counted);
                self.requests.spawn(answer);
                Ok(())
            }
        }
    }

    /// Sends a heartbeat; with an id it answers one of the agent's.
    async fn beat(&mut self, id: Option<CorrelationId>) -> Result<(), Ending> {
        self.heartbeats += 1;
        let uptime_seconds = self.opening.shared.metrics.uptime().as_secs();
        let heartbeat = Heartbeat { sequence: self.heartbeats, uptime_seconds };
        let frame = AnswerFrame::new(id, AnswerKind::Heartbeat).encode(self.format, &self.format.encode(&heartbeat));
        self.send(translate::message(self.format, frame)).await
    }

    /// Sends one message. An agent that does not take it for as long as it may be silent is given up.
    async fn send(&mut self, message: Message) -> Result<(), Ending> {
        match timeout(PATIENCE * self.interval(), self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::Broken),
            Err(_) => Err(Ending::Silent),
        }
    }

    fn interval(&self) -> Duration {
        self.opening.shared.live.config().protocol.heartbeat_interval.get()
    }

    /// Ends when the key that opened the stream is not accepted any more, or its id now names another key.
    fn check_key(&self) -> Result<(), Ending> {
        let id = self.verified.key_id();
        let now = self.opening.shared.live.keys();
        match (self.keys.find(id), now.find(id)) {
            (Some(then), Some(now)) if then.material() == now.material() => Ok(()),
            _ => Err(Ending::KeyRetired(id.to_owned())),
        }
    }

    /// Answers what is in flight, says why the stream ends, and lets the agent read it.
    async fn close(mut self, ending: Ending) {
        while ending.answers()
            && let Some(answer) = self.requests.join_next().await
        {
            if let Ok(Answer { message, holding: _held }) = answer
                && self.send(message).await.is_err()
            {
                return;
            }
        }
        self.requests.abort_all();
        let said = async {
            match ending.frame() {
                Some(frame) => self.socket.send(Message::Close(Some(frame))).await.ok()?,
                None => self.socket.close(None).await.ok()?,
            }
            // A connection that is closed while its other end sends is reset, and the reason is never read.
            let connection = self.socket.get_mut().connection();
            connection.shutdown().await.ok()?;
            let mut unread = [0; 4_096];
            while connection.read(&mut unread).await.ok()? > 0 {}
            Some(())
        };
        let _ = timeout(CLOSING, said).await;
    }
}

/// An answer that is to be sent, with what it holds until it is.
struct Answer {
    message: Message,
    holding: Option<Holding>,
}

/// Sends the request that a frame stands for through the routes, and makes a frame of the answer. The frame has its room at least until
/// then.
async fn answer(
    opening: Opening,
    verified: Verified,
    format: Format,
    (asked, room): (Asked, Option<Room>),
    mut counted: Counted,
) -> Answer {
    let Asked { id, frame: _, answer, request } = asked;
    let Opening { operations, unreadable, .. } = opening;
    let (router, mut request) = match request {
        Ok(request) => (operations, request),
        Err(refusal) => {
            let mut request = translate::empty(format);
            request.extensions_mut().insert(refusal);
            (unreadable, request)
        }
    };
    request.extensions_mut().insert(verified);
    if let Some(room) = room.clone() {
        request.extensions_mut().insert(room);
    }
    let Ok(mut response) = router.oneshot(request).await;
    counted.outcome = outcome(response.status());
    let holding = response.extensions_mut().remove();
    Answer { message: translate::answer(format, id, answer, response).await, holding }
}

/// A frame that is worked on; counted when it is dropped, however it ended.
struct Counted {
    streams: Streams,
    frame: Frame,
    outcome: RequestOutcome,
}

impl Counted {
    fn new(streams: &Streams, frame: Frame) -> Self {
        Self { streams: streams.clone(), frame, outcome: RequestOutcome::Cancelled }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.streams.frames.inc(self.frame, self.outcome);
    }
}
