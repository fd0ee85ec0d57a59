//! A connection whose incoming frames take room among the bodies in flight while they arrive.
//!
//! The WebSocket hands over whole messages only, so what it has read of one is counted here, beneath it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use context_manager_protocol::size::ByteSize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    bytes_in_flight::{BytesInFlight, Full, Reserved},
    live::Live,
};

/// What a message may have before it takes room while it arrives. There are few streams, so it is little in all; a small message
/// on a full sidecar can be answered then, where there would be nothing to answer yet.
const FREE: u64 = 64 << 10;

/// What a ping or a pong of a client has beside its content: two bytes and the mask (RFC 6455 section 5.2).
const CONTROL_BYTES: u64 = 2 + 4;

/// A connection, and the room that the message which arrives has.
pub(super) struct Metered<C> {
    connection: C,
    live: Arc<Live>,
    bytes: BytesInFlight,
    room: Reserved,
    /// Bytes that were read since the last whole message, without pings and pongs that have come.
    arrived: u64,
}

impl<C> Metered<C> {
    pub(super) fn new(connection: C, live: Arc<Live>, bytes: BytesInFlight) -> Self {
        let room = bytes.nothing();
        Self { connection, live, bytes, room, arrived: 0 }
    }

    /// The room of a message of so many bytes that is whole now.
    ///
    /// # Errors
    /// When there is none; the message is to be let go.
    pub(super) fn message(&mut self, bytes: usize) -> Result<Reserved, Full> {
        self.arrived = 0;
        let mut room = std::mem::replace(&mut self.room, self.bytes.nothing());
        room.grow_to(bytes as u64, self.limit())?;
        Ok(room)
    }

    /// A ping or a pong with so many bytes has come: nobody keeps it, and it is no part of the message that arrives.
    pub(super) const fn control(&mut self, bytes: usize) {
        self.arrived = self.arrived.saturating_sub(CONTROL_BYTES + bytes as u64);
    }

    /// The connection itself, for bytes that nobody keeps.
    pub(super) const fn connection(&mut self) -> &mut C {
        &mut self.connection
    }

    fn arrive(&mut self, bytes: usize) -> Result<(), Full> {
        self.arrived += bytes as u64;
        let limit = self.limit();
        if self.arrived > FREE { self.room.grow_to(self.arrived, limit) } else { Ok(()) }
    }

    fn limit(&self) -> ByteSize {
        self.live.config().protocol.most_bytes_in_flight()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Metered<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        Poll::Ready(self.arrive(read).map_err(io::Error::other))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Metered<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
