//! Vectors that contexts lack: they were stored while the embedding was down, or the model has changed since.
//!
//! What is to be done is asked of the store each time and never remembered beside it, so an interruption at any moment costs a batch
//! at most, and several sidecars of one agent find what the others have left. Batches are picked at random, so that they rarely pick
//! the same.
//!
//! What the embedding API does not take may be too long. So a context whose text it takes alone, but not with the previous one's before it,
//! is found by its own text, and one whose text is too long by the beginning of it, as if that were all. Halves are tried until they are
//! short enough for any model; then it is not the length, and the text is passed over until the next start.
//!
//! Looked after are the agent's own memory, the shared spaces that its access rules name, and what it has written to last. Each step is
//! about one memory, so that who changes the model never waits for all of them.

use std::{
    iter, slice,
    sync::Arc,
    time::{Duration, Instant},
};

use context_manager_memory::{
    Context,
    index_text::{IndexTexts, index_texts},
};
use context_manager_protocol::config::SidecarConfig;
use rand::seq::SliceRandom as _;
use tracing::{info, warn};

use super::{
    Error, Inner,
    embedding::{Dense as Vectors, Embedding},
    locks::Key,
    now,
};
use crate::{
    aside::aside,
    ports::{
        Embedder, embedder,
        vector_store::{Dense, Model, NewDense, Owner, Point, Selection, Validity},
    },
    refusal::chain,
};

mod progress;

pub(super) use progress::ReEmbedding;
use progress::{Page, State};

/// Contexts of one read of the store.
const PAGE: usize = 128;
/// Contexts that get their vectors at once.
const BATCH: usize = 32;
/// Contexts whose former vectors are dropped at once.
const DROPPED_AT_ONCE: usize = 500;
/// A text of so many bytes is too long for no model: even with a token for each byte it fits in the smallest windows, of 256 tokens.
const SHORT_BYTES: usize = 128;
/// What an API answers when it does not take a text: too long, or not to its liking.
const STATUS_OF_REFUSED_TEXTS: [u16; 3] = [400, 413, 422];

