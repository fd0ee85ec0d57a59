//! How far the contexts of each memory are with their vectors: whose turn it is, what is left, and which texts the embedding API refuses.
//! Nothing here asks a store or the API.
//!
//! A refused text is remembered by its hash, so a context whose text changes is tried again, and what is deleted is forgotten by the
//! next round.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use context_manager_memory::{Context, ContextId, index_text::index_texts};
use context_manager_protocol::message;
use tokio::sync::Notify;

use crate::{engine::Part, metrics::ReEmbedding as Metrics, ports::vector_store::Owner};

/// Most texts that are passed over. Of an API that refuses more, it is not the texts.
const MOST_REFUSED: usize = 100_000;
/// Most memories that are looked after because they were written to. Names of spaces cost nothing, and each memory takes three calls of
/// the store at each look.
const MOST_VISITED: usize = 256;

/// How far it is.
#[derive(Default)]
pub(in crate::engine) struct ReEmbedding {
    state: Mutex<State>,
    expected: Notify,
    hasher: RandomState,
}

#[derive(Default)]
pub(super) struct State {
    phase: Phase,
    /// Whether what is missing was counted since the model last changed. Before that nobody may take it for nothing.
    counted: bool,
    /// A place stays the same memory's until another one takes it.
    memories: Vec<Memory>,
    /// Which of them the next batch is of.
    current: usize,
    /// How often any of them was written to.
    visits: u64,
    refused: Refused,
    /// Whether this pass over the memories drops what former models have made.
    drops: bool,
}

/// The contexts of one owner.
#[expect(clippy::struct_excessive_bools, reason = "each is known by itself")]
struct Memory {
    owner: Owner,
    /// Whether it is looked after for good, and not only because it was written to.
    is_kept: bool,
    /// Which of all writes was the last one to it.
    visited: u64,
    contexts: usize,
    missing: usize,
    /// How many of those that lack vectors have a text that the API refuses.
    refused: usize,
    /// How many of them this pass over the contexts has met so far.
    passed_over: usize,
    /// Where the next batch is looked for; before it there is nothing left to do.
    from: Option<ContextId>,
    /// Whether this pass over the contexts has had something to do.
    worked: bool,
    /// Whether contexts without vectors have come since this pass began, or after it: it may not have met them.
    came: bool,
    /// Whether the former models' vectors were dropped since the model last changed.
    dropped: bool,
}

impl Memory {
    const fn new(owner: Owner, visited: u64) -> Self {
        Self {
            owner,
            is_kept: false,
            visited,
            contexts: 0,
            missing: 0,
            refused: 0,
            passed_over: 0,
            from: None,
            worked: false,
            came: false,
            dropped: false,
        }
    }

    /// How many contexts lack vectors that they can have.
    const fn left(&self) -> usize {
        self.missing.saturating_sub(self.refused)
    }
}

/// Texts that the API refuses.
#[derive(Default)]
struct Refused {
    texts: HashSet<u64>,
    /// Those of them that this round over the memories has met.
    met: HashSet<u64>,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    Running,
    /// Why it does not go on.
    Waiting(String),
    Complete {
        since: Instant,
    },
}

/// What a page of contexts without vectors says.
pub(super) enum Page {
    /// These get theirs.
    Work(Vec<Context>),
    /// Nothing is to be done on it; another page is looked at.
    Through,
    /// The owner's contexts have what they can have.
    Last,
}

impl ReEmbedding {
    /// Looks after the contexts of an owner that is written to. A new one has its turn at the next look, and causes none: there can be
    /// many of them.
    pub(in crate::engine) fn visit(&self, owner: &Owner) {
        self.state().visit(owner);
    }

    /// Looks after these owners' contexts for good, and after others only for as long as they are written to.
    pub(super) fn keep(&self, owners: &[Owner]) {
        self.state().keep(owners);
        self.expect();
    }

    /// Says that a context was stored without vectors.
    pub(super) fn expect(&self) {
        self.expected.notify_one();
    }

