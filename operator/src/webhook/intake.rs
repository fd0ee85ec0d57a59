//! Takes reviews in within a bound on memory: on bodies while they arrive, and on what is read from them until the answer is sent.
//!
//! Room is taken by the length that is announced, before a byte is read. The two bounds are apart, so that nobody who has room waits for
//! somebody who waits for more. Whose turn it is when there is none: [`super::memory_budget`].

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    memory_budget::{Full, Guest, Room},
    review::{Answer, Review},
    server::Caller,
};
use crate::weight::weigh;

/// The API server itself takes no object above 3 MiB; a review holds one, and some more.
const MAX_BODY_BYTES: u64 = 4 << 20;
/// Bytes of all bodies together.
const BODIES: u64 = 16 << 20;
/// What all reviews and answers together take, and so the most that one does.
const REVIEWS: u64 = 40 << 20;
/// How long a review waits for each of the two: with the rest well below the time that an API server waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the body of a refused review is read past, so that its sender comes to read the answer.
const PAST: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are given to a connection at once.
const PART: usize = 16 << 10;

/// The room there is.
pub(super) struct Intake {
    bodies: Arc<Room>,
    reviews: Arc<Room>,
}

/// Why a review is not looked at.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no room for it now.
    Busy,
    /// There is none for such a one ever.
    TooLarge(&'static str),
    /// It is none.
    NoReview(serde_json::Error),
    /// It did not arrive.
    Broken(axum::Error),
}

impl Intake {
    /// All room is free.
    pub(super) fn new() -> Self {
        Self { bodies: Room::new(BODIES, PATIENCE), reviews: Room::new(REVIEWS, PATIENCE) }
    }

    /// Bytes for which room is taken.
    pub(super) fn held(&self) -> u64 {
        self.bodies.held() + self.reviews.held()
    }

    /// Reads a review, and returns it with its room. Whoever calls ends this and lets go of both when `order` is cancelled.
    pub(super) async fn take(
        &self,
        caller: &Caller,
        body: Body,
        order: &CancellationToken,
    ) -> Result<(Review, Guest), Refusal> {
        // Without a length it may be any that is permitted.
        let length = body.size_hint().exact().unwrap_or(MAX_BODY_BYTES);
        if length > MAX_BODY_BYTES {
            return Err(Refusal::TooLarge("the body"));
        }
        let Ok(arriving) = self.bodies.enter(caller.peer, length, order).await else {
            read_past(body).await;
            return Err(Refusal::Busy);
        };
        let bytes = read(body, length).await?;
        let weight = weigh(&bytes);
        if weight > REVIEWS {
            return Err(Refusal::TooLarge("what the body is read into"));
        }
        let held = self.reviews.enter(caller.peer, weight, order).await.map_err(|Full| Refusal::Busy)?;
        let review = serde_json::from_slice(&bytes).map_err(Refusal::NoReview)?;
        drop((bytes, arriving));
        Ok((review, held))
    }
}

async fn read(body: Body, length: u64) -> Result<Vec<u8>, Refusal> {
    let most = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(most);
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Refusal::Broken)?.into_data() else { continue };
        if data.len() > most - bytes.len() {
            return Err(Refusal::TooLarge("the body"));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// A connection that is closed while its client writes is one whose answer may be lost.
async fn read_past(body: Body) {
    let mut body = pin!(body);
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(PAST, all).await;
}

/// The answer, whose room is taken until it is sent. Who does not read it is not waited for when there is no room: its connection is cut off.
pub(super) fn answer(answer: &Answer, held: Guest, caller: &Caller) -> Response {
    let bytes = match serde_json::to_vec(answer) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    held.shrink(bytes.len() as u64, &caller.cut);
    let held = Arc::new(held);
    let length = HeaderValue::from(bytes.len());
    let parts = (0..bytes.len()).step_by(PART).map(move |start| {
        let part = bytes.slice(start..bytes.len().min(start + PART));
        Ok::<_, std::convert::Infallible>(Bytes::from_owner(Part { bytes: part, _held: Arc::clone(&held) }))
    });
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CONTENT_LENGTH, length)];
    (headers, Body::from_stream(futures::stream::iter(parts))).into_response()
}

/// A part of an answer. It holds the memory of the whole, and so what was taken for it: the body may be dropped before it is sent.
struct Part {
    bytes: Bytes,
    _held: Arc<Guest>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Refusal {
    /// A short word for it.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Busy => "Busy",
            Self::TooLarge(_) => "TooLarge",
            Self::NoReview(_) => "NoReview",
            Self::Broken(_) => "Broken",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Busy => {
                // An API server waits so long and tries again, as long as its patience lasts.
                let retry = [(RETRY_AFTER, HeaderValue::from_static("1"))];
                (StatusCode::SERVICE_UNAVAILABLE, retry, "there is no memory for the review now; send it again\n")
                    .into_response()
            }
            Self::TooLarge(what) => {
                let message = format!(
                    "{what} is too large; a review has at most {} MiB, and takes at most {} MiB when it is read\n",
                    MAX_BODY_BYTES >> 20,
                    REVIEWS >> 20
                );
                (StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
            }
            Self::NoReview(error) => {
                let message = format!("the body is not an AdmissionReview of admission.k8s.io/v1: {error}\n");
                (StatusCode::BAD_REQUEST, message).into_response()
            }
            Self::Broken(error) => {
                (StatusCode::BAD_REQUEST, format!("the body did not arrive: {error}\n")).into_response()
            }
        }
    }
}
