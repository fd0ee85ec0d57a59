//! What people write: durations, sizes, names, and texts with every character there is.

use std::str;

use context_manager_memory::{AgentId, SessionId, TenantId, date, lexical, tokens::Tokenizer};
use context_manager_protocol::{duration::HumanDuration, size::ByteSize};

/// What is accepted is written so that it means the same again.
pub fn durations_and_sizes(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert!(duration.as_millis_i64() >= 0);
        assert_eq!(duration.to_string().parse::<HumanDuration>().ok(), Some(duration));
        let compact = duration.to_string().replace(' ', "");
        assert_eq!(compact.parse::<HumanDuration>().ok(), Some(duration), "{compact}");
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
}

/// Names, dates, words and shortening.
pub fn texts(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    for accepted in [
        TenantId::new(text).is_ok_and(|name| name.as_str() != text),
        AgentId::new(text).is_ok_and(|name| name.as_str() != text),
        SessionId::new(text).is_ok_and(|name| name.as_str() != text),
    ] {
        assert!(!accepted, "a name was changed");
    }
    let _ = date::named(text);
    let query = lexical::query(text);
    assert_eq!(query.indices().len(), query.values().len());
    assert!(query.values().iter().all(|value| value.is_finite()));
    for tokenizer in [Tokenizer::Estimate, Tokenizer::O200kBase, Tokenizer::Cl100kBase] {
        let all = tokenizer.count(text);
        for most in [0, 1, 7, all / 2, all] {
            let shortened = tokenizer.shorten(text, most);
            assert!(text.starts_with(shortened), "a shortened text is the beginning of the text");
            let tokens = tokenizer.count(shortened);
            assert!(tokens <= most.max(1), "{tokens} tokens are more than {most}");
        }
    }
}