    /// Says that so many contexts of an owner are being stored without vectors. They count as lacking them at once, not when they are
    /// next counted: until they have theirs, answers are worse for it.
    pub(in crate::engine) fn lack(&self, owner: &Owner, contexts: usize) {
        let mut state = self.state();
        state.visit(owner);
        if let Some(memory) = state.of(owner) {
            memory.contexts += contexts;
            memory.missing += contexts;
        }
        state.go_on();
        drop(state);
        self.expect();
    }

    /// Says that so many contexts of an owner are in the store now without vectors: a look that began before says nothing of them.
    pub(in crate::engine) fn are_there(&self, owner: &Owner, contexts: usize) {
        let mut state = self.state();
        if let Some(memory) = state.of(owner) {
            memory.missing = memory.missing.max(memory.refused + contexts);
            memory.contexts = memory.contexts.max(memory.missing);
            memory.came = true;
        }
        state.go_on();
        drop(state);
        self.expect();
    }

    /// Returns when [`expect`](Self::expect) was called.
    pub(in crate::engine) async fn expected(&self) {
        self.expected.notified().await;
    }

    /// Whether contexts lack vectors that they can have, as far as is known; before it was counted they may.
    pub(in crate::engine) fn is_incomplete(&self) -> bool {
        let state = self.state();
        !state.counted || state.left() > 0
    }

    /// For the health page, if there is something to say.
    pub(in crate::engine) fn part(&self, model: &str) -> Option<Part> {
        let state = self.state();
        let (contexts, missing, left) = (state.contexts(), state.missing(), state.left());
        if !state.counted {
            let detail = format!("it is not known yet how many contexts have vectors of {model}");
            return Some(Part { name: "re_embedding", ready: true, degraded: true, detail });
        }
        if missing == 0 {
            return None;
        }
        let done = contexts.saturating_sub(missing);
        let rest = if left > 0 { "; the others are found by their words until they have theirs" } else { "" };
        let refused = match state.refused() {
            0 => String::new(),
            refused => format!("; the embedding API refuses the text of {refused}"),
        };
        let waiting = match &state.phase {
            Phase::Waiting(why) => format!("; waiting: {why}"),
            Phase::Unknown | Phase::Running | Phase::Complete { .. } => String::new(),
        };
        let detail = format!("{done} of {contexts} contexts have vectors of {model}{rest}{refused}{waiting}");
        Some(Part { name: "re_embedding", ready: true, degraded: left > 0, detail })
    }

    /// For the figures, if there is something to say.
    pub(in crate::engine) fn figures(&self) -> Option<message::ReEmbedding> {
        let state = self.state();
        (!state.counted || state.missing() > 0).then(|| message::ReEmbedding {
            state: match state.phase {
                Phase::Waiting(_) => message::ReEmbeddingState::Waiting,
                _ if !state.counted => message::ReEmbeddingState::Unknown,
                Phase::Complete { .. } => message::ReEmbeddingState::Complete,
                Phase::Unknown | Phase::Running => message::ReEmbeddingState::Running,
            },
            contexts: state.contexts(),
            done: state.contexts().saturating_sub(state.missing()),
            refused: state.refused(),
        })
    }

    /// Forgets all: the model has changed.
    pub(super) fn begin_anew(&self) {
        let mut state = self.state();
        let visits = state.visits;
        let anew = |Memory { owner, is_kept, visited, .. }: Memory| Memory { is_kept, ..Memory::new(owner, visited) };
        let memories = mem::take(&mut state.memories).into_iter().map(anew).collect();
        *state = State { memories, visits, ..State::default() };
    }

