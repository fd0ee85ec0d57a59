//! Vectors that contexts lack: they were stored while the embedding was down, or the model has changed since.
//!
//! What is to be done is asked of the store each time and never remembered beside it, so an interruption at any moment costs a batch
//! at most, and several sidecars of one agent find what the others have left. Batches are picked at random, so that they rarely pick
//! the same. A context whose text the embedding API refuses is passed over until the next start.
//!
//! Looked after are the agent's own memory, the shared spaces that its access rules name, and what it has written to last. Each step is
//! about one memory, so that who changes the model never waits for all of them.

use std::{
    collections::HashSet,
    iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use context_manager_memory::{
    Context, ContextId,
    index_text::{IndexTexts, index_texts},
};
use context_manager_protocol::{config::SidecarConfig, message};
use rand::seq::SliceRandom as _;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{Error, Inner, Part, embedding::Embedding, locks::Key, now};
use crate::{
    metrics::ReEmbedding as Metrics,
    ports::{
        Embedder, embedder,
        vector_store::{Dense, Model, NewDense, Owner, Point, Selection, Validity},
    },
    refusal::chain,
};

/// Contexts of one read of the store.
const PAGE: usize = 128;
/// Contexts that get their vectors at once.
const BATCH: usize = 32;
/// Contexts whose former vectors are dropped at once.
const DROPPED_AT_ONCE: usize = 500;
/// Most contexts that are passed over; further ones are tried again and again.
const MOST_REFUSED: usize = 10_000;
/// Most memories that are looked after because they were written to. Names of spaces cost nothing, and each memory takes three calls of
/// the store at each look.
const MOST_VISITED: usize = 256;
/// What an API answers when it does not take a text: too long, or not to its liking.
const STATUS_OF_REFUSED_TEXTS: [u16; 3] = [400, 413, 422];

/// How far it is.
#[derive(Default)]
pub(super) struct ReEmbedding {
    state: Mutex<State>,
    expected: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Whether what is missing was counted since the model last changed. Before that nobody may take it for nothing.
    counted: bool,
    /// A place stays the same memory's until another one takes it.
    memories: Vec<Memory>,
    /// Which of them the next batch is of.
    current: usize,
    /// How often any of them was written to.
    visits: u64,
    refused: HashSet<ContextId>,
    /// Whether this pass over the memories drops what former models have made.
    drops: bool,
}

/// The contexts of one owner.
struct Memory {
    owner: Owner,
    /// Whether it is looked after for good, and not only because it was written to.
    is_kept: bool,
    /// Which of all writes was the last one to it.
    visited: u64,
    contexts: usize,
    missing: usize,
    /// Where the next batch is looked for; before it there is nothing left to do.
    from: Option<ContextId>,
    /// Whether this pass over the contexts has had something to do.
    worked: bool,
    /// Whether the former models' vectors were dropped since the model last changed.
    dropped: bool,
}

impl Memory {
    const fn new(owner: Owner, visited: u64) -> Self {
        Self { owner, is_kept: false, visited, contexts: 0, missing: 0, from: None, worked: false, dropped: false }
    }
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

impl ReEmbedding {
    /// Looks after the contexts of an owner that is written to. A new one has its turn at the next look, and causes none: there can be
    /// many of them.
    pub(super) fn visit(&self, owner: &Owner) {
        self.state().visit(owner);
    }

    /// Looks after these owners' contexts for good, and after others only for as long as they are written to.
    fn keep(&self, owners: &[Owner]) {
        self.state().keep(owners);
        self.expect();
    }

    /// Says that a context was stored without vectors.
    pub(super) fn expect(&self) {
        self.expected.notify_one();
    }

    /// Says that so many contexts of an owner are being stored without vectors. They count as lacking them at once, not when they are
    /// next counted: until they have theirs, answers are worse for it.
    pub(super) fn lack(&self, owner: &Owner, contexts: usize) {
        let mut state = self.state();
        state.visit(owner);
        if let Some(memory) = state.of(owner) {
            memory.contexts += contexts;
            memory.missing += contexts;
        }
        if matches!(state.phase, Phase::Unknown | Phase::Complete { .. }) {
            state.phase = Phase::Running;
        }
        drop(state);
        self.expect();
    }

    /// Returns when [`expect`](Self::expect) was called.
    pub(super) async fn expected(&self) {
        self.expected.notified().await;
    }

    /// Whether contexts lack vectors that they can have, as far as is known; before it was counted they may.
    pub(super) fn is_incomplete(&self) -> bool {
        let state = self.state();
        !state.counted || state.missing() > state.refused.len()
    }

    /// For the health page, if there is something to say.
    pub(super) fn part(&self, model: &str) -> Option<Part> {
        let state = self.state();
        let (contexts, missing) = (state.contexts(), state.missing());
        let left = missing.saturating_sub(state.refused.len());
        if !state.counted {
            let detail = format!("it is not known yet how many contexts have vectors of {model}");
            return Some(Part { name: "re_embedding", ready: true, degraded: true, detail });
        }
        if missing == 0 {
            return None;
        }
        let done = contexts.saturating_sub(missing);
        let rest = if left > 0 { "; the others are found by their words until they have theirs" } else { "" };
        let refused = match state.refused.len() {
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
    pub(super) fn figures(&self) -> Option<message::ReEmbedding> {
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
            refused: state.refused.len(),
        })
    }

    /// Forgets all: the model has changed.
    fn begin_anew(&self) {
        let mut state = self.state();
        let visits = state.visits;
        let anew = |Memory { owner, is_kept, visited, .. }: Memory| Memory { is_kept, ..Memory::new(owner, visited) };
        let memories = mem::take(&mut state.memories).into_iter().map(anew).collect();
        *state = State { memories, visits, ..State::default() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn contexts(&self) -> usize {
        self.memories.iter().map(|memory| memory.contexts).sum()
    }

    fn missing(&self) -> usize {
        self.memories.iter().map(|memory| memory.missing).sum()
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

    fn show(&self, metrics: &Metrics) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (contexts, missing) = (self.contexts(), self.missing());
        metrics.contexts.set(number(contexts));
        metrics.done.set(number(contexts.saturating_sub(missing)));
        metrics.refused.set(number(self.refused.len()));
        metrics.state.set(match self.phase {
            Phase::Waiting(_) => 2,
            _ if !self.counted => 3,
            Phase::Unknown | Phase::Complete { .. } => 0,
            Phase::Running => 1,
        });
    }
}

/// What is done next.
enum Next {
    /// These get their vectors; they are one owner's.
    Embed(Owner, Vec<Context>),
    /// Nothing on this page; look at the next one.
    Look,
    /// Nothing is left.
    Rest,
}

impl Inner {
    /// Gives some contexts their vectors. Says how long to wait before the next call, which keeps the average rate; `None` is the end
    /// for now.
    pub(super) async fn embed_missing(&self) -> Result<Option<Duration>, Error> {
        if self.pending.is_active() {
            // The store is away or is catching up; it is left in peace.
            return Ok(Some(Duration::from_secs(1)));
        }
        let worked = self.embed_some().await;
        match &worked {
            Ok(_) => {}
            Err(error) => self.note(|state| state.phase = Phase::Waiting(error.to_string())),
        }
        worked
    }

    async fn embed_some(&self) -> Result<Option<Duration>, Error> {
        let since = Instant::now();
        let (owner, contexts) = match self.choose().await? {
            Next::Embed(owner, contexts) => (owner, contexts),
            Next::Look => return Ok(Some(Duration::ZERO)),
            Next::Rest => return Ok(self.rest()),
        };
        let embedding = self.embedding.load_full();
        let tried = contexts.len();
        let added = self.embed(&embedding, &owner, contexts).await?;
        let pause = embedding.pause_after(tried).saturating_sub(since.elapsed());
        let contexts = u32::try_from(added).map_or(f64::MAX, f64::from);
        let rate = contexts / (since.elapsed() + pause).as_secs_f64().max(f64::EPSILON);
        let metrics = &self.metrics.re_embedding;
        metrics.rate.set(rate);
        metrics.embedded.inc_by(added as u64);
        self.note(|state| {
            state.phase = Phase::Running;
            state.drops = false;
            if let Some(memory) = state.of(&owner) {
                memory.missing = memory.missing.saturating_sub(added);
            }
        });
        Ok(Some(pause))
    }

    async fn choose(&self) -> Result<Next, Error> {
        let (owner, from) = {
            let state = self.re_embedding.state();
            let Some(memory) = state.memories.get(state.current) else { return Ok(Next::Rest) };
            (memory.owner.clone(), memory.from)
        };
        let page = self.store_health.note(self.store.list(missing(owner.clone()), from, PAGE).await)?;
        {
            let mut state = self.re_embedding.state();
            let mut contexts: Vec<Context> =
                page.contexts.into_iter().filter(|context| !state.refused.contains(&context.id)).collect();
            let Some(memory) = state.of(&owner) else { return Ok(Next::Look) };
            if !contexts.is_empty() {
                memory.worked = true;
                drop(state);
                let (picked, _) = contexts.partial_shuffle(&mut rand::rng(), BATCH);
                return Ok(Next::Embed(owner, picked.to_vec()));
            }
            memory.from = page.next;
            // At the end it begins again, because something may have come since; a pass without any work was the last one.
            if page.next.is_some() || mem::take(&mut memory.worked) {
                return Ok(Next::Look);
            }
        }
        self.go_on_from(&owner).await
    }

    /// An owner's contexts have what they can have; the next owner's are looked at.
    async fn go_on_from(&self, owner: &Owner) -> Result<Next, Error> {
        self.count_missing(owner).await?;
        if self.drops_former_of(owner) {
            let dropped = self.store.drop_former_vectors(owner, DROPPED_AT_ONCE).await;
            let dropped = self.store_health.note(dropped)?;
            self.metrics.re_embedding.dropped.inc_by(dropped as u64);
            if dropped >= DROPPED_AT_ONCE {
                return Ok(Next::Look);
            }
        }
        let mut state = self.re_embedding.state();
        let (refused, drops) = (state.refused.len(), state.drops);
        if let Some(memory) = state.of(owner) {
            // What is counted and was not found is no context, or has come just now and is found by the next look.
            memory.missing = memory.missing.min(refused);
            memory.dropped |= drops;
        }
        state.current = (state.current + 1) % state.memories.len().max(1);
        Ok(if state.current == 0 { Next::Rest } else { Next::Look })
    }

    fn drops_former_of(&self, owner: &Owner) -> bool {
        let mut state = self.re_embedding.state();
        state.drops && state.of(owner).is_some_and(|memory| !memory.dropped)
    }

    /// All that can have vectors do. What former models have made goes after a while, by another pass in which nothing is missing.
    fn rest(&self) -> Option<Duration> {
        let keeps_former_for = self.embedding.load().keeps_former_for();
        let mut state = self.re_embedding.state();
        let since = match state.phase {
            Phase::Complete { since } => since,
            Phase::Unknown | Phase::Running | Phase::Waiting(_) => Instant::now(),
        };
        state.counted = true;
        state.phase = Phase::Complete { since };
        state.drops = since.elapsed() >= keeps_former_for && state.memories.iter().any(|memory| !memory.dropped);
        state.show(&self.metrics.re_embedding);
        state.drops.then_some(Duration::ZERO)
    }

    /// Counts what there is to do.
    pub(super) async fn survey(&self) -> Result<(), Error> {
        for owner in self.looked_after() {
            self.count_missing(&owner).await?;
        }
        self.note(|state| {
            state.counted = true;
            let is_idle = matches!(state.phase, Phase::Unknown | Phase::Complete { .. });
            if state.missing() > state.refused.len() && is_idle {
                state.phase = Phase::Running;
            }
        });
        Ok(())
    }

    async fn count_missing(&self, owner: &Owner) -> Result<(), Error> {
        let missing = missing(owner.clone());
        let all = Selection { dense: Dense::Any, ..missing.clone() };
        let missing = self.store_health.note(self.store.count(missing).await)?;
        let contexts = self.store_health.note(self.store.count(all).await)?;
        self.note(|state| {
            if let Some(memory) = state.of(owner) {
                (memory.contexts, memory.missing) = (contexts, missing);
            }
        });
        Ok(())
    }

    /// Looks after what the agent has and shares.
    pub(super) fn look_after_memories(&self) {
        let owners: Vec<Owner> = iter::once(self.owner.clone()).chain(self.access.load().spaces()).collect();
        self.re_embedding.keep(&owners);
    }

    /// Whose contexts those are.
    pub(super) fn looked_after(&self) -> Vec<Owner> {
        self.re_embedding.state().memories.iter().map(|memory| memory.owner.clone()).collect()
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.re_embedding.state();
        change(&mut state);
        state.show(&self.metrics.re_embedding);
    }

    /// Gives these contexts their vectors, one by one if the API refuses some of the texts. Says how many got theirs.
    async fn embed(&self, embedding: &Embedding, owner: &Owner, contexts: Vec<Context>) -> Result<usize, Error> {
        let mut texts = Vec::with_capacity(contexts.len());
        for context in &contexts {
            texts.push(index_texts(context, self.previous(context).await?.as_ref()));
        }
        match embedding.documents(&texts).await {
            Ok(dense) => return self.add_vectors(owner, &contexts, &texts, dense).await,
            Err(error) if !is_about_a_text(&error) => return Err(Error::Embedding(error)),
            Err(_) => {}
        }
        let mut added = 0;
        for (context, texts) in contexts.iter().zip(&texts) {
            let (one, texts) = (std::slice::from_ref(context), std::slice::from_ref::<IndexTexts>(texts));
            match embedding.documents(texts).await {
                Ok(dense) => added += self.add_vectors(owner, one, texts, dense).await?,
                Err(error) if is_about_a_text(&error) => self.pass_over(context.id, &error),
                Err(error) => return Err(Error::Embedding(error)),
            }
        }
        Ok(added)
    }

    fn pass_over(&self, id: ContextId, error: &embedder::Error) {
        warn!(context.id = %id, error = chain(error), "The embedding API refuses a context's text; it is found by its words");
        self.note(|state| {
            if state.refused.len() < MOST_REFUSED {
                state.refused.insert(id);
            }
        });
    }

    async fn add_vectors(
        &self,
        owner: &Owner,
        contexts: &[Context],
        texts: &[IndexTexts],
        dense: Vec<(Vec<f32>, Vec<f32>)>,
    ) -> Result<usize, Error> {
        let mut keys: Vec<Key<'_>> = contexts.iter().map(|context| Key::Context(context.id)).collect();
        keys.extend(contexts.iter().filter_map(|context| context.session.as_ref()).map(Key::Session));
        let _held = self.locks.hold(keys).await;
        let ids = contexts.iter().map(|context| context.id).collect();
        let current = self.store_health.note(self.store.get(owner, ids, now()).await)?;
        let mut new = Vec::with_capacity(current.len());
        for Point { context, vectors } in current {
            let embedded = contexts.iter().zip(texts).zip(&dense).find(|((old, _), _)| old.id == context.id);
            let Some(((_, texts), (own, with_previous))) = embedded else { continue };
            // It or the one before it was changed meanwhile; the next turn sees what they are now.
            if index_texts(&context, self.previous(&context).await?.as_ref()) != *texts {
                continue;
            }
            let (id, version) = (context.id, context.version);
            let dense = NewDense { id, version, own: own.clone(), with_previous: with_previous.clone() };
            new.push((dense, context, vectors));
        }
        let written = new.iter().map(|(dense, ..)| dense.clone()).collect();
        self.store_health.note(self.store.set_vectors(owner, written).await)?;
        let added = new.len();
        for (NewDense { own, with_previous, .. }, context, mut vectors) in new {
            (vectors.dense_self, vectors.dense_ctx) = (Some(own), Some(with_previous));
            self.immediate.put(&context, &vectors);
        }
        Ok(added)
    }

    /// From now on vectors are those of this embedder. Nobody may make or compare any meanwhile.
    pub(super) async fn change_model(&self, embedder: Arc<dyn Embedder>, config: &SidecarConfig) -> Result<(), Error> {
        let model = Model { name: embedder.model().to_owned(), dimensions: embedder.dimensions() };
        {
            let _alone = self.models.write().await;
            self.store.switch_model(model.clone()).await?;
            // Before anybody can see the new model: what was counted for the former one says nothing of it.
            self.re_embedding.begin_anew();
            self.embedding.store(Arc::new(Embedding::new(embedder, config)));
            self.immediate.forget_dense();
            self.pending.forget_dense();
        }
        info!(%model, "The embedding model has changed; contexts get new vectors in the background");
        if let Err(error) = self.survey().await {
            warn!(error = chain(&error), "Not known yet how many contexts need new vectors");
        }
        self.re_embedding.expect();
        Ok(())
    }
}

/// Earlier versions are searched as well, so they get vectors as well.
fn missing(owner: Owner) -> Selection {
    Selection { dense: Dense::Missing, validity: Validity::Any, ..Selection::alive(owner, now()) }
}

/// Whether the API would take other texts.
fn is_about_a_text(error: &embedder::Error) -> bool {
    matches!(error, embedder::Error::Refused { status } if STATUS_OF_REFUSED_TEXTS.contains(status))
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{SpaceId, TenantId};

    use super::*;

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
        re_embedding.state().phase = Phase::Waiting("the store is away".to_owned());
        assert_eq!(state(), Some(message::ReEmbeddingState::Waiting));
    }

    #[tokio::test]
    async fn of_many_memories_that_are_written_to_the_last_ones_are_looked_after_and_none_causes_a_look() {
        let tenant = TenantId::new("t").expect("a name");
        let space = |name: &str| Owner::new(tenant.clone(), SpaceId::new(name).expect("a name"));
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
