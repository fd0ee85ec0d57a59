//! One HTTP request over a connection of its own: to a pod, which is asked itself and not through a Service.

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a broken connection is called.
pub(super) const BROKEN: &str = "breaks the connection off";

/// Most bytes of an answer that wait to be read. Many pods are asked at once, and whoever makes them says what they answer.
const WAITING: usize = 64 << 10;

/// Sends a request and has its answer read while the connection is there. `broken` is what is said when it is not.
pub(super) async fn exchange<S, B, R, T, E>(
    stream: S,
    request: Request<B>,
    broken: impl Fn() -> E,
    read: impl FnOnce(Response<Incoming>) -> R,
) -> Result<T, E>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    R: Future<Output = Result<T, E>>,
{
    let handshake = http1::Builder::new().max_buf_size(WAITING).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| broken())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|_| broken())?;
        read(answer).await
    };
    // The exchange itself notices when the connection breaks.
    let carried = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = carried => never,
    }
}
