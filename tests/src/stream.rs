//! A client of the sidecar's WebSocket.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use context_manager_protocol::{
    codec::Format,
    keyring::Key,
    signature::{self, Request},
    stream::{AnswerFrame, AnswerKind, PATH, RequestFrame},
};
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};
use uuid::Uuid;

use crate::client::now;

/// Longest time until the sidecar says something.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer whose message is not looked into yet.
pub type Answer = AnswerFrame<Value>;

/// An open stream.
pub struct Stream<S> {
    socket: WebSocketStream<S>,
    /// In which frames are sent.
    pub format: Format,
}

/// What the sidecar sends.
#[derive(Debug)]
pub enum Event {
    /// A frame with a message.
    Answer(Answer),
    /// The end, with code and reason if it said any.
    Closed(Option<(u16, String)>),
}

/// The signature headers of a request that opens a stream.
#[must_use]
pub fn signed(key: &Key, nonce: &str) -> HeaderMap {
    let request = Request { method: "GET", path: PATH, query: None, body: b"" };
    signature::sign(key, &request, now(), nonce).to_header_map()
}

/// A fresh nonce.
#[must_use]
pub fn nonce() -> String {
    Uuid::new_v4().simple().to_string()
}

impl Stream<TcpStream> {
    /// Opens a stream on a port of this machine.
    ///
    /// # Errors
    /// When it is not opened.
    pub async fn open(port: u16, key: &Key) -> Result<Self> {
        match Self::attempt(port, signed(key, &nonce())).await? {
            Ok(stream) => Ok(stream),
            Err((status, body)) => bail!("the stream is refused with {status}: {body}"),
        }
    }

    /// Tries to open a stream with these headers; the inner error is the sidecar's refusal.
    ///
    /// # Errors
    /// When nobody answers as HTTP wants it.
    pub async fn attempt(port: u16, headers: HeaderMap) -> Result<Result<Self, (u16, Value)>> {
        Self::over(TcpStream::connect(("127.0.0.1", port)).await?, headers).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// The same on a connection of any kind.
    ///
    /// # Errors
    /// When nobody answers as HTTP wants it.
    pub async fn over(connection: S, headers: HeaderMap) -> Result<Result<Self, (u16, Value)>> {
        let mut request = format!("ws://localhost{PATH}").into_client_request()?;
        request.headers_mut().extend(headers);
        match client_async(request, connection).await {
            Ok((socket, _)) => Ok(Ok(Self { socket, format: Format::Json })),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Ok(Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or_default())))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send<M: Serialize>(&mut self, frame: &RequestFrame<M>) -> Result<()> {
        self.send_value(frame).await
    }

    /// Sends a frame that need not be a request.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send_value(&mut self, frame: &impl Serialize) -> Result<()> {
        let bytes = self.format.encode(frame);
        let message = match self.format {
            Format::Json => Message::Text(String::from_utf8(bytes)?.into()),
            Format::MessagePack => Message::Binary(bytes.into()),
        };
        self.send_message(message).await
    }

    /// Sends any message.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// The connection below.
    pub fn connection(&mut self) -> &mut S {
        self.socket.get_mut()
    }

    /// What comes next, heartbeats among it.
    ///
    /// # Errors
    /// When nothing comes, or something that is not a frame.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.context("the sidecar says nothing")?;
            let answer = match message {
                None | Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(_))) => {
                    return Ok(Event::Closed(None));
                }
                Some(message) => match message? {
                    Message::Text(text) => Format::Json.decode(text.as_bytes()),
                    Message::Binary(bytes) => Format::MessagePack.decode(&bytes),
                    Message::Close(frame) => {
                        return Ok(Event::Closed(frame.map(|frame| (frame.code.into(), frame.reason.to_string()))));
                    }
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                },
            };
            return Ok(Event::Answer(answer.context("not an answer frame")?));
        }
    }

    /// The next answer that is not a heartbeat of the sidecar's own.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn answer(&mut self) -> Result<Answer> {
        loop {
            match self.next().await? {
                Event::Answer(answer) if answer.id.is_none() && answer.kind == AnswerKind::Heartbeat => {}
                Event::Answer(answer) => return Ok(answer),
                Event::Closed(reason) => bail!("the stream was closed: {reason:?}"),
            }
        }
    }

    /// Sends a frame and waits for the next answer.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn ask<M: Serialize>(&mut self, frame: &RequestFrame<M>) -> Result<Answer> {
        self.send(frame).await?;
        self.answer().await
    }

    /// Reads to the end; code and reason of the close.
    ///
    /// # Errors
    /// When the end does not come.
    pub async fn end(&mut self) -> Result<Option<(u16, String)>> {
        loop {
            if let Event::Closed(reason) = self.next().await? {
                return Ok(reason);
            }
        }
    }

    /// Closes the stream as a well-behaved client does.
    ///
    /// # Errors
    /// When the other end does not agree.
    pub async fn close(mut self) -> Result<()> {
        self.socket.close(None).await?;
        timeout(PATIENCE, async { while self.socket.next().await.is_some_and(|message| message.is_ok()) {} })
            .await
            .context("the sidecar does not close")
    }
}