    /// What is refused of a context when nothing else is sent with it. Not made while the state is held, at which each search looks: texts
    /// are long.
    pub(super) fn text_of(&self, context: &Context) -> u64 {
        self.hasher.hash_one(index_texts(context, None).own)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose contexts are looked after.
    pub(super) fn owners(&self) -> Vec<Owner> {
        self.memories.iter().map(|memory| memory.owner.clone()).collect()
    }

    /// Whose turn it is, and where the next page of theirs begins.
    pub(super) fn turn(&mut self) -> Option<(Owner, Option<ContextId>)> {
        let memory = self.memories.get_mut(self.current)?;
        // A pass that begins meets all that has come before.
        memory.came &= memory.from.is_some();
        Some((memory.owner.clone(), memory.from))
    }

    /// Goes through a page of an owner's contexts without vectors, each with its [text](ReEmbedding::text_of), behind which `next` begins.
    /// Those with a refused text are passed over.
    pub(super) fn page(&mut self, owner: &Owner, contexts: Vec<(Context, u64)>, next: Option<ContextId>) -> Page {
        let found = contexts.len();
        let others = contexts.into_iter().filter(|(_, text)| !self.refused.meet(*text));
        let contexts: Vec<Context> = others.map(|(context, _)| context).collect();
        let passed_over = found - contexts.len();
        let Some(memory) = self.of(owner) else { return Page::Through };
        if !contexts.is_empty() {
            memory.worked = true;
            return Page::Work(contexts);
        }
        memory.from = next;
        memory.passed_over += passed_over;
        if next.is_some() {
            return Page::Through;
        }
        memory.refused = mem::take(&mut memory.passed_over);
        // At the end it begins again, because something may have come since; a pass without any work was the last one.
        if mem::take(&mut memory.worked) { Page::Through } else { Page::Last }
    }

    /// Notes how many contexts an owner has, and how many of them lack vectors.
    pub(super) fn count(&mut self, owner: &Owner, contexts: usize, missing: usize) {
        if let Some(memory) = self.of(owner) {
            // What came meanwhile may not be among them; after the pass that meets it, they are counted anew.
            let least = if memory.came { memory.missing } else { 0 };
            (memory.contexts, memory.missing) = (contexts.max(least), missing.max(least));
            memory.refused = memory.refused.min(memory.missing);
        }
    }

    /// Notes that all was counted.
    pub(super) fn all_counted(&mut self) {
        self.counted = true;
        if self.left() > 0 {
            self.go_on();
        }
    }

    /// Notes that there is something to do.
    fn go_on(&mut self) {
        if matches!(self.phase, Phase::Unknown | Phase::Complete { .. }) {
            self.phase = Phase::Running;
        }
    }

    /// Notes that so many contexts of an owner got their vectors.
    pub(super) fn embedded(&mut self, owner: &Owner, contexts: usize) {
        self.phase = Phase::Running;
        self.drops = false;
        if let Some(memory) = self.of(owner) {
            memory.missing = memory.missing.saturating_sub(contexts);
        }
    }

    /// Notes that the API refuses the [text](ReEmbedding::text_of) of an owner's context, unless it refuses too many.
    pub(super) fn refuse(&mut self, owner: &Owner, text: u64) -> bool {
        let is_noted = self.refused.note(text);
        if let Some(memory) = self.of(owner).filter(|_| is_noted) {
            memory.refused = (memory.refused + 1).min(memory.missing);
        }
        is_noted
    }

    /// Notes why it does not go on.
    pub(super) fn wait(&mut self, why: String) {
        self.phase = Phase::Waiting(why);
    }

    /// Whether an owner's vectors of former models are to be dropped.
    pub(super) fn drops_former_of(&mut self, owner: &Owner) -> bool {
        self.drops && self.of(owner).is_some_and(|memory| !memory.dropped)
    }

    /// Goes on to the next owner. Says whether all have had their turn.
    pub(super) fn end_turn(&mut self, owner: &Owner) -> bool {
        let drops = self.drops;
        if let Some(memory) = self.of(owner) {
            if !memory.came {
                // What is counted and was not found is no context.
                memory.missing = memory.missing.min(memory.refused);
            }
            memory.dropped |= drops;
        }
        self.current = (self.current + 1) % self.memories.len().max(1);
        let is_over = self.current == 0;
        if is_over {
            self.refused.forget_others();
        }
        is_over
    }

    /// All that can have vectors do, but for what has come meanwhile. What former models have made goes after a while, by another pass in
    /// which nothing is missing. Says whether another one begins.
    pub(super) fn rest(&mut self, keeps_former_for: Duration) -> bool {
        self.counted = true;
        if self.memories.iter().any(|memory| memory.came) {
            return true;
        }
        let since = match self.phase {
            Phase::Complete { since } => since,
            Phase::Unknown | Phase::Running | Phase::Waiting(_) => Instant::now(),
        };
        self.phase = Phase::Complete { since };
        self.drops = since.elapsed() >= keeps_former_for && self.memories.iter().any(|memory| !memory.dropped);
        self.drops
    }

    pub(super) fn show(&self, metrics: &Metrics) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (contexts, missing) = (self.contexts(), self.missing());
        metrics.contexts.set(number(contexts));
        metrics.done.set(number(contexts.saturating_sub(missing)));
        metrics.refused.set(number(self.refused()));
        metrics.state.set(match self.phase {
            Phase::Waiting(_) => 2,
            _ if !self.counted => 3,
            Phase::Unknown | Phase::Complete { .. } => 0,
            Phase::Running => 1,
        });
    }

