//! The two texts under which a context is found: its own, and its own after that of the previous context of the session.
//!
//! A turn such as "Yes, last Tuesday!" is found through the question before it. The event's date joins the lexical texts only:
//! it helps BM25 and hurts dense models.

use crate::{Context, builtin, date, lexical::Bm25, vectors::Vectors};

/// The texts of one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexTexts {
    /// "actor: text".
    pub own: String,
    /// The same, after the previous context's.
    pub with_previous: String,
    /// The day of the event in words.
    pub date: String,
}

/// Builds the texts; `previous` is the context before it in the same session, if there is one.
///
/// ```
/// # use context_manager_memory::{Actor, AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::index_text::index_texts;
///
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let now = Timestamp::from_millis(0);
/// # let new = |text: &str| Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::LongTerm, text, now);
/// let question = new("Do you like tea?");
/// let mut answer = new("Yes!");
/// answer.actor = Actor::new("Ann").ok();
/// assert_eq!(index_texts(&answer, Some(&question)).with_previous, "Do you like tea?\nAnn: Yes!");
/// ```
#[must_use]
pub fn index_texts(context: &Context, previous: Option<&Context>) -> IndexTexts {
    let own = spoken(context);
    let with_previous = previous.map_or_else(|| own.clone(), |previous| format!("{}\n{own}", spoken(previous)));
    IndexTexts { own, with_previous, date: date::in_words(context.event_time()) }
}

impl IndexTexts {
    /// The vectors of these texts: the lexical ones are made here, the dense ones come from an embedder or are missing.
    #[must_use]
    pub fn vectors(&self, bm25: &Bm25, dense: Option<(Vec<f32>, Vec<f32>)>) -> Vectors {
        let lexical = |text: &str| bm25.document(&format!("{text}\n{}", self.date));
        let (dense_self, dense_ctx) = dense.unzip();
        Vectors { dense_self, dense_ctx, sparse_self: lexical(&self.own), sparse_ctx: lexical(&self.with_previous) }
    }

    /// The dense vectors by the built-in embedder.
    #[must_use]
    pub fn builtin(&self, dimensions: usize) -> (Vec<f32>, Vec<f32>) {
        (builtin::embed(&self.own, dimensions), builtin::embed(&self.with_previous, dimensions))
    }
}

fn spoken(context: &Context) -> String {
    context.actor.as_ref().map_or_else(|| context.text.clone(), |actor| format!("{}: {}", actor.as_str(), context.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, context::tests::sample, lexical};

    #[test]
    fn a_first_context_has_one_text_twice() {
        let texts = index_texts(&sample(1, Level::LongTerm, "Alone."), None);
        assert_eq!(texts.own, texts.with_previous);
    }

    #[test]
    fn the_date_is_found_by_words_and_is_not_in_the_dense_texts() {
        let texts = index_texts(&sample(1, Level::LongTerm, "A party."), None);
        assert!(!texts.own.contains("2023"));
        let vectors = texts.vectors(&Bm25::default(), None);
        assert!(lexical::query("November 2023").dot(&vectors.sparse_self) > 0.0);
        assert_eq!((vectors.dense_self, vectors.dense_ctx), (None, None));
    }

    #[test]
    fn the_question_before_is_found_through_the_answer() {
        let answer = sample(2, Level::LongTerm, "Yes, last Tuesday!");
        let vectors = index_texts(&answer, Some(&sample(1, Level::LongTerm, "Did you buy a violin?")))
            .vectors(&Bm25::default(), None);
        let query = lexical::query("violin");
        assert!(query.dot(&vectors.sparse_ctx) > 0.0);
        assert!(query.dot(&vectors.sparse_self).abs() < f32::EPSILON);
    }
}
