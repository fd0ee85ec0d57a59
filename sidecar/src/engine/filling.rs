//! A page of a list, filled some contexts at a time until it has its limit or its bytes.

use context_manager_memory::{Context, ContextId};

use crate::ports::vector_store::Page;

/// Contexts of one read.
const AT_ONCE: usize = 100;
/// Bytes of texts and metadata with which a page ends before its limit. It has one context at least, or nobody would get beyond that.
const PAGE_BYTES: usize = 4 << 20;

/// Reads of one page; it ends there, perhaps with nothing: what waits in the journal can hide any number of contexts.
const READS: usize = 50;

/// A page on its way.
pub(super) struct Filling {
    contexts: Vec<Context>,
    bytes: usize,
    reads: usize,
    limit: usize,
    rest: Rest,
}

/// What is not in the page yet.
enum Rest {
    /// There may be more from this id on, or from the first one.
    From(Option<ContextId>),
    /// It is full, and the next page begins here.
    NextPage(ContextId),
    /// There is nothing more.
    Nothing,
}

impl Filling {
    /// The page of at most `limit` contexts from the id `from` on.
    pub(super) const fn new(from: Option<ContextId>, limit: usize) -> Self {
        Self { contexts: Vec::new(), bytes: 0, reads: 0, limit, rest: Rest::From(from) }
    }

    /// From where the next read goes, and how many contexts it has at most; nothing when the page is done.
    pub(super) fn wants(&self) -> Option<(Option<ContextId>, usize)> {
        match self.rest {
            Rest::From(from) if self.reads < READS => Some((from, AT_ONCE.min(self.limit - self.contexts.len()))),
            Rest::From(_) | Rest::NextPage(_) | Rest::Nothing => None,
        }
    }

    /// Takes what was read.
    pub(super) fn add(&mut self, Page { contexts, next }: Page) {
        self.reads += 1;
        for context in contexts {
            self.bytes += context.written_bytes();
            if self.bytes > PAGE_BYTES && !self.contexts.is_empty() {
                self.rest = Rest::NextPage(context.id);
                return;
            }
            self.contexts.push(context);
        }
        self.rest = match next {
            None => Rest::Nothing,
            Some(next) if self.contexts.len() >= self.limit => Rest::NextPage(next),
            next => Rest::From(next),
        };
    }

    /// The page.
    pub(super) fn page(self) -> Page {
        let next = match self.rest {
            Rest::From(next) => next,
            Rest::NextPage(next) => Some(next),
            Rest::Nothing => None,
        };
        Page { contexts: self.contexts, next }
    }
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn context(number: usize, bytes: usize) -> Context {
        let (id, at) = (ContextId::new(Uuid::from_u128(number as u128)), Timestamp::from_millis(0));
        let (tenant, agent) = (TenantId::new("team-a").expect("a name"), AgentId::new("agent").expect("a name"));
        Context::new(id, tenant, agent, Level::LongTerm, "x".repeat(bytes), at)
    }

    /// All pages of a store that has `all`, each with at most `limit`.
    fn pages(all: &[Context], limit: usize) -> Vec<Vec<Context>> {
        let (mut pages, mut from) = (Vec::new(), None);
        loop {
            let mut filling = Filling::new(from, limit);
            while let Some((from, limit)) = filling.wants() {
                assert!((1..=AT_ONCE).contains(&limit), "{limit} at once");
                let rest: Vec<&Context> =
                    all.iter().filter(|context| from.is_none_or(|from| context.id >= from)).collect();
                let contexts = rest.iter().take(limit).map(|context| (*context).clone()).collect();
                filling.add(Page { contexts, next: rest.get(limit).map(|context| context.id) });
            }
            let page = filling.page();
            pages.push(page.contexts);
            match page.next {
                Some(next) => from = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn a_page_ends_with_its_limit_or_its_bytes_and_the_next_one_goes_on_there() {
        let small: Vec<Context> = (0..250).map(|number| context(number, 10)).collect();
        let lengths = |pages: &[Vec<Context>]| pages.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&pages(&small, 1_000)), [250]);
        assert_eq!(lengths(&pages(&small, 120)), [120, 120, 10]);

        let large: Vec<Context> = (0..150).map(|number| context(number, 64 << 10)).collect();
        let read = pages(&large, 1_000);
        assert!(read.len() > 2, "{:?}", lengths(&read));
        for page in &read {
            assert!(page.iter().map(Context::written_bytes).sum::<usize>() <= PAGE_BYTES);
        }
        assert_eq!(read.concat(), large, "each once and in order");
        let huge = [context(1, PAGE_BYTES + 1), context(2, 1)];
        assert_eq!(lengths(&pages(&huge, 10)), [1, 1], "one is returned whatever it has");
    }

    #[test]
    fn a_page_ends_after_some_reads_of_what_is_hidden_and_the_next_one_goes_on_there() {
        let id = |number: usize| ContextId::new(Uuid::from_u128(number as u128));
        let mut filling = Filling::new(None, 1_000);
        let mut reads = 0;
        while filling.wants().is_some() && reads <= READS {
            reads += 1;
            filling.add(Page { contexts: Vec::new(), next: Some(id(reads)) });
        }
        assert_eq!((reads, filling.page().next), (READS, Some(id(READS))));
    }
}
