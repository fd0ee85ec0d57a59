//! W3C Trace Context, level 1: what a caller says about its trace in `traceparent`.

use std::fmt;

/// Which trace a request belongs to, and which span has made it.
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems on the way have noted about it.
pub const TRACESTATE: &str = "tracestate";

/// Bytes of version 0, and of the part that every later version has.
const LENGTH: usize = 55;
/// The only bit of the flags that means something yet.
const SAMPLED: u8 = 1;

/// A valid `traceparent`: neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// The parent of those ids, unless one of them is zero.
    #[must_use]
    pub const fn new(trace: u128, span: u64, is_sampled: bool) -> Option<Self> {
        if trace == 0 || span == 0 { None } else { Some(Self { trace, span, is_sampled }) }
    }

    /// Reads the header. One that is not valid is as none (section 4.3 of the recommendation); of a later version, what is known of it.
    ///
    /// ```
    /// use context_manager_protocol::trace_context::TraceParent;
    ///
    /// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let parent = TraceParent::parse(text).expect("a valid one");
    /// assert!(parent.is_sampled);
    /// assert_eq!(parent.to_string(), text);
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.get(..2).filter(|version| is_hexadecimal(version) && *version != "ff")?;
        let (known, rest) = text.split_at_checked(LENGTH)?;
        // Later versions may add fields; version 0 has none.
        if !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
            return None;
        }
        let mut fields = known.split('-').skip(1);
        let mut field = |length: usize| fields.next().filter(|field| field.len() == length && is_hexadecimal(field));
        let (trace, span, flags) = (field(32)?, field(16)?, field(2)?);
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        // The other bits mean nothing yet, and must not be handed on.
        Self::new(trace, span, flags & SAMPLED == SAMPLED)
    }

    /// The trace's id; never zero.
    #[must_use]
    pub const fn trace(&self) -> u128 {
        self.trace
    }

    /// The id of the span that has made the request; never zero.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.span
    }
}

/// As version 0.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, is_sampled } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(*is_sampled))
    }
}

/// Upper case is not allowed.
fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn ids_and_flag_are_read_and_written_back() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parent = TraceParent::parse(&text).expect("a valid one");
            assert_eq!(
                (parent.trace(), parent.span()),
                (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7)
            );
            assert_eq!(parent.to_string(), text);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for (rest, is_sampled) in
            [("-00", false), ("-01", true), ("-ff", true), ("-fe", false), ("-01-what-comes", true)]
        {
            let parent = TraceParent::parse(&format!("01-{TRACE}-{SPAN}{rest}")).expect("a valid one");
            assert_eq!(parent.is_sampled, is_sampled, "{rest}");
        }
    }

    #[test]
    fn what_is_malformed_is_as_none() {
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
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{SPAN}-{TRACE}-01"),
            format!("00-{}é-{SPAN}-01", &TRACE[2..]),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
