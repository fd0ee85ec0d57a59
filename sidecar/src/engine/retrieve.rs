//! Retrieving: candidates of all levels with exact scores, ranked, packed in the token budget.
//!
//! What cannot take part makes the answer worse and is named in `degraded`: without the embedding the words decide, without
//! the store what L1 has in memory, to a query that says nothing the newest answer, and of contexts that have no vectors of the current model yet their words.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use context_manager_memory::{
    ContextId, Leg, Level, PerLevel, QueryVectors, Timestamp,
    budget::{self, Item, Packing},
    frequencies::DocumentFrequencies,
    lexical, local,
    rank::{self, Candidate, QueryFacts, Ranked},
    tokens::Tokenizer,
};
use context_manager_protocol::message::{ContextRequest, ContextResponse, LeftOut, Retrieved};
use tracing::warn;

use super::{
    Error, Inner, convert,
    filter::{self, Wanted},
    immediate::{self, Held},
    newest, now,
    pending::View,
    policy::Policy,
};
use crate::{
    access::Reach,
    aside::aside,
    metrics::{Degradation, Label as _},
    ports::vector_store::{self, Owner, Search},
    refusal::chain,
    telemetry,
};

/// A valid request.
struct Ask {
    query: String,
    budget: usize,
    limit: usize,
    /// One for each memory that is searched.
    wanted: Vec<Wanted>,
    as_of: Option<i64>,
    min_score: Option<f64>,
    explain: bool,
}

/// What may answer.
struct Found {
    candidates: Vec<Candidate>,
    /// Whether the query had no part in it, so that these are the newest.
    is_silent: bool,
    degraded: Vec<Degradation>,
}

/// One look for what may answer.
#[derive(Clone, Copy)]
struct Look<'a> {
    ask: &'a Ask,
    query: &'a QueryVectors,
    /// What waits for the store.
    view: Option<&'a View>,
    now: Timestamp,
}

impl Look<'_> {
    /// Whether it is for what was before: of that the sidecar itself has nothing.
    fn is_past(&self) -> bool {
        self.ask.as_of.is_some()
    }

    /// What is in the store, with what waits for it laid over it.
    fn with_waiting(self, stored: Stored, in_store: &[&Wanted]) -> Vec<Candidate> {
        let Stored { mut candidates, frequencies } = stored;
        let Some(view) = self.view else { return candidates };
        candidates.retain(|candidate| !view.hides(&candidate.context));
        for wanted in in_store {
            let waiting = immediate::waiting(view, wanted, self.now);
            let compared = match frequencies.get(&wanted.owner) {
                Some(frequencies) => local::score_by(self.query, &waiting, frequencies),
                None => local::score(self.query, &waiting),
            };
            candidates.extend(local::best(compared, Search::PER_LEG));
        }
        candidates
    }
}

/// What is to be searched where.
#[derive(Default)]
struct Plan<'a> {
    searches: Vec<Search>,
    /// The memories that L1 answers for by itself.
    in_memory: Vec<&'a Wanted>,
    /// Those that the store answers for.
    in_store: Vec<&'a Wanted>,
}

/// What the store has.
struct Stored {
    candidates: Vec<Candidate>,
    /// The counts that they were scored by, of each memory if writes wait.
    frequencies: HashMap<Owner, DocumentFrequencies>,
}