/// What became of a batch.
struct Embedded {
    /// How many contexts got their vectors.
    added: usize,
    /// How many were sent, each as often as something was sent for it.
    sent: usize,
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
            Err(error) => self.note(|state| state.wait(error.to_string())),
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
        let Embedded { added, sent } = self.embed(&embedding, &owner, contexts).await?;
        let pause = embedding.pause_after(sent).saturating_sub(since.elapsed());
        let contexts = u32::try_from(added).map_or(f64::MAX, f64::from);
        let rate = contexts / (since.elapsed() + pause).as_secs_f64().max(f64::EPSILON);
        let metrics = &self.metrics.re_embedding;
        metrics.rate.set(rate);
        metrics.embedded.inc_by(added as u64);
        self.note(|state| state.embedded(&owner, added));
        Ok(Some(pause))
    }

    async fn choose(&self) -> Result<Next, Error> {
        let Some((owner, from)) = self.re_embedding.state().turn() else { return Ok(Next::Rest) };
        let page = self.store_health.note(self.store.list(missing(owner.clone()), from, PAGE).await)?;
        let bytes = page.contexts.iter().map(|context| context.text.len()).sum();
        let with_text = |context: Context| {
            let text = self.re_embedding.text_of(&context);
            (context, text)
        };
        let contexts = aside(bytes, || page.contexts.into_iter().map(with_text).collect());
        let page = self.re_embedding.state().page(&owner, contexts, page.next);
        match page {
            Page::Work(mut contexts) => {
                let (picked, _) = contexts.partial_shuffle(&mut rand::rng(), BATCH);
                Ok(Next::Embed(owner, picked.to_vec()))
            }
            Page::Through => Ok(Next::Look),
            Page::Last => self.go_on_from(&owner).await,
        }
    }

    /// An owner's contexts have what they can have; the next owner's are looked at.
    async fn go_on_from(&self, owner: &Owner) -> Result<Next, Error> {
        self.count_missing(owner).await?;
        let drops = self.re_embedding.state().drops_former_of(owner);
        if drops {
            let dropped = self.store.drop_former_vectors(owner, DROPPED_AT_ONCE).await;
            let dropped = self.store_health.note(dropped)?;
            self.metrics.re_embedding.dropped.inc_by(dropped as u64);
            if dropped >= DROPPED_AT_ONCE {
                return Ok(Next::Look);
            }
        }
        let is_over = self.re_embedding.state().end_turn(owner);
        Ok(if is_over { Next::Rest } else { Next::Look })
    }

    /// All that can have vectors do.
    fn rest(&self) -> Option<Duration> {
        let keeps_former_for = self.embedding.load().keeps_former_for();
        let mut goes_on = false;
        self.note(|state| goes_on = state.rest(keeps_former_for));
        goes_on.then_some(Duration::ZERO)
    }

    /// Counts what there is to do.
    pub(super) async fn survey(&self) -> Result<(), Error> {
        for owner in self.looked_after() {
            self.count_missing(&owner).await?;
        }
        self.note(State::all_counted);
        Ok(())
    }

    async fn count_missing(&self, owner: &Owner) -> Result<(), Error> {
        let missing = missing(owner.clone());
        let all = Selection { dense: Dense::Any, ..missing.clone() };
        let missing = self.store_health.note(self.store.count(missing).await)?;
        let contexts = self.store_health.note(self.store.count(all).await)?;
        self.note(|state| state.count(owner, contexts, missing));
        Ok(())
    }

    /// Looks after what the agent has and shares.
    pub(super) fn look_after_memories(&self) {
        let owners: Vec<Owner> = iter::once(self.owner.clone()).chain(self.access.load().spaces()).collect();
        self.re_embedding.keep(&owners);
    }

    /// Whose contexts those are.
    pub(super) fn looked_after(&self) -> Vec<Owner> {
        self.re_embedding.state().owners()
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.re_embedding.state();
        change(&mut state);
        state.show(&self.metrics.re_embedding);
    }

    /// Gives these contexts their vectors, one by one if the API refuses some of the texts. That may take long, so it is broken off for
    /// another model, for which all is to be done anew.
    async fn embed(&self, embedding: &Embedding, owner: &Owner, contexts: Vec<Context>) -> Result<Embedded, Error> {
        let mut texts = Vec::with_capacity(contexts.len());
        for context in &contexts {
            texts.push(index_texts(context, self.previous(context).await?.as_ref()));
        }
        let mut embedded = Embedded { added: 0, sent: contexts.len() };
        match embedding.documents(&texts).await {
            Ok(dense) => {
                embedded.added = self.add_vectors(owner, &contexts, &texts, dense).await?;
                return Ok(embedded);
            }
            Err(error) if !is_about_a_text(&error) => return Err(Error::Embedding(error)),
            Err(_) => {}
        }
        for (context, texts) in contexts.iter().zip(&texts) {
            if self.model_is_to_change() {
                break;
            }
            let (dense, sent) = self.as_much_as_it_takes(embedding, texts).await;
            embedded.sent += sent;
            match dense {
                Ok(dense) => {
                    let (context, texts) = (slice::from_ref(context), slice::from_ref(texts));
                    embedded.added += self.add_vectors(owner, context, texts, vec![dense]).await?;
                }
                Err(error) if !is_about_a_text(&error) => return Err(Error::Embedding(error)),
                // Perhaps not all was tried.
                Err(_) if self.model_is_to_change() => break,
                Err(error) => self.pass_over(owner, context, error)?,
            }
        }
        Ok(embedded)
    }

    /// The vectors of one context, by as much of its texts as the API takes, and how often something was sent for it.
    async fn as_much_as_it_takes(
        &self,
        embedding: &Embedding,
        texts: &IndexTexts,
    ) -> (Result<Vectors, embedder::Error>, usize) {
        let whole = embedding.documents(slice::from_ref(texts)).await;
        let mut dense =
            whole.and_then(|mut vectors| vectors.pop().ok_or(embedder::Error::Count { expected: 1, actual: 0 }));
        let mut sent = 1;
        for text in shorter(texts) {
            if !dense.as_ref().is_err_and(is_about_a_text) || self.model_is_to_change() {
                break;
            }
            dense = embedding.document(text).await;
            sent += 1;
        }
        (dense, sent)
    }

    /// Whether a change of the model waits for this, and all searches and writes wait behind it: it lets nobody past.
    fn model_is_to_change(&self) -> bool {
        self.models.try_read().is_err()
    }

    fn pass_over(&self, owner: &Owner, context: &Context, error: embedder::Error) -> Result<(), Error> {
        let (mut is_noted, text) = (false, self.re_embedding.text_of(context));
        self.note(|state| is_noted = state.refuse(owner, text));
        if !is_noted {
            return Err(Error::Embedding(error));
        }
        let error = chain(&error);
        warn!(context.id = %context.id, error, "The embedding API refuses a context's text; it is found by its words");
        Ok(())
    }

    async fn add_vectors(
        &self,
        owner: &Owner,
        contexts: &[Context],
        texts: &[IndexTexts],
        dense: Vec<Vectors>,
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

/// What may stand for a context's texts when they are too long: its own text, then the beginning of that, half as long each time.
fn shorter(texts: &IndexTexts) -> Vec<&str> {
    let own = texts.own.as_str();
    let alone = (texts.own != texts.with_previous).then_some(own);
    alone.into_iter().chain(iter::successors(half(own), |&text| half(text))).collect()
}

fn half(text: &str) -> Option<&str> {
    if text.len() > SHORT_BYTES { text.get(..text.floor_char_boundary(text.len() / 2)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(own: &str, with_previous: &str) -> IndexTexts {
        IndexTexts { own: own.to_owned(), with_previous: with_previous.to_owned(), date: String::new() }
    }

    #[test]
    fn a_text_that_is_refused_is_tried_alone_and_then_by_a_few_of_its_beginnings() {
        let long = "ü".repeat(32 << 10);
        let both = format!("before\n{long}");
        let refused = texts(&long, &both);
        let tried = shorter(&refused);
        assert_eq!(tried[0], long);
        assert!(
            tried.iter().all(|text| long.starts_with(text))
                && tried.windows(2).all(|pair| pair[1].len() < pair[0].len())
        );
        assert!(tried.len() <= 11 && tried.last().is_some_and(|text| text.len() <= SHORT_BYTES), "{}", tried.len());

        assert_eq!(shorter(&texts("short", "before\nshort")), ["short"]);
        assert!(shorter(&texts("short", "short")).is_empty(), "that was what is refused");
    }
}