    fn contexts(&self) -> usize {
        self.memories.iter().map(|memory| memory.contexts).sum()
    }

    fn missing(&self) -> usize {
        self.memories.iter().map(|memory| memory.missing).sum()
    }

    fn refused(&self) -> usize {
        self.memories.iter().map(|memory| memory.refused).sum()
    }

    fn left(&self) -> usize {
        self.memories.iter().map(Memory::left).sum()
    }

    /// Notes that an owner was written to. Of too many such owners the one goes that was not for the longest time; one whose contexts
    /// lack vectors only if all do.
    fn visit(&mut self, owner: &Owner) {
        self.visits += 1;
        let visits = self.visits;
        if let Some(memory) = self.of(owner) {
            memory.visited = visits;
            return;
        }
        let new = Memory::new(owner.clone(), visits);
        let visited = self.memories.iter().filter(|memory| !memory.is_kept).count();
        let others = self.memories.iter_mut().filter(|memory| !memory.is_kept);
        match others.min_by_key(|memory| (memory.missing > 0, memory.visited)) {
            Some(oldest) if visited >= MOST_VISITED => *oldest = new,
            Some(_) | None => self.memories.push(new),
        }
    }

    fn keep(&mut self, owners: &[Owner]) {
        for memory in &mut self.memories {
            memory.is_kept = owners.contains(&memory.owner);
        }
        for owner in owners {
            self.visit(owner);
            if let Some(memory) = self.of(owner) {
                memory.is_kept = true;
            }
        }
    }

    fn of(&mut self, owner: &Owner) -> Option<&mut Memory> {
        self.memories.iter_mut().find(|memory| memory.owner == *owner)
    }
}

impl Refused {
    /// Whether a text is one of these.
    fn meet(&mut self, text: u64) -> bool {
        let is_one = self.texts.contains(&text);
        if is_one {
            self.met.insert(text);
        }
        is_one
    }

    /// Notes a text, unless there are too many.
    fn note(&mut self, text: u64) -> bool {
        let is_noted = self.texts.len() < MOST_REFUSED || self.texts.contains(&text);
        if is_noted {
            self.texts.insert(text);
        }
        is_noted
    }

    /// Forgets what the round that has ended did not meet: no context has it any more.
    fn forget_others(&mut self) {
        self.texts = mem::take(&mut self.met);
    }
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, SpaceId, TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn space(name: &str) -> Owner {
        Owner::new(TenantId::new("t").expect("a name"), SpaceId::new(name).expect("a name"))
    }

    fn context(number: u128, text: &str) -> Context {
        let (tenant, agent) = (TenantId::new("t").expect("a name"), AgentId::new("a").expect("a name"));
        let id = ContextId::new(Uuid::from_u128(number));
        Context::new(id, tenant, agent, Level::LongTerm, text, Timestamp::from_millis(0))
    }

    /// One memory that was counted, with these contexts without vectors.
    fn lacking(owner: &Owner, missing: usize) -> ReEmbedding {
        let re_embedding = ReEmbedding::default();
        re_embedding.keep(std::slice::from_ref(owner));
        let mut state = re_embedding.state();
        state.count(owner, 10, missing);
        state.all_counted();
        drop(state);
        re_embedding
    }

