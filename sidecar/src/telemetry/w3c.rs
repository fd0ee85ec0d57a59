//! W3C Trace Context, level 1: reading and writing `traceparent` and `tracestate`.
//!
//! A `traceparent` that is not valid is as none, and then there is no `tracestate` either; a `tracestate` that is not valid is left
//! out alone (section 3.3 and 4.3 of the recommendation).

use std::str::FromStr as _;

use context_manager_protocol::trace_context::{TRACEPARENT, TRACESTATE, TraceParent};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Longest `tracestate` that is handed on. Participants should hand on 512 bytes at least.
const LONGEST_STATE: usize = 4_096;

/// What the caller says about its trace.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let parent = TraceParent::parse(parent.to_str().ok()?)?;
    let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from(parent.trace()), SpanId::from(parent.span()));
    Some(SpanContext::new(trace, span, flags, true, state(headers).unwrap_or_default()))
}

/// What a call that is made now says about its trace, as pairs of names and values; nothing outside of a trace.
#[must_use]
pub fn current() -> Vec<(&'static str, String)> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    let (trace, id) = (u128::from_be_bytes(span.trace_id().to_bytes()), u64::from_be_bytes(span.span_id().to_bytes()));
    let Some(parent) = TraceParent::new(trace, id, span.is_sampled()) else { return Vec::new() };
    let mut pairs = vec![(TRACEPARENT, parent.to_string())];
    let state = span.trace_state().header();
    if !state.is_empty() {
        pairs.push((TRACESTATE, state));
    }
    pairs
}

/// The same as headers.
#[must_use]
pub fn headers() -> HeaderMap {
    let header = |(name, value)| Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?));
    current().into_iter().filter_map(|(name, value): (&'static str, String)| header((name, value))).collect()
}

/// Several headers are one list.
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let lists: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|list| list.to_str().ok()).collect();
    let list = lists?.join(",");
    if list.len() > LONGEST_STATE { None } else { TraceState::from_str(&list).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("a header's value"));
        }
        headers
    }

    #[test]
    fn a_callers_trace_is_taken_over_with_its_flag_and_state() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let found = extract(&headers(&[
            (TRACEPARENT, &parent),
            (TRACESTATE, "rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE"),
            (TRACESTATE, "tenant@vendor=x y,"),
        ]));
        let found = found.expect("a valid context");
        assert_eq!((found.trace_id().to_string(), found.span_id().to_string()), (TRACE.to_owned(), SPAN.to_owned()));
        assert!(found.is_sampled() && found.is_remote());
        assert_eq!(found.trace_state().header(), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,tenant@vendor=x y");
    }

    #[test]
    fn a_malformed_or_doubled_parent_is_as_none() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        for bad in [String::new(), format!("{good}-more"), format!("00-{}-{SPAN}-01", "0".repeat(32))] {
            assert!(extract(&headers(&[(TRACEPARENT, &bad), (TRACESTATE, "a=b")])).is_none(), "{bad}");
        }
        assert!(extract(&headers(&[(TRACEPARENT, &good), (TRACEPARENT, &good)])).is_none(), "which one?");
        assert!(extract(&headers(&[(TRACESTATE, "a=b")])).is_none());
    }

    #[test]
    fn a_malformed_state_is_left_out_alone() {
        let good = format!("00-{TRACE}-{SPAN}-00");
        for bad in ["Upper=1", "no-value", "a=b,a=\u{7}", &format!("a={}", "x".repeat(LONGEST_STATE))] {
            let Ok(value) = HeaderValue::from_str(bad) else { continue };
            let mut headers = headers(&[(TRACEPARENT, &good)]);
            headers.insert(TRACESTATE, value);
            let found = extract(&headers).expect("a valid context");
            assert_eq!((found.trace_state().header(), found.is_sampled()), (String::new(), false), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_caller_sends_is_a_whole_context_or_none(
            parent in prop_oneof![
                any::<Vec<u8>>(),
                "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]{0,9})?".prop_map(String::into_bytes),
                "[0-9a-g-]{50,60}".prop_map(String::into_bytes),
            ],
            state in any::<Vec<u8>>(),
        ) {
            let mut sent = HeaderMap::new();
            sent.extend(HeaderValue::from_bytes(&parent).ok().map(|value| (HeaderName::from_static(TRACEPARENT), value)));
            sent.extend(HeaderValue::from_bytes(&state).ok().map(|value| (HeaderName::from_static(TRACESTATE), value)));
            let found = extract(&sent);
            if let Some(found) = found {
                prop_assert!(found.is_valid(), "{found:?}");
                let said = format!("{}-{}", found.trace_id(), found.span_id());
                prop_assert!(parent[3..].starts_with(said.as_bytes()), "{said}");
            }
        }
    }
}