impl Inner {
    pub(super) async fn retrieve(&self, reaches: &[&Reach], request: ContextRequest) -> Result<ContextResponse, Error> {
        let since = Instant::now();
        let policy = self.policy.load_full();
        let ask = self.understand(reaches, request, &policy)?;
        let Found { candidates, is_silent, degraded } = self.find(&ask).await?;
        // Embedding and store may have taken their time; what expired meanwhile is not returned.
        let now = now();
        let ranking = telemetry::ranking(candidates.len()).entered();
        let bytes = candidates.iter().map(|candidate| candidate.context.text.len()).sum();
        let (ranked, items, packing) = aside(bytes, || {
            let mut ranked = rank::rank(candidates, &QueryFacts::of(&ask.query), &policy.ranking, now);
            if let Some(least) = ask.min_score {
                ranked.retain(|ranked| ranked.score >= least);
            }
            let items: Vec<Item> = ranked
                .iter()
                .map(|ranked| Item { level: ranked.context.level, tokens: policy.tokenizer.tokens_of(&ranked.context) })
                .collect();
            let budget = u32::try_from(ask.budget).unwrap_or(u32::MAX);
            let packing = budget::pack(&items, budget, ask.limit, &policy.shares);
            (ranked, items, packing)
        });
        drop(ranking);
        // What came for want of anything to compare was not asked for.
        if !is_silent {
            self.upkeep.count_accesses(packing.taken.iter().map(|taken| ranked[taken.place].context.as_ref()), now);
        }
        let response = respond(ranked, &items, &packing, &ask, &degraded, (&self.owner, policy.tokenizer));
        for (level, tokens) in &response.tokens_by_level {
            self.metrics.contexts.tokens_returned.add(*level, *tokens as u64);
        }
        for reason in degraded {
            self.metrics.contexts.degraded.add(reason, 1);
        }
        self.metrics.contexts.retrieve_duration.observe(since.elapsed().as_secs_f64());
        Ok(response)
    }

    /// What may answer, before it is ranked.
    async fn find(&self, ask: &Ask) -> Result<Found, Error> {
        let mut degraded = Vec::new();
        let query = self.query_vectors(&ask.query, &mut degraded).await;
        if query.dense.is_some() && self.re_embedding.is_incomplete() {
            degraded.push(Degradation::ReEmbedding);
        }
        let mut is_silent = newest::says_nothing(&query);
        let (is_meant, known) = (query.dense.is_some() && degraded.is_empty(), degraded.clone());
        let mut candidates = self.candidates(ask, query, now(), &mut degraded).await?;
        // No word of it is in memory, and by its meaning it cannot be compared with all: it says as little as one without words.
        if !is_silent && !is_meant && nothing_fits(&candidates) {
            // A store that has just failed is not waited for again: without it all that L1 has is here already.
            if !degraded.contains(&Degradation::Store) {
                degraded = known;
                candidates = self.candidates(ask, QueryVectors::default(), now(), &mut degraded).await?;
            }
            is_silent = !candidates.is_empty();
        }
        if is_silent {
            degraded.push(Degradation::Query);
            newest::by_age(&mut candidates);
        }
        Ok(Found { candidates, is_silent, degraded })
    }

    fn understand(&self, reaches: &[&Reach], request: ContextRequest, policy: &Policy) -> Result<Ask, Error> {
        // Scopes and session are part of what the permissions reach.
        let ContextRequest {
            query,
            token_budget,
            limit,
            levels,
            session: _,
            filter,
            min_score,
            as_of,
            scope: _,
            scopes: _,
            explain,
        } = request;
        self.limits.query(&query)?;
        let budget = match token_budget {
            Some(budget) => self.limits.token_budget(budget)?,
            None => policy.default_token_budget,
        };
        let limit = self.limits.results(limit.unwrap_or(self.limits.results))?;
        if min_score.is_some_and(|score| !score.is_finite()) {
            return Err(Error::field("min_score", "min_score is not a finite number"));
        }
        let metadata = filter::conditions(filter)?;
        self.limits.filter(&metadata)?;
        let mut wanted = Vec::with_capacity(reaches.len());
        for reach in reaches {
            wanted.push(Wanted {
                levels: filter::levels(levels.clone(), reach)?,
                metadata: metadata.clone(),
                validity: filter::validity(as_of),
                ..Wanted::within(reach)
            });
        }
        Ok(Ask { query, budget, limit, wanted, as_of, min_score: min_score.or(policy.min_score), explain })
    }

    async fn query_vectors(&self, text: &str, degraded: &mut Vec<Degradation>) -> QueryVectors {
        let dense = match self.embedding.load_full().query(text).await {
            Ok(vector) => Some(vector.to_vec()),
            Err(error) => {
                warn!(error = chain(&error), "Searched without the embedding");
                degraded.push(Degradation::Embedding);
                None
            }
        };
        QueryVectors { dense, sparse: Some(lexical::query(text)) }
    }

