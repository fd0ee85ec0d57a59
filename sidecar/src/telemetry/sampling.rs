//! Which traces are recorded. Who began a trace decides for all of it; only what begins here is drawn by lot.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};

/// The shares of what begins here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Of requests.
    pub(super) requests: f64,
    /// Of the work beside them.
    pub(super) background: f64,
}

impl Sampling {
    /// Whether a span is recorded that belongs to this trace.
    pub(super) fn is_sampled(self, parent: &SpanContext, trace: TraceId, kind: &SpanKind) -> bool {
        if parent.is_valid() {
            return parent.is_sampled();
        }
        let share = if *kind == SpanKind::Server { self.requests } else { self.background };
        is_drawn(trace, share)
    }
}

/// Decides by the trace's own random number, the same bytes as OpenTelemetry's SDKs, so that all who decide by the same share decide alike.
fn is_drawn(trace: TraceId, share: f64) -> bool {
    let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = trace.to_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) < share * (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};

    use super::*;

    fn parent(flags: TraceFlags) -> SpanContext {
        let (trace, span) = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([7; 8]));
        SpanContext::new(trace, span, flags, true, TraceState::default())
    }

    #[test]
    fn the_caller_decides_and_else_the_share() {
        let trace = TraceId::from_bytes([7; 16]);
        for (requests, background) in [(0.0, 1.0), (1.0, 0.0)] {
            let sampling = Sampling { requests, background };
            for kind in [SpanKind::Server, SpanKind::Internal] {
                assert!(sampling.is_sampled(&parent(TraceFlags::SAMPLED), trace, &kind));
                assert!(!sampling.is_sampled(&parent(TraceFlags::default()), trace, &kind));
            }
            let begun = |kind| sampling.is_sampled(&SpanContext::empty_context(), trace, &kind);
            assert_eq!((begun(SpanKind::Server), begun(SpanKind::Internal)), (requests > 0.5, background > 0.5));
        }
    }

    #[test]
    fn a_share_is_a_share() {
        let drawn = |share| (0..10_000).filter(|_| is_drawn(TraceId::from_bytes(rand::random()), share)).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        assert!((2_000..3_000).contains(&drawn(0.25)), "far more than ten standard deviations away");
    }
}
