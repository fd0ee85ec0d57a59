//! Bounds the number of requests that are worked on at once, over all routes and connections; more are refused at once
//! rather than queued, so that those that are accepted stay fast.
//!
//! One layer sheds and bounds: the limit can change while the sidecar runs, which a fixed semaphore cannot follow. A request
//! has its place until its answer is sent to the end: an export works for as long as it is read. A write that goes on without its caller has
//! it until it is done ([`crate::ongoing`]).
//!
//! A large answer of a read takes room among the bytes in flight until it is sent, as bodies of requests do: those who read slowly would
//! hold one each otherwise. Answers to writes are small, and none is refused. An export is sent page by page, and each page takes room for
//! itself: without room for its first one it is refused, and without room for a later one it ends before its last line. Who makes something
//! else of an answer, as a stream makes a frame, takes what it [holds](Holding) along.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use context_manager_protocol::{problem::Code, size::ByteSize};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use super::Shared;
use crate::{
    bytes_in_flight::{Full, Reserved},
    metrics::Route,
    refusal::{Refusal, chain},
};

/// Answers of fewer bytes take no room.
const SMALL: u64 = 64 << 10;
/// Most bytes of an answer that are given to a connection at once.
const PART: usize = 64 << 10;
/// For so many bytes of answers there is room whatever the limit is: for the largest of them.
const LARGEST: ByteSize = ByteSize::new(32 << 20);

/// The state of the layer: what all requests share, and how many there are.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Shared,
    in_flight: Arc<AtomicUsize>,
}

impl Admission {
    /// Nobody admitted yet.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self { shared, in_flight: Arc::default() }
    }

    fn enter(&self) -> Result<Place, Refusal> {
        if self.shared.readiness.is_draining() {
            return Err(Refusal::new(Code::ShuttingDown, "the sidecar is shutting down; send the request again later"));
        }
        let limit = self.shared.limits().max_in_flight;
        let place = Place { _admitted: Arc::new(Admitted(Arc::clone(&self.in_flight))) };
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= limit {
            let detail = format!("{limit} requests at once is the limit (protocol.max_in_flight); send it again later");
            return Err(Refusal::new(Code::Overloaded, detail));
        }
        Ok(place)
    }

    /// An answer with its place, and with room for what it is to send.
    async fn answer(&self, route: Option<Route>, place: Place, response: Response) -> Result<Response, Refusal> {
        let (parts, mut body) = response.into_parts();
        let (mut rest, mut in_pages) = (Bytes::new(), None);
        let bytes = match route {
            Some(Route::List | Route::Search) => body.size_hint().lower(),
            Some(Route::Export | Route::ExportTenant) => {
                // Its first page was read before it was answered, so it can still be refused.
                if let Some(first) = body.frame().await {
                    let broken = |_| Refusal::new(Code::Internal, "the export broke off; send the request again");
                    rest = first.map_err(broken)?.into_data().unwrap_or_default();
                }
                in_pages = Some(self.clone());
                rest.len() as u64
            }
            Some(_) | None => 0,
        };
        let held = Arc::new(Held { place, _room: self.room(bytes)? });
        let answering = Answering { body, rest, in_pages, held: Arc::clone(&held) };
        let mut response = Response::from_parts(parts, Body::new(answering));
        response.extensions_mut().insert(Holding { _held: held });
        Ok(response)
    }

    /// Room for so many bytes of an answer.
    fn room(&self, bytes: u64) -> Result<Reserved, Full> {
        let limit = self.shared.limits().most_bytes_in_flight().max(LARGEST);
        self.shared.bytes_in_flight.reserve(if bytes < SMALL { 0 } else { bytes }, limit)
    }
}

/// A place among the requests in flight, an extension of its request; given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Place {
    _admitted: Arc<Admitted>,
}

#[derive(Debug)]
struct Admitted(Arc<AtomicUsize>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The layer. It stands before the body is read and the signature checked, because those cost the most.
pub async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    match admission.enter() {
        Ok(place) => {
            request.extensions_mut().insert(place.clone());
            let route = request.extensions().get::<Route>().copied();
            let response = next.run(request).await;
            admission.answer(route, place, response).await.unwrap_or_else(IntoResponse::into_response)
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// The body of an answer, with its room and the place of its request. Whoever sends it takes it in parts, so that the rest of a large frame
/// is here and not in the buffers of a connection whose client does not read.
struct Answering {
    body: Body,
    /// What is left of a frame.
    rest: Bytes,
    /// Whether each frame takes room for itself, and where.
    in_pages: Option<Admission>,
    held: Arc<Held>,
}

impl Answering {
    /// Begins with the next frame.
    fn begin(&mut self, data: Bytes) -> Result<(), Full> {
        if let Some(admission) = &self.in_pages {
            // The page before has its room until its last part is sent, and no longer.
            let place = self.held.place.clone();
            self.held = Arc::new(Held { place: place.clone(), _room: admission.shared.bytes_in_flight.nothing() });
            let room = admission.room(data.len() as u64).inspect_err(|full| {
                tracing::warn!(error = chain(full), "An export was broken off");
            })?;
            self.held = Arc::new(Held { place, _room: room });
        }
        self.rest = data;
        Ok(())
    }
}

/// What an answer holds, an extension of it; given back when the body is sent and the last clone of this is dropped.
#[derive(Clone, Debug)]
pub struct Holding {
    _held: Arc<Held>,
}

/// What an answer holds until its last byte is sent.
#[derive(Debug)]
struct Held {
    place: Place,
    _room: Reserved,
}

/// A part of a frame. It holds the memory of the whole frame, and so what was taken for it: the body may be dropped before it is sent.
struct Part {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    if let Err(full) = self.begin(data) {
                        // Nothing follows, least of all a last line.
                        self.body = Body::empty();
                        return Poll::Ready(Some(Err(axum::Error::new(full))));
                    }
                }
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PART);
        let part = Part { bytes: self.rest.split_to(length), _held: Arc::clone(&self.held) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}
