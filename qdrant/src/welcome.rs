//! Whether the server lets this side in, as far as that depends on certificates.
//!
//! A server that does not take a client certificate says so by an alert and hangs up. In TLS 1.3 the handshake is over for this side by
//! then, so the alert comes when the answer of the first call is read; HTTP/2 passes it on as text at best. So it is noted here, where
//! it is still what it is, and told when the call fails.

use std::{
    fmt, io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use rustls::{AlertDescription, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::certificate::Shown;

/// Why a server does not let this side in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It asks for a certificate, and there is none to show.
    NoCertificate,
    /// It asks for one of the CAs that it names, and none of them signed the certificate.
    OtherAuthorities,
    /// It does not know the CA that signed the certificate.
    UnknownAuthority,
    /// It takes the certificate for one that has expired.
    Expired,
    /// It takes the certificate for one that was revoked.
    Revoked,
    /// It does not take the certificate, and does not say why, or for a reason that is rare.
    NotTaken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => "it asks for a client certificate, and there is none to show",
            Self::OtherAuthorities => {
                "it asks for a client certificate of the CAs that it names, and none of them signed ours"
            }
            Self::UnknownAuthority => "it does not know the CA that signed our client certificate",
            Self::Expired => "it says that our client certificate has expired; renew it, or set its clock",
            Self::Revoked => "it says that our client certificate was revoked",
            Self::NotTaken => "it does not take our client certificate, such as for the name in it or for its usage",
        })
    }
}

impl Refusal {
    /// What an alert says about the certificate, if anything.
    fn of(alert: AlertDescription, presented: Presented) -> Option<Self> {
        use AlertDescription as Said;

        #[expect(clippy::wildcard_enum_match_arm, reason = "the others are about something else")]
        let of_a_certificate = match alert {
            // A CA of the same name with another key looks like a wrong signature.
            Said::UnknownCA | Said::DecryptError => Some(Self::UnknownAuthority),
            Said::CertificateExpired => Some(Self::Expired),
            Said::CertificateRevoked => Some(Self::Revoked),
            Said::BadCertificate
            | Said::UnsupportedCertificate
            | Said::CertificateUnknown
            | Said::CertificateRequired
            | Said::AccessDenied => Some(Self::NotTaken),
            _ => None,
        };
        match presented {
            Presented::NotAsked => None,
            Presented::Certificate => of_a_certificate,
            // TLS 1.2 has no alert of its own for a certificate that is missing.
            Presented::None(why) => (of_a_certificate.is_some() || alert == Said::HandshakeFailure).then_some(why),
        }
    }
}

/// What the server asked for and got in the last handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presented {
    /// It did not ask who calls.
    #[default]
    NotAsked,
    /// It was shown the certificate.
    Certificate,
    /// It was shown nothing, for this reason.
    None(Refusal),
}

/// What is known from the last connection. One channel has one connection at a time.
#[derive(Debug, Default)]
pub(crate) struct Welcome(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    presented: Presented,
    refusal: Option<Refusal>,
}

impl Welcome {
    /// Why the last connection was refused, if it was for the certificate.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.change(|state| state.refusal)
    }

    /// A connection begins.
    pub(crate) fn begin(&self) {
        self.change(|state| *state = State::default());
    }

    /// A connection broke: notes what the other end said, if it said something about the certificate.
    pub(crate) fn broke(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            self.change(|state| state.refusal = Refusal::of(*alert, state.presented).or(state.refusal));
        }
    }

    fn presents(&self, presented: Presented) {
        self.change(|state| state.presented = presented);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Shows a certificate, if there is one, and notes what was shown.
#[derive(Debug)]
pub(crate) struct Presenter {
    pub(crate) certificate: Option<Shown>,
    pub(crate) welcome: Arc<Welcome>,
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let (pair, presented) = match &self.certificate {
            None => (None, Presented::None(Refusal::NoCertificate)),
            Some(shown) if !shown.is_welcome(authorities) => (None, Presented::None(Refusal::OtherAuthorities)),
            Some(shown) => match shown.pair(schemes) {
                None => (None, Presented::None(Refusal::NotTaken)),
                pair => (pair, Presented::Certificate),
            },
        };
        self.welcome.presents(presented);
        pair
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

/// A connection whose end is looked at.
pub(crate) struct Watched<S> {
    stream: S,
    welcome: Arc<Welcome>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    pub(crate) const fn new(stream: S, welcome: Arc<Welcome>) -> Self {
        Self { stream, welcome }
    }

    /// Looks at what came of a write. One that failed may have met the end of the connection before the alert was read.
    fn written<T>(&mut self, ctx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(written, Poll::Ready(Err(_))) {
            let mut rest = [0; 64];
            let _ = pin!(self).poll_read(ctx, &mut ReadBuf::new(&mut rest));
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(ctx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.welcome.broke(error);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, ctx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(ctx, bytes);
        self.written(ctx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(ctx, slices);
        self.written(ctx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(ctx);
        self.written(ctx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_a_refusal_only_if_the_server_asked_who_calls() {
        use AlertDescription as Said;

        let none = Presented::None(Refusal::OtherAuthorities);
        for (alert, shown, not_shown) in [
            (Said::UnknownCA, Some(Refusal::UnknownAuthority), Some(Refusal::OtherAuthorities)),
            (Said::DecryptError, Some(Refusal::UnknownAuthority), Some(Refusal::OtherAuthorities)),
            (Said::CertificateExpired, Some(Refusal::Expired), Some(Refusal::OtherAuthorities)),
            (Said::CertificateRevoked, Some(Refusal::Revoked), Some(Refusal::OtherAuthorities)),
            (Said::BadCertificate, Some(Refusal::NotTaken), Some(Refusal::OtherAuthorities)),
            (Said::CertificateRequired, Some(Refusal::NotTaken), Some(Refusal::OtherAuthorities)),
            (Said::HandshakeFailure, None, Some(Refusal::OtherAuthorities)),
            (Said::InternalError, None, None),
            (Said::CloseNotify, None, None),
        ] {
            assert_eq!(Refusal::of(alert, Presented::Certificate), shown, "{alert:?}");
            assert_eq!(Refusal::of(alert, none), not_shown, "{alert:?}");
            assert_eq!(Refusal::of(alert, Presented::NotAsked), None, "{alert:?}");
        }
    }

    #[test]
    fn what_was_said_of_a_connection_is_forgotten_with_the_next() {
        let welcome = Welcome::default();
        welcome.presents(Presented::Certificate);
        welcome.broke(&io::Error::other("the network is away"));
        assert_eq!(welcome.refusal(), None);
        welcome.broke(&io::Error::other(rustls::Error::AlertReceived(AlertDescription::UnknownCA)));
        welcome.broke(&io::ErrorKind::ConnectionReset.into());
        assert_eq!(welcome.refusal(), Some(Refusal::UnknownAuthority));
        welcome.begin();
        assert_eq!(welcome.refusal(), None);
    }
}
