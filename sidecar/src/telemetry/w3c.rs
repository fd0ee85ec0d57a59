//! W3C Trace Context, level 1: reading and writing `traceparent` and `tracestate`.
//!
//! A `traceparent` that is not valid is as none, and then there is no `tracestate` either; a `tracestate` that is not valid is left
//! out alone (section 3.3 and 4.3 of the recommendation).

use std::str::FromStr as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Which trace a request belongs to, and which span has made it.
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems on the way have noted about it.
pub const TRACESTATE: &str = "tracestate";

/// Bytes of version 0, and of the part that every later version has.
const LENGTH: usize = 55;
/// Longest `tracestate` that is handed on. Participants should hand on 512 bytes at least.
const LONGEST_STATE: usize = 4_096;

/// What the caller says about its trace.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
    let (trace, span, flags) = parse(parent.to_str().ok()?)?;
    Some(SpanContext::new(trace, span, flags, true, state(headers).unwrap_or_default()))
}

/// What a call that is made now says about its trace, as pairs of names and values; nothing outside of a trace.
#[must_use]
pub fn current() -> Vec<(&'static str, String)> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return Vec::new();
    }
    let parent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    let mut pairs = vec![(TRACEPARENT, parent)];
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

fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let version = text.get(..2).filter(|version| is_hex(version) && *version != "ff")?;
    let known = text.get(..LENGTH)?;
    let rest = &text[LENGTH..];
    // Later versions may add fields; version 0 has none.
    if !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
        return None;
    }
    let mut fields = known.split('-').skip(1);
    let mut field = |length: usize| fields.next().filter(|field| field.len() == length && is_hex(field));
    let (trace, span, flags) = (field(32)?, field(16)?, field(2)?);
    let trace = TraceId::from_hex(trace).ok().filter(|trace| *trace != TraceId::INVALID)?;
    let span = SpanId::from_hex(span).ok().filter(|span| *span != SpanId::INVALID)?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    // The other bits mean nothing yet, and must not be handed on.
    Some((trace, span, flags & TraceFlags::SAMPLED))
}

/// Upper case is not allowed.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
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
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for (rest, is_sampled) in [("-00", false), ("-01", true), ("-ff", true), ("-01-what-comes", true)] {
            let found = extract(&headers(&[(TRACEPARENT, &format!("01-{TRACE}-{SPAN}{rest}"))]));
            let found = found.expect("a valid context");
            assert_eq!(found.trace_flags().to_u8(), u8::from(is_sampled), "{rest}");
        }
    }

    #[test]
    fn a_malformed_parent_is_as_none() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01.more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{SPAN}-{TRACE}-01"),
            format!("00-{}é-{SPAN}-01", &TRACE[2..]),
        ] {
            assert!(extract(&headers(&[(TRACEPARENT, &bad), (TRACESTATE, "a=b")])).is_none(), "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
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
