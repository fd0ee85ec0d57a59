//! The collector: one export over HTTP.
//!
//! Headers and the CA bundle are read for each export, so that rotating them needs no restart, and a file that is not there fails an
//! export and not the start.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use context_manager_protocol::config;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prost::Message as _;
use reqwest::Response;

use super::otlp::ExportTraceServiceResponse;
use crate::{
    http_client::{self, Client},
    ports::Retry,
};

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// Most bytes of an answer that are read; it says what was rejected, and usually nothing.
const MOST_ANSWER_BYTES: usize = 16 << 10;
/// Most bytes of the file with the headers.
const MOST_HEADER_BYTES: usize = 64 << 10;

/// Why an export failed. No header's value gets into it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Client(#[from] http_client::Error),
    #[error("failed to read tracing.headers_file {path:?}")]
    Headers { path: PathBuf, source: std::io::Error },
    #[error("line {line} of tracing.headers_file {path:?} is not a header such as `authorization: Bearer token`")]
    Header { path: PathBuf, line: usize },
    #[error("failed to reach the collector at {url}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("the collector at {url} answered {status}{}", remedy(*status))]
    Refused { url: String, status: StatusCode, retry_after: Option<Duration> },
}

const fn remedy(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "; check tracing.headers_file",
        404 | 405 => "; tracing.otlp_endpoint must be the base URL of OTLP over HTTP, often port 4318",
        _ => "",
    }
}

impl Error {
    /// Whether and when the same export may succeed (OTLP 1.x, "Failures").
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } => Retry::Backoff,
            Self::Refused { status, retry_after, .. } if [429, 502, 503, 504].contains(&status.as_u16()) => {
                retry_after.map_or(Retry::Backoff, Retry::After)
            }
            Self::Refused { .. } | Self::Client(_) | Self::Headers { .. } | Self::Header { .. } => Retry::Never,
        }
    }
}

/// The collector.
#[derive(Debug)]
pub(super) struct Collector {
    url: String,
    ca_file: Option<PathBuf>,
    headers_file: Option<PathBuf>,
    timeout: Duration,
    client: Option<Client>,
}

impl Collector {
    pub(super) fn new(endpoint: &str, config: &config::Tracing) -> Self {
        Self {
            url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            ca_file: config.ca_file.clone(),
            headers_file: config.headers_file.clone(),
            timeout: config.timeout.get(),
            client: None,
        }
    }

    /// Sends an encoded export. Says how many spans of it were rejected.
    pub(super) async fn send(&mut self, body: Bytes) -> Result<u64, Error> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(Client::new(self.ca_file.clone())?),
        };
        let request = client.get().await?.post(&self.url).timeout(self.timeout).headers(self.headers().await?);
        let request = request.header(header::CONTENT_TYPE, MEDIA_TYPE).body(body);
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Error::Refused { url: self.url.clone(), status, retry_after: retry_after(&response) });
        }
        // It has taken the spans; what else it says is worth no failure.
        Ok(rejected(response).await.unwrap_or_default())
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        Error::Unreachable { url: self.url.clone(), source: source.without_url() }
    }

    async fn headers(&self) -> Result<HeaderMap, Error> {
        let Some(path) = &self.headers_file else { return Ok(HeaderMap::new()) };
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|source| Error::Headers { path: path.clone(), source })?;
        parse(&text).map_err(|line| Error::Header { path: path.clone(), line })
    }
}

/// The headers of a file; the error is the number of the line that is none.
fn parse(text: &str) -> Result<HeaderMap, usize> {
    if text.len() > MOST_HEADER_BYTES {
        return Err(0);
    }
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim()).ok()?;
            Some((name, HeaderValue::try_from(value.trim()).ok()?))
        });
        let (name, mut value) = header.ok_or(index + 1)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

async fn rejected(mut response: Response) -> Option<u64> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > MOST_ANSWER_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    let answer = ExportTraceServiceResponse::decode(body.as_slice()).ok()?;
    u64::try_from(answer.partial_success?.rejected_spans).ok()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_header_whose_value_is_not_shown() {
        let headers = parse("Authorization: Bearer a:b\n\nx-tenant:7\n").expect("two headers");
        assert_eq!(headers.get("authorization").and_then(|value| value.to_str().ok()), Some("Bearer a:b"));
        assert_eq!(headers.len(), 2);
        assert!(!format!("{headers:?}").contains("Bearer"), "{headers:?}");
        for (bad, line) in [("Authorization Bearer", 1), ("a: b\na b: c", 2), ("a: b\u{7f}", 1)] {
            assert_eq!(parse(bad), Err(line), "{bad}");
        }
    }
}