    /// Whether what L1 has is all that there is of the agent's own immediate contexts. In a store that others use as well, replicas of the
    /// agent may have stored more, and deleted some.
    fn knows_all_immediate(&self) -> bool {
        self.immediate.is_complete() && !self.store.is_shared()
    }

    /// What may answer, with scores. Without the store it is what L1 has, but of the past L1 knows nothing.
    async fn candidates(
        &self,
        ask: &Ask,
        query: QueryVectors,
        now: Timestamp,
        degraded: &mut Vec<Degradation>,
    ) -> Result<Vec<Candidate>, Error> {
        // While something waits, the next journaled write copies a view that somebody holds, and a slow store lets searches hold theirs for long.
        let waits = self.pending.is_active() && !self.answers_from_memory(ask);
        let _turn = if waits { self.searches.acquire().await.ok() } else { None };
        let view = self.pending.view();
        let look = Look { ask, query: &query, view: view.as_deref(), now };
        let Plan { searches, mut in_memory, in_store } = self.plan(look);
        if searches.is_empty() {
            return Ok(once_each(self.held(look, &in_memory)));
        }
        match self.store_health.note(self.stored(look, searches, &in_store).await) {
            Ok(stored) if look.is_past() => {
                Ok(without_doubles(once_each(self.past(look, stored.candidates, &in_store))))
            }
            Ok(stored) => {
                let mut candidates = look.with_waiting(stored, &in_store);
                candidates.extend(self.held(look, &in_memory));
                Ok(once_each(candidates))
            }
            Err(error) if look.is_past() => Err(error.into()),
            Err(error) => {
                warn!(error = chain(&error), "Searched without the store");
                degraded.push(Degradation::Store);
                in_memory.extend(in_store);
                Ok(once_each(self.held(look, &in_memory)))
            }
        }
    }

    /// Whether nothing but L1 has a part in the answer.
    fn answers_from_memory(&self, ask: &Ask) -> bool {
        let is_known = |wanted: &Wanted| wanted.owner == self.owner && *wanted.levels == [Level::Immediate];
        ask.as_of.is_none() && self.knows_all_immediate() && ask.wanted.iter().all(is_known)
    }

    /// What is to be searched where; nobody is asked yet.
    ///
    /// The immediate level is searched apart from the others, so that a floor of the budget for it can be filled whatever the best of each
    /// leg are elsewhere. The store scores both, so that the scores can be compared.
    fn plan<'a>(&self, look: Look<'a>) -> Plan<'a> {
        let mut plan = Plan::default();
        for wanted in &look.ask.wanted {
            let (fresh, stored): (Vec<Level>, Vec<Level>) =
                wanted.levels.iter().partition(|level| **level == Level::Immediate);
            let is_known = !look.is_past() && wanted.owner == self.owner && self.knows_all_immediate();
            if stored.is_empty() && is_known {
                plan.in_memory.push(wanted);
                continue;
            }
            plan.in_store.push(wanted);
            // What L1 knows not to be there is not searched for.
            let nothing_fresh = is_known && self.immediate.matching(wanted, look.now).is_empty();
            let fresh = if nothing_fresh { Vec::new() } else { fresh };
            let searched = [fresh, stored].into_iter().filter(|levels| !levels.is_empty());
            plan.searches.extend(searched.map(|levels| Search {
                query: look.query.clone(),
                selection: wanted.selection(levels, look.now),
                per_leg: Search::PER_LEG,
                frequencies: None,
            }));
        }
        plan
    }

    /// What L1 has, and what waits for the store.
    fn held(&self, look: Look<'_>, wanted: &[&Wanted]) -> Vec<Candidate> {
        let of = |wanted: &&Wanted| self.immediate.candidates(look.query, wanted, look.view, look.now);
        wanted.iter().flat_map(of).collect()
    }

    /// What the store has.
    async fn stored(
        &self,
        look: Look<'_>,
        mut searches: Vec<Search>,
        in_store: &[&Wanted],
    ) -> Result<Stored, vector_store::Error> {
        if newest::says_nothing(look.query) {
            return Ok(Stored { candidates: self.newest(searches).await?, frequencies: HashMap::new() });
        }
        // What waits is scored here and what is stored there, by the same counts of both.
        let frequencies = match look.view {
            Some(view) if !look.is_past() && view.has_writes() => {
                self.frequencies(look.query, in_store, view, look.now).await?
            }
            Some(_) | None => HashMap::new(),
        };
        for search in &mut searches {
            search.frequencies = frequencies.get(&search.selection.owner).cloned();
        }
        Ok(Stored { candidates: self.store.candidates(searches).await?, frequencies })
    }

    /// What was so at a time, with what waits for the store laid over it.
    fn past(&self, look: Look<'_>, candidates: Vec<Candidate>, in_store: &[&Wanted]) -> Vec<Candidate> {
        let (Some(view), Some(at)) = (look.view, look.ask.as_of.map(Timestamp::from_millis)) else { return candidates };
        let policy = self.policy.load();
        let keep = |until| policy.history_until(until);
        let mut laid_over = Vec::with_capacity(candidates.len());
        for Candidate { context, scores } in candidates {
            if let Some(context) = view.stored_at(Arc::unwrap_or_clone(context), at, &keep) {
                laid_over.push(Candidate { context: Arc::new(context), scores });
            }
        }
        let waiting = view.waiting_at(at, &keep);
        for wanted in in_store {
            let is_wanted = |(context, _): &&Held| !context.is_expired(look.now) && wanted.matches(context);
            let waiting: Vec<Held> = waiting.iter().filter(is_wanted).cloned().collect();
            laid_over.extend(local::best(local::score(look.query, &waiting), Search::PER_LEG));
        }
        laid_over
    }
}