    /// The next page of what is missing, which is all.
    fn page(re_embedding: &ReEmbedding, state: &mut State, owner: &Owner, contexts: &[Context]) -> Page {
        let text_of = |context: &Context| (context.clone(), re_embedding.text_of(context));
        state.page(owner, contexts.iter().map(text_of).collect(), None)
    }

    /// Goes through all of an owner's contexts as long as something is to be done, and refuses these texts. Says what got vectors.
    fn go_through(
        re_embedding: &ReEmbedding,
        owner: &Owner,
        contexts: &mut Vec<Context>,
        refused: &[&str],
    ) -> Vec<String> {
        let mut embedded = Vec::new();
        let mut state = re_embedding.state();
        loop {
            assert_eq!(state.turn(), Some((owner.clone(), None)));
            match page(re_embedding, &mut state, owner, contexts) {
                Page::Work(work) => {
                    for context in work {
                        if refused.contains(&context.text.as_str()) {
                            assert!(state.refuse(owner, re_embedding.text_of(&context)), "there is room for it");
                        } else {
                            contexts.retain(|other| other.id != context.id);
                            state.embedded(owner, 1);
                            embedded.push(context.text);
                        }
                    }
                }
                Page::Through => {}
                Page::Last => break,
            }
        }
        state.count(owner, 10, contexts.len());
        assert!(state.end_turn(owner), "there is one memory");
        assert!(!state.rest(Duration::from_mins(1)));
        embedded
    }

    #[test]
    fn what_was_not_counted_yet_is_not_taken_for_complete() {
        let re_embedding = ReEmbedding::default();
        let state = || re_embedding.figures().map(|figures| figures.state);
        assert_eq!(state(), Some(message::ReEmbeddingState::Unknown));
        assert!(re_embedding.is_incomplete() && re_embedding.part("model").is_some_and(|part| part.degraded));
        re_embedding.state().counted = true;
        assert_eq!(state(), None);
        assert!(!re_embedding.is_incomplete() && re_embedding.part("model").is_none());
        re_embedding.begin_anew();
        assert_eq!(state(), Some(message::ReEmbeddingState::Unknown), "the model has changed");
        re_embedding.state().wait("the store is away".to_owned());
        assert_eq!(state(), Some(message::ReEmbeddingState::Waiting));
    }

    #[test]
    fn a_refused_text_is_passed_over_and_another_text_of_the_same_context_is_not() {
        let owner = space("own");
        let mut contexts = vec![context(1, "bad"), context(2, "good"), context(3, "bad")];
        let re_embedding = lacking(&owner, 3);
        assert_eq!(go_through(&re_embedding, &owner, &mut contexts, &["bad"]), ["good"]);
        let figures = re_embedding.figures().expect("something to say");
        assert_eq!((figures.done, figures.refused, re_embedding.is_incomplete()), (8, 2, false));

        // Changed while the API was down.
        contexts[0].text = "short".to_owned();
        re_embedding.lack(&owner, 1);
        assert!(re_embedding.is_incomplete());
        assert_eq!(go_through(&re_embedding, &owner, &mut contexts, &["bad"]), ["short"]);
        let figures = re_embedding.figures().expect("something to say");
        assert_eq!((figures.done, figures.refused), (9, 1));
    }

    #[test]
    fn what_is_deleted_hides_nothing_and_is_forgotten() {
        let owner = space("own");
        let mut contexts = vec![context(1, "bad"), context(2, "worse")];
        let re_embedding = lacking(&owner, 2);
        assert!(go_through(&re_embedding, &owner, &mut contexts, &["bad", "worse"]).is_empty());
        contexts.remove(0);
        re_embedding.state().count(&owner, 9, 1);
        re_embedding.lack(&owner, 1);
        assert!(re_embedding.is_incomplete(), "a deleted one hides what lacks vectors");
        contexts.push(context(3, "good"));
        assert_eq!(go_through(&re_embedding, &owner, &mut contexts, &["bad", "worse"]), ["good"]);
        assert_eq!(re_embedding.figures().map(|figures| figures.refused), Some(1));
        assert_eq!(re_embedding.state().refused.texts.len(), 1, "the deleted one's text");
    }

