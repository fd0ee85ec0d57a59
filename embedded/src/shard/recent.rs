//! The contexts that were read last, decoded: a search reads some hundred of them to rank them, and decoding is what it would spend
//! most of its time on.
//!
//! A write takes what it changes out. A context that was read before a write and is put in after it would be an old one for good,
//! so whoever reads remembers the number of writes first, and puts nothing in if it is another one by then.

use std::sync::Arc;

use context_manager_memory::{Context, ContextId};
use quick_cache::{Weighter, unsync::Cache};

/// What they may take in memory, about 8,000 contexts of 30 words.
const BYTES: u64 = 8 << 20;
/// What a context takes beside its texts.
const OVERHEAD: usize = 640;
/// How many are expected to fit.
const ITEMS: usize = 8_000;

/// The contexts.
pub(super) struct Recent {
    contexts: Cache<ContextId, Arc<Context>, Size>,
    writes: u64,
}

#[derive(Clone)]
struct Size;

impl Weighter<ContextId, Arc<Context>> for Size {
    fn weight(&self, _: &ContextId, context: &Arc<Context>) -> u64 {
        // Metadata are counted by what they are made of, and rarely there.
        let metadata: usize = context.metadata.iter().map(|(key, value)| key.len() + 2 * size_of_value(value)).sum();
        (OVERHEAD + context.text.len() + metadata) as u64
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self { contexts: Cache::with_weighter(ITEMS, BYTES, Size), writes: 0 }
    }
}

impl Recent {
    /// The number of writes, to be remembered before contexts are read.
    pub(super) const fn writes(&self) -> u64 {
        self.writes
    }

    pub(super) fn get(&self, id: &ContextId) -> Option<Arc<Context>> {
        self.contexts.get(id).cloned()
    }

    /// Puts in contexts that were read when there were `writes` writes.
    pub(super) fn put(&mut self, contexts: &[Arc<Context>], writes: u64) {
        if writes == self.writes {
            for context in contexts {
                self.contexts.insert(context.id, Arc::clone(context));
            }
        }
    }

    /// Takes out contexts that were written, after it was done.
    pub(super) fn forget(&mut self, ids: &[ContextId]) {
        self.writes += 1;
        for id in ids {
            self.contexts.remove(id);
        }
    }
}

fn size_of_value(value: &serde_json::Value) -> usize {
    use serde_json::Value;

    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size_of_value).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size_of_value(value)).sum(),
    };
    inner + size_of::<Value>()
}