/// Whether no leg finds anything of the query in them.
fn nothing_fits(candidates: &[Candidate]) -> bool {
    let fits =
        |candidate: &Candidate| Leg::ALL.iter().any(|leg| candidate.scores.on(*leg).is_some_and(|score| score > 0.0));
    !candidates.iter().any(fits)
}

/// Scopes of one search may overlap.
fn once_each(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut seen = HashSet::new();
    candidates.retain(|candidate| seen.insert(candidate.context.id));
    candidates
}

/// A version that was kept by a change that then did not happen is there twice.
fn without_doubles(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let there: HashSet<ContextId> = candidates.iter().map(|candidate| candidate.context.id).collect();
    candidates.retain(|candidate| candidate.context.version_of.is_none_or(|original| !there.contains(&original)));
    candidates
}

fn respond(
    ranked: Vec<Ranked>,
    items: &[Item],
    packing: &Packing,
    ask: &Ask,
    degraded: &[Degradation],
    (own, tokenizer): (&Owner, Tokenizer),
) -> ContextResponse {
    let left_out = packing.left_out.iter().map(|&place| LeftOut {
        id: ranked[place].context.id.as_uuid(),
        tokens: items[place].tokens as usize,
        rank: place + 1,
    });
    let left_out = left_out.collect();
    let mut used = PerLevel::<usize>::default();
    let mut contexts = Vec::with_capacity(packing.taken.len());
    let mut ranked: Vec<Option<Ranked>> = ranked.into_iter().map(Some).collect();
    for taken in &packing.taken {
        let Some(Ranked { context, score, parts, folded }) = ranked[taken.place].take() else { continue };
        let mut context = Arc::unwrap_or_clone(context);
        let mut tokens = taken.tokens;
        if taken.shortened {
            let shortened = tokenizer.shorten(&context.text, taken.tokens).len();
            context.text.truncate(shortened);
            tokens = tokenizer.count(&context.text);
        }
        used[context.level] += tokens as usize;
        let explanation = ask.explain.then(|| {
            parts.named().into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>()
        });
        contexts.push(Retrieved {
            context: convert::message(context, own, tokens),
            score,
            truncated: taken.shortened,
            folded: folded.into_iter().map(ContextId::as_uuid).collect(),
            explanation,
        });
    }
    ContextResponse {
        contexts,
        tokens_used: used.iter().map(|(_, tokens)| tokens).sum(),
        token_budget: ask.budget,
        tokens_by_level: used.iter().map(|(level, tokens)| (convert::level_message(level), *tokens)).collect(),
        left_out,
        degraded: degraded.iter().map(|reason| reason.as_str().to_owned()).collect(),
    }
}