    #[test]
    fn an_api_that_refuses_everything_is_not_asked_about_each_text() {
        let owner = space("own");
        let re_embedding = lacking(&owner, MOST_REFUSED + 1);
        let mut state = re_embedding.state();
        state.refused.texts.extend(0..MOST_REFUSED as u64);
        assert!(!state.refuse(&owner, MOST_REFUSED as u64), "one more");
        assert_eq!(state.refused.texts.len(), MOST_REFUSED);
    }

    #[test]
    fn what_comes_behind_a_look_is_not_taken_for_done() {
        let (owner, new) = (space("own"), [context(1, "new")]);
        let re_embedding = lacking(&owner, 0);
        let others = space("other");
        re_embedding.visit(&others);
        // Said before the store has it, so a look that this causes finds nothing.
        re_embedding.lack(&owner, 1);
        let mut state = re_embedding.state();
        assert_eq!(state.turn(), Some((owner.clone(), None)));
        assert!(matches!(page(&re_embedding, &mut state, &owner, &[]), Page::Last));
        drop(state);
        re_embedding.are_there(&owner, 1);
        let mut state = re_embedding.state();
        state.count(&owner, 10, 0);
        assert!(!state.end_turn(&owner), "the other memory has its turn");
        assert!(matches!(page(&re_embedding, &mut state, &others, &[]), Page::Last));
        assert!(state.end_turn(&others));
        assert!(state.rest(Duration::from_mins(1)), "another round begins");
        assert!(matches!(state.phase, Phase::Running), "{:?}", state.phase);
        drop(state);
        assert!(re_embedding.is_incomplete() && re_embedding.figures().is_some());

        let mut state = re_embedding.state();
        assert_eq!(state.turn(), Some((owner.clone(), None)));
        assert!(matches!(page(&re_embedding, &mut state, &owner, &new), Page::Work(_)));
        state.embedded(&owner, 1);
        for is_last in [false, true] {
            assert_eq!(state.turn(), Some((owner.clone(), None)));
            assert_eq!(matches!(page(&re_embedding, &mut state, &owner, &[]), Page::Last), is_last);
        }
        state.count(&owner, 11, 0);
        assert!(!state.end_turn(&owner) && state.end_turn(&others));
        assert!(!state.rest(Duration::from_mins(1)), "all is done");
        drop(state);
        assert!(!re_embedding.is_incomplete() && re_embedding.figures().is_none());
    }

    #[tokio::test]
    async fn of_many_memories_that_are_written_to_the_last_ones_are_looked_after_and_none_causes_a_look() {
        let numbered = |number: usize| space(&format!("s{number}"));
        let re_embedding = ReEmbedding::default();
        re_embedding.keep(&[space("own"), space("team")]);
        re_embedding.expected().await;
        re_embedding.lack(&space("lacking"), 1);
        re_embedding.expected().await;
        for number in 0..MOST_VISITED + 50 {
            re_embedding.visit(&numbered(number));
            re_embedding.visit(&numbered(0));
        }
        assert!(futures::poll!(std::pin::pin!(re_embedding.expected())).is_pending());
        let is_there = |owner: Owner| re_embedding.state().of(&owner).is_some();
        assert_eq!(re_embedding.state().memories.len(), 2 + MOST_VISITED);
        assert!([space("own"), space("team"), space("lacking"), numbered(0)].into_iter().all(is_there));
        assert!(!is_there(numbered(1)) && is_there(numbered(MOST_VISITED)));

        // A rule that is gone leaves a memory like others; the places of those that stay are theirs.
        re_embedding.keep(&[space("own")]);
        re_embedding.visit(&space("another"));
        assert!(is_there(space("own")) && !is_there(space("team")) && is_there(space("another")));
        re_embedding.begin_anew();
        assert!(re_embedding.state().of(&space("own")).is_some_and(|memory| memory.is_kept));
    }
}
