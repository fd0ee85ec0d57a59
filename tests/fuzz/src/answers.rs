//! What other programs say: an embeddings API in its answer, a caller about its trace.

use std::str;

use context_manager_protocol::{embeddings, trace_context::TraceParent};

/// The answer of an embeddings API. The first byte says how many texts were sent, the second of how many dimensions.
pub fn embeddings(data: &[u8]) {
    let [count, dimensions, body @ ..] = data else { return };
    let (count, dimensions) = (usize::from(count % 8), usize::from(dimensions % 8));
    let Ok(vectors) = embeddings::vectors(body, count, dimensions) else { return };
    assert_eq!(vectors.len(), count);
    assert!(vectors.iter().all(|vector| vector.len() == dimensions));
    assert!(vectors.iter().flatten().all(|value| value.is_finite()));
}

/// A `traceparent`.
pub fn trace_parent(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Some(parent) = TraceParent::parse(text) else { return };
    assert!(parent.trace() != 0 && parent.span() != 0);
    let written = parent.to_string();
    assert_eq!(TraceParent::parse(&written), Some(parent));
    // Version and flags may be of a later version, the ids are as they were sent.
    assert_eq!(written[3..52], text[3..52]);
}
