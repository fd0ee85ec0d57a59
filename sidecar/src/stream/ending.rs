//! Why a stream ends, and what its agent is told.

use std::io;

use context_manager_protocol::stream::close;
use tokio_tungstenite::tungstenite::{
    Error,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{bytes_in_flight::Full, metrics::StreamEnd};

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The agent closed it.
    Closed,
    /// The connection broke.
    Broken,
    /// Nothing was heard from the agent, or it reads nothing.
    Silent,
    /// A frame was larger than this.
    TooLarge(usize),
    /// There is no room for a frame that is arriving.
    Overloaded(Full),
    /// A text that is not UTF-8.
    NotText,
    /// What came is not a WebSocket's.
    Protocol,
    /// The key that opened it was retired.
    KeyRetired(String),
    /// The sidecar is shutting down.
    Shutdown,
}

impl Ending {
    /// What an error while reading means.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Closed,
            Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => Self::TooLarge(*max_size),
            Error::Io(error) => full(error).map_or(Self::Broken, Self::Overloaded),
            Error::Utf8(_) => Self::NotText,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::Capacity(_)
            | Error::Tls(_)
            | Error::WriteBufferFull(_)
            | Error::Url(_)
            | Error::Http(_)
            | Error::HttpFormat(_) => Self::Broken,
            Error::Protocol(_) | Error::AttackAttempt => Self::Protocol,
        }
    }

    /// Whether requests in flight are answered before the end. Otherwise nobody would read the answers.
    pub(super) const fn answers(&self) -> bool {
        match self {
            Self::Closed | Self::Broken | Self::Silent => false,
            Self::TooLarge(_)
            | Self::Overloaded(_)
            | Self::NotText
            | Self::Protocol
            | Self::KeyRetired(_)
            | Self::Shutdown => true,
        }
    }

    /// What the agent is told, unless it said so itself or cannot be told anything.
    pub(super) fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Closed | Self::Broken => return None,
            Self::Silent => (CloseCode::from(close::SILENT), "nothing was heard for three heartbeats".to_owned()),
            Self::TooLarge(bytes) => {
                (CloseCode::Size, format!("a frame may have {bytes} bytes (protocol.max_message_size)"))
            }
            Self::Overloaded(full) => (CloseCode::Again, full.to_string()),
            Self::NotText => {
                (CloseCode::Invalid, "a text frame must be UTF-8; MessagePack goes in binary frames".to_owned())
            }
            Self::Protocol => (CloseCode::Protocol, "these bytes are not of a WebSocket".to_owned()),
            // A key id has at most 64 bytes and a reason 123.
            Self::KeyRetired(id) => {
                (CloseCode::from(close::KEY_RETIRED), format!("key {id} was retired; read the key file again"))
            }
            Self::Shutdown => (CloseCode::Away, "the sidecar is shutting down".to_owned()),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }

    /// Its label.
    pub(super) const fn label(&self) -> StreamEnd {
        match self {
            Self::Closed => StreamEnd::Closed,
            Self::Broken => StreamEnd::Broken,
            Self::Silent => StreamEnd::Silent,
            Self::TooLarge(_) => StreamEnd::TooLarge,
            Self::Overloaded(_) => StreamEnd::Overloaded,
            Self::NotText | Self::Protocol => StreamEnd::Protocol,
            Self::KeyRetired(_) => StreamEnd::KeyRetired,
            Self::Shutdown => StreamEnd::Shutdown,
        }
    }
}

/// What [`super::metered`] says through the WebSocket.
fn full(error: &io::Error) -> Option<Full> {
    error.get_ref()?.downcast_ref().copied()
}

#[cfg(test)]
mod tests {
    use context_manager_protocol::{keyring::MAX_KEY_ID_BYTES, size::ByteSize};

    use super::*;

    #[test]
    fn every_reason_fits_into_a_control_frame() {
        let endings = [
            Ending::Silent,
            Ending::TooLarge(usize::MAX),
            Ending::Overloaded(Full(ByteSize::new(u64::MAX))),
            Ending::NotText,
            Ending::Protocol,
            Ending::KeyRetired("k".repeat(MAX_KEY_ID_BYTES)),
            Ending::Shutdown,
        ];
        for ending in endings {
            let frame = ending.frame().expect("the agent is told");
            assert!(frame.reason.len() <= 123, "RFC 6455 section 5.5: {}", frame.reason);
        }
    }
}
