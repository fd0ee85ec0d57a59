//! The engine while its store is away: the real embedded store behind a switch.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use context_manager_memory::{
    ContextId, PerLevel, SessionId, SparseVector, Timestamp, Vectors, frequencies::DocumentFrequencies, rank::Candidate,
};
use context_manager_protocol::{
    config::Operation,
    message::{Retrieved, Scope},
    problem::Code,
};
use serde_json::json;

use super::*;
use crate::{
    clock::jump_to,
    ports::vector_store::{
        self, Access, Ids, NewDense, Page, Point, Search, SessionEnd, Stats as StoreStats, Tenant, Updated, VectorStore,
    },
    set_aside::Kind,
};

mod again;
mod aside;
mod clocks;
mod conditions;
mod expiry;
mod figures;
mod losses;
mod past;
mod rarity;
mod replicas;
mod restarts;
mod upkeep;
mod views;
mod writers;

/// The store, reachable or not.
struct Switch {
    store: Embedded,
    away: AtomicBool,
    /// Writes take effect but their answers are lost.
    mute: AtomicBool,
    /// Only the answers to changes are lost.
    mute_update: AtomicBool,
    /// Only the answers to calls for new contexts are lost.
    mute_insert: AtomicBool,
    /// It goes away as soon as it has written new contexts.
    leaves_after_upsert: AtomicBool,
    /// It goes away as soon as it has counted accesses.
    leaves_after_counting: AtomicBool,
    /// How many calls there were, answered or not.
    calls: AtomicUsize,
    /// How many milliseconds a deletion by ids takes.
    deletion_takes: AtomicU64,
    /// Contexts and bytes of each call for new contexts.
    upserts: Mutex<Vec<(usize, usize)>>,
    /// How many contexts were read with their vectors.
    points_read: AtomicUsize,
    /// It works, and refuses calls that carry such a text.
    refuses: Mutex<Option<&'static str>>,
    /// The next call for new contexts lies somewhere and is given up.
    holds_back: AtomicBool,
    held: Mutex<Vec<(Vec<Point>, Ids, Timestamp)>>,
    /// What another sidecar stores just before the next call for new contexts.
    rival: Mutex<Option<Point>>,
    /// Another sidecar deletes a context just before it is changed next.
    deletes_first: AtomicBool,
    /// How often somebody took away all that it held.
    losses: AtomicU64,
}

impl Switch {
    fn reach(&self) -> Result<(), vector_store::Error> {
        self.calls.fetch_add(1, Ordering::AcqRel);
        if self.away.load(Ordering::Acquire) { Err(lost()) } else { Ok(()) }
    }

    fn take<'a>(&self, mut texts: impl Iterator<Item = &'a str>) -> Result<(), vector_store::Error> {
        let refused = *self.refuses.lock().expect("not poisoned");
        let is_refused = refused.is_some_and(|refused| texts.any(|text| text.contains(refused)));
        if is_refused { Err(refusal()) } else { Ok(()) }
    }

    fn refuse(&self, what: Option<&'static str>) {
        *self.refuses.lock().expect("not poisoned") = what;
    }

    /// Lets another sidecar of the same agent be first to store something under this id.
    fn precede(&self, owner: &Owner, id: Uuid, text: &str) {
        let Owner { tenant, holder } = owner.clone();
        let at = Timestamp::from_millis(now().as_millis() - 1);
        let context = Stored::new(id.into(), tenant, holder, context_manager_memory::Level::LongTerm, text, at);
        *self.rival.lock().expect("not poisoned") = Some(Point { context, vectors: Vectors::default() });
    }

    /// The calls that were given up take effect, as often as this is called.
    async fn apply_held(&self) {
        let held = self.held.lock().expect("not poisoned").clone();
        for (points, ids, now) in held {
            self.store.insert(points, ids, now).await.expect("applied late");
        }
    }

    /// Somebody deletes the collection, and it is made anew.
    async fn lose_everything(&self, owner: &Owner) {
        let everything = Selection::alive(owner.clone(), now()).with_all_that_was();
        self.store.delete_selected(everything, 10_000).await.expect("deleted");
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    async fn has(&self, id: Uuid) -> bool {
        !self.store.find(vec![id.into()]).await.expect("an answer").is_empty()
    }

    fn answer<T>(&self, answer: T) -> Result<T, vector_store::Error> {
        if self.mute.load(Ordering::Acquire) { Err(lost()) } else { Ok(answer) }
    }
}

fn lost() -> vector_store::Error {
    vector_store::Error::Failed(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)))
}

fn refusal() -> vector_store::Error {
    vector_store::Error::Refused(Arc::new(std::io::Error::from(std::io::ErrorKind::InvalidInput)))
}

macro_rules! switched {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)+) => {
        #[async_trait]
        impl VectorStore for Switch {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$answer, vector_store::Error> {
                self.reach()?;
                let answer = self.store.$name($($argument),*).await?;
                self.answer(answer)
            })+

            async fn get(
                &self,
                owner: &Owner,
                ids: Vec<ContextId>,
                now: Timestamp,
            ) -> Result<Vec<Point>, vector_store::Error> {
                self.reach()?;
                let answer = self.store.get(owner, ids, now).await?;
                self.points_read.fetch_add(answer.len(), Ordering::AcqRel);
                self.answer(answer)
            }

            async fn update(
                &self,
                context: Stored,
                vectors: Option<Vectors>,
                expected: i64,
            ) -> Result<Updated, vector_store::Error> {
                self.reach()?;
                self.take(std::iter::once(context.text.as_str()))?;
                if self.deletes_first.swap(false, Ordering::AcqRel) {
                    self.store.delete(&Owner::of(&context), vec![context.id]).await?;
                }
                let answer = self.store.update(context, vectors, expected).await?;
                if self.mute_update.load(Ordering::Acquire) { Err(lost()) } else { self.answer(answer) }
            }

            async fn insert(&self, points: Vec<Point>, ids: Ids, now: Timestamp) -> Result<(), vector_store::Error> {
                self.reach()?;
                if self.holds_back.swap(false, Ordering::AcqRel) {
                    self.held.lock().expect("not poisoned").push((points, ids, now));
                    return Err(lost());
                }
                self.take(points.iter().map(|point| point.context.text.as_str()))?;
                let metadata = |point: &Point| serde_json::to_vec(&point.context.metadata).map_or(0, |json| json.len());
                let bytes = points.iter().map(|point| point.context.text.len() + metadata(point)).sum();
                self.upserts.lock().expect("not poisoned").push((points.len(), bytes));
                let rival = self.rival.lock().expect("not poisoned").take();
                if let Some(rival) = rival {
                    self.store.insert(vec![rival], Ids::Claimed, now).await?;
                }
                self.store.insert(points, ids, now).await?;
                if self.leaves_after_upsert.swap(false, Ordering::AcqRel) {
                    self.away.store(true, Ordering::Release);
                }
                if self.mute_insert.load(Ordering::Acquire) { Err(lost()) } else { self.answer(()) }
            }

            async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, vector_store::Error> {
                self.reach()?;
                tokio::time::sleep(Duration::from_millis(self.deletion_takes.load(Ordering::Acquire))).await;
                let answer = self.store.delete(owner, ids).await?;
                self.answer(answer)
            }

            async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), vector_store::Error> {
                self.reach()?;
                self.store.count_accesses(owner, accesses).await?;
                if self.leaves_after_counting.swap(false, Ordering::AcqRel) {
                    self.away.store(true, Ordering::Release);
                }
                self.answer(())
            }

            fn losses(&self) -> u64 {
                self.losses.load(Ordering::Acquire)
            }

            async fn close(&self) -> Result<(), vector_store::Error> {
                self.store.close().await
            }
        }
    };
}

switched! {
    fn upsert(points: Vec<Point>) -> ();
    fn set_expiries(owner: &Owner, expiries: Vec<(ContextId, Timestamp)>) -> ();
    fn find(ids: Vec<ContextId>) -> Vec<Stored>;
    fn candidates(searches: Vec<Search>) -> Vec<Candidate>;
    fn document_frequencies(owner: &Owner, query: SparseVector) -> DocumentFrequencies;
    fn list(selection: Selection, from: Option<ContextId>, limit: usize) -> Page;
    fn latest(selection: Selection, limit: usize) -> Vec<Stored>;
    fn list_tenant(tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Page;
    fn counts_by_level(owner: &Owner, now: Timestamp) -> PerLevel<usize>;
    fn count(selection: Selection) -> usize;
    fn session_end(owner: &Owner, session: &SessionId, now: Timestamp) -> SessionEnd;
    fn before(owner: &Owner, session: &SessionId, sequence: i64, now: Timestamp) -> Option<Stored>;
    fn after(owner: &Owner, session: &SessionId, sequence: i64, now: Timestamp) -> Option<Stored>;
    fn delete_selected(selection: Selection, limit: usize) -> usize;
    fn count_expired(owners: Option<&[Owner]>, now: Timestamp) -> usize;
    fn delete_expired(owners: Option<&[Owner]>, spared: &[ContextId], now: Timestamp, limit: usize) -> usize;
    fn switch_model(model: Model) -> ();
    fn set_vectors(owner: &Owner, vectors: Vec<NewDense>) -> ();
    fn drop_former_vectors(owner: &Owner, limit: usize) -> usize;
    fn stats() -> StoreStats;
    fn flush() -> ();
    fn compact() -> bool;
}

struct Outage {
    engine: Engine,
    switch: Arc<Switch>,
    config: SidecarConfig,
    directory: TempDir,
}

async fn begin(config: &SidecarConfig, away: bool) -> (Engine, Arc<Switch>) {
    let metrics = Arc::new(Metrics::new());
    let identity = Identity::new(Some("team-a"), Some("agent"), None).expect("valid names");
    let embedder =
        embedder::build(&config.embedding, &config.circuit_breaker, None, &metrics).expect("the built-in embedder");
    let Store::Embedded(store) = &config.store else { unreachable!("the fixture's store is embedded") };
    let model = Model { name: embedder.model().to_owned(), dimensions: embedder.dimensions() };
    let opening = Embedded::open(store, model, OnModelChange::Refuse, Arc::clone(&metrics));
    let store = Box::pin(opening).await.expect("a store");
    let switch = Arc::new(Switch {
        store,
        away: away.into(),
        mute: false.into(),
        mute_update: false.into(),
        mute_insert: false.into(),
        leaves_after_upsert: false.into(),
        leaves_after_counting: false.into(),
        calls: 0.into(),
        deletion_takes: 0.into(),
        upserts: Mutex::default(),
        points_read: 0.into(),
        refuses: Mutex::default(),
        holds_back: false.into(),
        held: Mutex::default(),
        rival: Mutex::default(),
        deletes_first: false.into(),
        losses: 0.into(),
    });
    let store: Arc<dyn VectorStore> = Arc::clone(&switch) as _;
    let engine = Engine::with_store(config, &identity, None, metrics, store, embedder).await;
    (engine.expect("an engine"), switch)
}

impl Outage {
    async fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let config = super::config(directory.path());
        let (engine, switch) = begin(&config, false).await;
        Self { engine, switch, config, directory }
    }

    fn cut(&self) {
        self.switch.away.store(true, Ordering::Release);
    }

    async fn back(&self) {
        self.switch.away.store(false, Ordering::Release);
        self.switch.mute.store(false, Ordering::Release);
        self.switch.mute_insert.store(false, Ordering::Release);
        while self.engine.drain().await.expect("drained") {}
    }

    /// The end of the process and a new one, with the store away or not.
    async fn restarted(self, away: bool) -> Self {
        self.switch.store.close().await.expect("closed");
        let Self { engine, switch, config, directory } = self;
        drop((engine, switch));
        let (engine, switch) = begin(&config, away).await;
        Self { engine, switch, config, directory }
    }

    /// The contexts that were set aside because of their ids.
    fn conflicts(&self) -> Vec<ExportedContext> {
        let file = self.directory.path().join("data/journal/conflicts.jsonl");
        let lines = std::fs::read_to_string(file).expect("a file");
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of an export")).collect()
    }

    async fn store(&self, value: Value) -> Acknowledgment {
        store(&self.engine, value).await.expect("an acknowledgment")
    }

    async fn texts(&self, query: &str) -> Vec<String> {
        let answer = search(&self.engine, json!({"query": query})).await.expect("an answer");
        let mut texts: Vec<String> = answer.contexts.into_iter().map(|found| found.context.text).collect();
        texts.sort_unstable();
        texts
    }

    async fn listed(&self) -> Vec<(String, i64)> {
        let query = ListQuery { limit: Some(1_000), ..ListQuery::default() };
        let page = self.engine.list(&mine(&self.engine), query).await.expect("a page");
        page.contexts.into_iter().map(|context| (context.text, context.version)).collect()
    }
}

#[tokio::test]
async fn a_write_while_the_store_is_away_is_found_at_once_and_reaches_the_store_once() {
    let outage = Outage::new().await;
    outage.store(json!({"text": "tea before", "session": "s"})).await;
    outage.cut();
    let first = outage.store(json!({"text": "tea one", "session": "s"})).await;
    let second = outage.store(json!({"text": "tea two", "session": "s"})).await;
    assert_eq!((first.status, second.status), (AckStatus::Journaled, AckStatus::Journaled));
    assert_eq!(outage.texts("tea").await, ["tea one", "tea two"]);
    assert_eq!(outage.engine.get(&mine(&outage.engine), first.id, None).await.expect("found").text, "tea one");
    assert_eq!(outage.listed().await.len(), 2);
    assert!(outage.engine.drain().await.is_err(), "the store is still away");

    outage.back().await;
    assert_eq!(outage.texts("tea").await, ["tea before", "tea one", "tea two"]);
    let point = outage.engine.inner.point_of(outage.engine.owner(), second.id.into()).await.expect("in the store");
    assert_eq!(point.context.sequence, 2, "the store goes on with the session's numbers");
    assert!(point.vectors.dense_self.is_some());
    assert_eq!(outage.store(json!({"text": "tea after", "session": "s"})).await.status, AckStatus::Stored);
}

#[tokio::test]
async fn journaled_writes_survive_the_end_of_the_process_and_a_start_without_the_store() {
    let outage = Outage::new().await;
    outage.cut();
    let kept = outage.store(json!({"text": "green tea"})).await.id;
    let gone = outage.store(json!({"text": "black tea"})).await.id;
    outage
        .engine
        .update(&mine(&outage.engine), kept, message(json!({"metadata": {"cups": 2}})))
        .await
        .expect("journaled");
    outage.engine.delete(&mine(&outage.engine), gone).await.expect("journaled");

    let outage = outage.restarted(true).await;
    assert_eq!(outage.texts("tea").await, ["green tea"]);
    assert_eq!(outage.engine.get(&mine(&outage.engine), kept, None).await.expect("found").metadata["cups"], 2);
    assert!(matches!(outage.engine.get(&mine(&outage.engine), gone, None).await, Err(Error::NotFound(_))));

    outage.back().await;
    assert_eq!(outage.listed().await, [("green tea".to_owned(), 2)]);
    let outage = outage.restarted(false).await;
    assert_eq!(outage.listed().await, [("green tea".to_owned(), 2)]);
    assert_eq!(outage.engine.stats(&mine(&outage.engine)).await.expect("figures").journaled_writes, 0);
}

#[tokio::test]
async fn what_was_deleted_while_the_store_was_away_does_not_come_back() {
    let outage = Outage::new().await;
    let kept = outage.store(json!({"text": "old tea", "session": "kept"})).await.id;
    let id = outage.store(json!({"text": "old coffee", "session": "kept"})).await.id;
    for text in ["a", "b"] {
        outage.store(json!({"text": text, "session": "cleared"})).await;
    }
    outage.cut();
    assert_eq!(outage.engine.delete(&mine(&outage.engine), id).await.expect("journaled").status, AckStatus::Journaled);
    outage.store(json!({"text": "c", "session": "cleared"})).await;
    let cleared = clear(&outage.engine, "cleared").await.expect("journaled");
    assert!(cleared.journaled && cleared.deleted >= 1, "{cleared:?}");
    outage.store(json!({"text": "d", "session": "cleared"})).await;

    // The store answers again before the journal is drained: what it still has is not shown.
    outage.switch.away.store(false, Ordering::Release);
    let listed = |listed: Vec<(String, i64)>| listed.into_iter().map(|(text, _)| text).collect::<BTreeSet<_>>();
    let expected = BTreeSet::from(["old tea".to_owned(), "d".to_owned()]);
    assert_eq!(listed(outage.listed().await), expected);
    assert!(!outage.texts("old coffee").await.contains(&"old coffee".to_owned()));
    assert!(outage.engine.get(&mine(&outage.engine), id, None).await.is_err());
    outage.back().await;
    assert_eq!(listed(outage.listed().await), expected);
    assert_eq!(outage.engine.get(&mine(&outage.engine), kept, None).await.expect("kept").text, "old tea");
}

/// It was stored before the deletion, whatever the clock was where that happened.
#[tokio::test]
async fn what_was_imported_from_a_clock_that_was_ahead_is_deleted_with_its_session_in_an_outage() {
    let outage = Outage::new().await;
    outage.store(json!({"text": "tea", "session": "s", "level": "long_term"})).await;
    let line = outage.engine.export(&mine(&outage.engine), None).await.expect("an export").remove(0);
    assert!(clear(&outage.engine, "s").await.expect("deleted").deleted == 1 && outage.listed().await.is_empty());
    let ahead = (now() + Duration::from_hours(1)).as_millis();
    let line = ExportedContext { created_at: ahead, updated_at: ahead, ..line };
    assert_eq!(outage.engine.import(&mine(&outage.engine), vec![(1, line)]).await.expect("imported").imported, 1);
    outage.cut();
    assert!(clear(&outage.engine, "s").await.expect("journaled").journaled);
    outage.back().await;
    assert_eq!(outage.listed().await, []);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_stored_twice() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "tea", "session": "s"})).await.id;
    outage.switch.mute_insert.store(true, Ordering::Release);
    let lost = outage.store(json!({"text": "more tea", "session": "s"})).await;
    assert!(outage.switch.has(lost.id).await, "it has taken effect");
    outage.switch.mute.store(true, Ordering::Release);
    let changed = outage.engine.update(&mine(&outage.engine), id, message(json!({"text": "cold tea"}))).await;
    assert_eq!(lost.status, AckStatus::Journaled);
    assert!(changed.is_err(), "the context is only in the store, which does not answer");
    outage.back().await;
    outage.back().await;
    assert_eq!(outage.listed().await.len(), 2);
    let numbers = [
        outage.engine.inner.point_of(outage.engine.owner(), id.into()).await,
        outage.engine.inner.point_of(outage.engine.owner(), lost.id.into()).await,
    ]
    .map(|point| point.expect("stored").context.sequence);
    assert_eq!(numbers, [0, 1]);
}

/// In L1 it is like any other: it answers while the store is away, and makes room.
#[tokio::test]
async fn an_immediate_context_whose_answer_was_lost_is_in_memory_once_it_was_brought_again() {
    let mut outage = Outage::new().await;
    outage.config.levels.immediate.capacity = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("another capacity");
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    let first = outage.store(turn("first tea")).await.id;
    outage.switch.mute_insert.store(true, Ordering::Release);
    let lost = outage.store(turn("second tea")).await;
    assert_eq!(lost.status, AckStatus::Journaled);
    assert!(outage.switch.has(lost.id).await, "it has taken effect");
    outage.back().await;
    let level = async |id| outage.engine.get(&mine(&outage.engine), id, None).await.expect("there").level;
    assert_eq!((level(first).await, level(lost.id).await), (Level::ShortTerm, Level::Immediate));
    outage.cut();
    assert_eq!(outage.listed().await, [("second tea".to_owned(), 1)]);
    outage.back().await;
    outage.store(turn("third tea")).await;
    assert_eq!(level(lost.id).await, Level::ShortTerm);
}

#[tokio::test]
async fn an_immediate_context_is_in_memory_when_the_import_whose_answer_was_lost_is_repeated() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "tea", "level": "immediate"})).await.id;
    let line = outage.engine.export(&mine(&outage.engine), None).await.expect("an export").remove(0);
    outage.engine.delete(&mine(&outage.engine), id).await.expect("deleted");
    let granted = mine(&outage.engine);
    let import = || outage.engine.import(&granted, vec![(1, line.clone())]);
    outage.switch.mute_insert.store(true, Ordering::Release);
    assert!(import().await.is_err(), "its answer is lost");
    outage.switch.mute_insert.store(false, Ordering::Release);
    let imported = import().await.expect("imported");
    assert_eq!((imported.imported, imported.unchanged), (0, 1));
    outage.cut();
    assert_eq!(outage.listed().await, [("tea".to_owned(), 1)]);
}

#[tokio::test]
async fn what_supersedes_does_so_also_when_the_store_goes_away_in_between() {
    for level in ["immediate", "short_term", "long_term"] {
        let outage = Outage::new().await;
        let old = outage.store(json!({"text": "the kettle is red", "level": level})).await.id;
        outage.switch.leaves_after_upsert.store(true, Ordering::Release);
        let new = json!({"text": "the kettle is blue", "level": level, "supersedes": [old]});
        let written = outage.store(new).await;
        assert_eq!(written.status, AckStatus::Journaled, "{level}");
        assert_eq!(outage.engine.stats(&mine(&outage.engine)).await.map_or(1, |stats| stats.journaled_writes), 1);
        outage.back().await;
        assert_eq!(outage.texts("kettle").await, ["the kettle is blue"], "{level}");
        let closed = outage.engine.get(&mine(&outage.engine), old, None).await.expect("kept");
        assert_eq!(closed.superseded_by, Some(written.id), "{level}");
    }
}

/// Writers that never pause would keep the journal in use for ever if nobody waited for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_reach_the_store_again_while_writers_go_on() {
    const WRITERS: usize = 8;
    const IN_A_ROW: usize = 25;
    let outage = Arc::new(Outage::new().await);
    outage.cut();
    let finished = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (outage, finished) = (Arc::clone(&outage), Arc::clone(&finished));
        writers.spawn(async move {
            let (mut journaled, mut stored, mut number) = (0, 0, 0);
            while !finished.load(Ordering::Acquire) {
                let text = format!("note {number} of {writer}");
                number += 1;
                match outage.store(json!({"text": text, "level": "long_term"})).await.status {
                    AckStatus::Journaled => {
                        journaled += 1;
                        stored = 0;
                    }
                    AckStatus::Stored | AckStatus::Updated | AckStatus::Deleted => stored += 1,
                }
                if stored == IN_A_ROW {
                    break;
                }
            }
            (journaled, stored, number)
        });
    }
    while outage.engine.inner.pending.len() < 200 {
        tokio::task::yield_now().await;
    }
    outage.switch.away.store(false, Ordering::Release);
    let drain = {
        let outage = Arc::clone(&outage);
        tokio::spawn(async move {
            loop {
                outage.engine.journaled().await;
                while outage.engine.drain().await.expect("drained") {}
            }
        })
    };
    let all = tokio::time::timeout(std::time::Duration::from_mins(2), async {
        let mut written = 0;
        while let Some(writer) = writers.join_next().await {
            let (journaled, stored, number) = writer.expect("a writer");
            assert!(journaled > 0 && stored == IN_A_ROW, "{journaled} journaled, {stored} in a row stored");
            written += number;
        }
        written
    });
    let written = all.await.expect("the journal never ends while writers go on");
    finished.store(true, Ordering::Release);
    drain.abort();
    let stats = outage.engine.stats(&mine(&outage.engine)).await.expect("figures");
    assert_eq!(stats.contexts.values().sum::<usize>(), written);
}

/// What a deletion takes is not in the number of the writes that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_deletion_of_many_contexts_does_not_keep_writers_waiting_until_its_end() {
    let outage = Arc::new(Outage::new().await);
    for number in 0..600 {
        outage.store(json!({"text": format!("note {number}"), "level": "long_term", "metadata": {"of": "trip"}})).await;
    }
    outage.cut();
    outage.store(json!({"text": "the first that waits"})).await;
    let deletion = json!({"filter": {"of": {"eq": "trip"}}});
    assert!(delete_matching(&outage.engine, deletion).await.expect("journaled").journaled);
    outage.switch.away.store(false, Ordering::Release);
    outage.switch.deletion_takes.store(400, Ordering::Release);
    assert!(outage.engine.drain().await.expect("drained"), "the store takes writes, and the deletion is next");
    let draining = Arc::clone(&outage);
    let drained = tokio::spawn(async move { while draining.engine.drain().await.expect("drained") {} });
    tokio::time::sleep(Duration::from_millis(200)).await;

    let written = outage.store(json!({"text": "written meanwhile"})).await;
    assert_eq!(written.status, AckStatus::Journaled, "the deletion was not over");
    drained.await.expect("drained");
    let mut left: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    left.sort_unstable();
    assert_eq!(left, ["the first that waits", "written meanwhile"]);
    assert_eq!(outage.switch.store.stats().await.expect("figures").points, 2);
}

#[tokio::test]
async fn a_page_asks_a_store_that_is_away_once() {
    let outage = Outage::new().await;
    outage.cut();
    for number in 0..250 {
        outage.store(json!({"text": format!("note {number}"), "level": "long_term"})).await;
    }
    let before = outage.switch.calls.load(Ordering::Acquire);
    assert_eq!(outage.listed().await.len(), 250);
    assert_eq!(outage.switch.calls.load(Ordering::Acquire) - before, 1);
}

#[tokio::test]
async fn waiting_writes_are_bounded_by_their_memory_and_none_is_lost() {
    let directory = TempDir::new().expect("a directory");
    let mut config = super::config(directory.path());
    config.journal.max_memory = "200Ki".parse().expect("a size");
    let (engine, switch) = begin(&config, true).await;
    let outage = Outage { engine, switch, config, directory };
    let mut written = 0;
    let refused = loop {
        let text = format!("note {written}");
        match store(&outage.engine, json!({"text": text, "level": "long_term"})).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "nothing is refused");
    };
    assert!(written > 10, "{written} writes fit");
    let message = Problem::from(refused).detail;
    assert!(message.contains("journal.max_memory") && message.contains("200Ki"), "{message}");

    // What was taken is there after a start that has less room than it needs.
    let mut outage = outage;
    outage.config.journal.max_memory = "10Ki".parse().expect("a size");
    let outage = outage.restarted(true).await;
    assert_eq!(
        outage.engine.stats(&mine(&outage.engine)).await.map_or(written, |stats| stats.journaled_writes),
        written
    );
    outage.back().await;
    assert_eq!(outage.listed().await.len(), written);
    assert_eq!(outage.store(json!({"text": "afterwards"})).await.status, AckStatus::Stored);
}

#[tokio::test]
async fn what_has_reached_the_store_waits_no_more() {
    let outage = Outage::new().await;
    let old = outage.store(json!({"text": "old tea", "level": "long_term"})).await.id;
    outage.cut();
    for number in 0..150 {
        outage.store(json!({"text": format!("tea number {number}"), "level": "long_term"})).await;
    }
    outage.engine.delete(&mine(&outage.engine), old).await.expect("journaled");
    outage.switch.away.store(false, Ordering::Release);
    assert!(outage.engine.drain().await.expect("drained"), "a call takes a part of them");
    let view = outage.engine.inner.pending.view().expect("some wait");
    assert_eq!(view.points().count(), 50);
    assert!(view.is_deleted(outage.engine.owner(), old.into()), "its turn has not come");
    assert_eq!(outage.listed().await.len(), 150);
    outage.back().await;
    assert_eq!(outage.listed().await.len(), 150);
}

#[tokio::test]
async fn what_waits_without_a_session_ranks_as_it_will_when_it_is_stored() {
    let outage = Outage::new().await;
    let put = async |text: String| outage.store(json!({"text": text, "level": "long_term"})).await;
    // Tea is common in the store and rare in the journal, and violins are the other way round.
    let mut stored = Vec::new();
    for (number, word) in ["cup", "pot", "leaf", "shop", "party"].into_iter().enumerate() {
        stored.push(put(format!("tea {word} number {number}")).await.id);
    }
    put("a violin in the window".to_owned()).await;
    outage.cut();
    for word in ["strings", "bow", "lesson", "concert", "teacher"] {
        assert_eq!(put(format!("violin {word} today")).await.status, AckStatus::Journaled);
    }
    put("tea after the violin rehearsal".to_owned()).await;
    put("some tea for the neighbours".to_owned()).await;
    outage.engine.delete(&mine(&outage.engine), stored[0]).await.expect("journaled");

    outage.switch.away.store(false, Ordering::Release);
    let ranked = async || {
        let request = json!({"query": "tea violin", "token_budget": 10_000, "limit": 100, "explain": true});
        let answer = search(&outage.engine, request).await.expect("an answer");
        assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
        let of = |found: Retrieved| (found.context.text, found.score);
        answer.contexts.into_iter().map(of).collect::<Vec<_>>()
    };
    let before = ranked().await;
    assert!(outage.engine.inner.pending.is_active(), "nothing was drained");
    outage.back().await;
    assert!(!outage.engine.inner.pending.is_active(), "all was drained");
    let after = ranked().await;
    assert_eq!(before.len(), 12, "{before:?}");
    let later: BTreeMap<&String, f64> = after.iter().map(|(text, score)| (text, *score)).collect();
    assert_eq!(later.len(), before.len(), "{after:?}");
    for (text, score) in &before {
        assert!((score - later[text]).abs() < 1e-5, "{text}: {score} before and {} after", later[text]);
    }
    // Which of two equal ones comes first is decided by the last digit, which both sides may round otherwise.
    for pair in before.windows(2) {
        assert!(later[&pair[0].0] > later[&pair[1].0] - 1e-5, "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn a_second_drain_after_an_end_in_between_changes_nothing() {
    let outage = Outage::new().await;
    let again = outage.store(json!({"text": "three"})).await.id;
    outage.cut();
    let kept = outage.store(json!({"text": "one"})).await.id;
    let gone = outage.store(json!({"text": "two"})).await.id;
    outage.engine.update(&mine(&outage.engine), kept, message(json!({"text": "one more"}))).await.expect("journaled");
    outage.engine.delete(&mine(&outage.engine), gone).await.expect("journaled");
    outage.engine.delete(&mine(&outage.engine), again).await.expect("journaled");
    tokio::time::sleep(Duration::from_millis(2)).await;
    outage.store(json!({"text": "another three", "id": again})).await;
    // A copy of the journal stands for a process that ended before it noted what was drained.
    let journal = outage.directory.path().join("data/journal");
    let copy = outage.directory.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").args([&journal, &copy]).status();
    assert!(copied.is_ok_and(|status| status.success()));
    outage.back().await;
    outage.switch.store.close().await.expect("closed");
    let Outage { engine, switch, config, directory } = outage;
    drop((engine, switch));
    std::fs::remove_dir_all(&journal).expect("removed");
    std::fs::rename(&copy, &journal).expect("put back");

    let (engine, switch) = begin(&config, false).await;
    let outage = Outage { engine, switch, config, directory };
    assert_eq!(outage.engine.stats(&mine(&outage.engine)).await.expect("figures").journaled_writes, 6);
    outage.back().await;
    assert_eq!(outage.listed().await, [("another three".to_owned(), 1), ("one more".to_owned(), 2)]);
    assert_eq!(lines(&outage, Kind::RefusedChanges), Vec::<Value>::new());
}

#[tokio::test]
async fn a_full_journal_refuses_clearly_and_keeps_what_it_has() {
    let directory = TempDir::new().expect("a directory");
    let mut config = super::config(directory.path());
    config.journal.max_size = context_manager_protocol::size::ByteSize::new(1 << 20);
    let (engine, switch) = begin(&config, true).await;
    let outage = Outage { engine, switch, config, directory };
    let text = "tea ".repeat(5_000);
    let mut taken = 0;
    let refused = loop {
        match store(&outage.engine, json!({"text": text, "level": "long_term"})).await {
            Ok(_) => taken += 1,
            Err(error) => break Problem::from(error),
        }
    };
    assert_eq!(refused.status, 503);
    assert!(refused.detail.contains("journal") && refused.detail.contains("1048576"), "{}", refused.detail);
    assert!(taken > 40, "{taken}");
    outage.back().await;
    assert_eq!(outage.listed().await.len(), taken);
    assert_eq!(outage.store(json!({"text": "there is room again"})).await.status, AckStatus::Stored);
}

#[tokio::test]
async fn an_id_that_was_taken_meanwhile_is_set_aside_and_not_lost() {
    let outage = Outage::new().await;
    let id = Uuid::now_v7();
    outage.store(json!({"id": id, "text": "the first"})).await;
    outage.cut();
    assert_eq!(outage.store(json!({"id": id, "text": "the second"})).await.status, AckStatus::Journaled);
    outage.back().await;
    assert_eq!(outage.engine.get(&mine(&outage.engine), id, None).await.expect("found").text, "the first");
    let [aside] = &outage.conflicts()[..] else { unreachable!("it is one") };
    assert_eq!(aside.text, "the second");

    // With another id it is an import's.
    let lines = vec![(1, aside.clone()), (2, ExportedContext { id: Uuid::now_v7(), ..aside.clone() })];
    let imported = outage.engine.import(&mine(&outage.engine), lines).await.expect("imported");
    let codes: Vec<(usize, Code)> = imported.refused.into_iter().map(|refused| (refused.line, refused.code)).collect();
    assert_eq!((imported.imported, codes), (1, vec![(1, Code::IdConflict)]));
    assert!(outage.listed().await.contains(&("the second".to_owned(), 1)), "it is there");
}

/// What follows is meant for the content that was set aside, whoever has its id now.
#[tokio::test]
async fn what_was_journaled_of_a_context_that_is_set_aside_goes_with_it() {
    let outage = Outage::new().await;
    let (taken, deleted) = (Uuid::now_v7(), Uuid::now_v7());
    let context = |id: Uuid, text: &str| json!({"id": id, "text": text, "level": "long_term"});
    for id in [taken, deleted] {
        outage.store(context(id, "the first")).await;
    }
    outage.cut();
    for id in [taken, deleted] {
        assert_eq!(outage.store(context(id, "the second")).await.status, AckStatus::Journaled);
    }
    let change = message(json!({"text": "the second, changed"}));
    let changed = outage.engine.update(&mine(&outage.engine), taken, change).await.expect("journaled");
    assert_eq!(changed.status, AckStatus::Journaled);
    let gone = outage.engine.delete(&mine(&outage.engine), deleted).await.expect("journaled");
    assert_eq!(gone.status, AckStatus::Journaled);
    outage.back().await;
    assert_eq!(outage.listed().await, [("the first".to_owned(), 1), ("the first".to_owned(), 1)]);
    let directory = outage.directory.path().join("data/journal");
    let kept: Vec<Value> = crate::set_aside::lines(&Kind::RefusedChanges.file(&directory)).expect("read");
    assert_eq!(kept.len(), 2, "{kept:?}");
    let metrics = outage.engine.inner.metrics.render().expect("metrics");
    assert!(metrics.contains("context_manager_journal_dropped_total{reason=\"conflict\"} 4"), "{metrics}");

    // Later changes are of the one that is there.
    let change = message(json!({"text": "the first, changed"}));
    let changed = outage.engine.update(&mine(&outage.engine), taken, change).await.expect("changed");
    assert_eq!(changed.status, AckStatus::Updated);
}

/// Appends records to the journal of an engine that has ended.
fn append(directory: &TempDir, records: &[&str]) {
    let options = context_manager_journal::Options::new(directory.path().join("data/journal"));
    let (journal, _) = context_manager_journal::Journal::open(options).expect("nobody else uses it");
    for record in records {
        journal.append(record.as_bytes()).expect("appended");
    }
}

fn lines(outage: &Outage, kind: Kind) -> Vec<Value> {
    crate::set_aside::lines(&kind.file(&outage.directory.path().join("data/journal"))).expect("read")
}

/// What a later version wrote, or a wrong one, keeps nothing else from the store, and is not lost.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_set_aside_and_what_is_behind_it_keeps_its_meaning() {
    let outage = Outage::new().await;
    let kept = outage.store(json!({"text": "a cup", "level": "long_term"})).await.id;
    let doomed = outage.store(json!({"text": "a saucer", "level": "long_term"})).await.id;
    outage.cut();
    outage.store(json!({"text": "the first", "level": "long_term"})).await;
    let [named, unnamed, again] = [(); 3].map(|()| Uuid::now_v7());
    let Outage { engine, switch, config, directory } = outage;
    switch.store.close().await.expect("closed");
    drop((engine, switch));
    let unreadable = [
        format!(r#"{{"store":{{"contexts":[{{"id":"{named}","level":"eternal"}},{{"id":"{again}"}}]}}}}"#),
        format!(r#"{{"store_twice":{{"id":"{unnamed}"}}}}"#),
        r#"{"delete_matching":{"message":{"metadata":{"":{"never":1}}},"at":1}}"#.to_owned(),
    ];
    let at = now().as_millis();
    let context = json!({"id": again, "tenant": "team-a", "agent": "agent", "level": "long_term", "text": "stored again", "sequence": 0,
        "tokens": 2, "version": 1, "created_at": at, "updated_at": at});
    let behind = [
        json!({"update": {"id": kept, "expected": 1, "text": "a blue cup", "at": at}}),
        json!({"update": {"id": named, "expected": 1, "text": "of what was set aside", "at": at}}),
        json!({"update": {"id": unnamed, "expected": 1, "text": "of what may have been set aside", "at": at}}),
        json!({"delete": {"id": doomed, "at": at}}),
        json!({"delete": {"id": unnamed, "at": at}}),
        json!({"store": {"contexts": [context]}}),
        json!({"update": {"id": again, "expected": 1, "text": "stored again and changed", "at": at}}),
    ]
    .map(|entry| entry.to_string());
    append(&directory, &unreadable.iter().chain(&behind).map(String::as_str).collect::<Vec<_>>());

    let (engine, switch) = begin(&config, true).await;
    let outage = Outage { engine, switch, config, directory };
    assert_eq!(outage.engine.inner.pending.len(), 11, "all of it waits, also what cannot be read");
    outage.store(json!({"text": "the last", "level": "long_term"})).await;
    outage.back().await;

    let mut texts: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["a blue cup", "stored again and changed", "the first", "the last"]);
    let aside = lines(&outage, Kind::Unreadable);
    let records: Vec<&str> = aside.iter().filter_map(|line| line["record"].as_str()).collect();
    assert_eq!(records, unreadable, "each as it was");
    let changes: Vec<String> = lines(&outage, Kind::RefusedChanges).iter().map(Value::to_string).collect();
    assert_eq!(changes, [&behind[1], &behind[2], &behind[4]].map(String::clone));
    let metrics = outage.engine.inner.metrics.render().expect("metrics");
    assert!(metrics.contains("context_manager_journal_dropped_total{reason=\"unreadable\"} 6"), "{metrics}");

    // It is set aside once.
    let outage = outage.restarted(false).await;
    assert!(!outage.engine.inner.pending.is_active());
    assert_eq!(lines(&outage, Kind::Unreadable).len(), 3);
    let gone = message(json!({"text": "anything"}));
    let error = outage.engine.update(&mine(&outage.engine), named, gone).await.expect_err("it is not there");
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

/// The first call lies in a connection or a node that stands still, its context is stored by a second one and deleted, and then it goes on.
#[tokio::test]
async fn a_call_that_takes_effect_late_brings_back_nothing_that_was_deleted() {
    let outage = Outage::new().await;
    let (by_id, by_session, waiting) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let context = |id: Uuid| json!({"id": id, "text": format!("tea {id}"), "level": "long_term", "session": "s"});
    let hold = || outage.switch.holds_back.store(true, Ordering::Release);
    for id in [by_id, by_session] {
        hold();
        assert_eq!(outage.store(context(id)).await.status, AckStatus::Journaled);
        outage.back().await;
        assert!(outage.switch.has(id).await, "a second call has stored it");
    }
    let deleted = outage.engine.delete(&mine(&outage.engine), by_id).await.expect("deleted");
    assert_eq!(deleted.status, AckStatus::Deleted);
    hold();
    assert_eq!(outage.store(context(waiting)).await.status, AckStatus::Journaled);
    let session = outage.engine.permit(&caller(), None, Some("s")).expect("one's own");
    assert!(outage.engine.clear_session(&session).await.expect("cleared").journaled);
    outage.back().await;
    for id in [by_id, by_session, waiting] {
        assert!(!outage.switch.has(id).await);
    }

    outage.switch.apply_held().await;
    for id in [by_id, by_session, waiting] {
        assert!(outage.switch.has(id).await, "it came back");
        let read = outage.engine.get(&mine(&outage.engine), id, None).await;
        assert!(matches!(read, Err(Error::NotFound(_))), "{read:?}");
    }
    assert_eq!((outage.listed().await, outage.texts("tea").await), (Vec::new(), Vec::new()));
    let then = ListQuery { as_of: Some(now().as_millis()), ..ListQuery::default() };
    assert!(outage.engine.list(&mine(&outage.engine), then).await.expect("a page").contexts.is_empty());
    let exported = outage.engine.export(&mine(&outage.engine), None).await.expect("an export");
    assert!(exported.is_empty(), "{exported:?}");
    // One is stored again before it was deleted again.
    assert_eq!(outage.store(context(by_id)).await.status, AckStatus::Stored);
    outage.engine.tick().await.expect("worked");
    assert!(!outage.switch.has(by_session).await && !outage.switch.has(waiting).await);
    outage.switch.apply_held().await;
    outage.engine.tick().await.expect("worked");
    assert_eq!(outage.listed().await, [(format!("tea {by_id}"), 1)]);
    let metrics = outage.engine.inner.metrics.render().expect("metrics");
    assert!(metrics.contains("context_manager_vector_store_late_writes_total 5"), "{metrics}");
}

/// While the store refuses another write, the newest one that waits is tried again and again, and its id is taken.
#[tokio::test]
async fn a_waiting_context_whose_id_is_taken_is_set_aside_once_however_often_it_is_tried() {
    let outage = Outage::new().await;
    let ids = [(); 4].map(|()| Uuid::now_v7());
    let long_term = |id: Uuid, text: &str| json!({"id": id, "text": text, "level": "long_term"});
    for id in ids {
        outage.store(long_term(id, "the first")).await;
    }
    outage.cut();
    outage.store(json!({"text": "poison", "level": "long_term"})).await;
    for id in ids {
        assert_eq!(outage.store(long_term(id, "the second")).await.status, AckStatus::Journaled);
    }
    outage.switch.refuse(Some("poison"));
    outage.switch.away.store(false, Ordering::Release);
    for _ in 0..3 {
        assert!(outage.engine.drain().await.expect_err("nothing was taken").is_refusal());
    }
    outage.store(json!({"text": "tea", "level": "long_term"})).await;
    outage.back().await;
    let mut aside: Vec<Uuid> = outage.conflicts().into_iter().map(|context| context.id).collect();
    aside.sort_unstable();
    assert_eq!(aside, ids);
    assert_eq!(lines(&outage, Kind::Refused).len(), 1);
    assert_eq!(outage.listed().await.len(), 5);
}

/// A parser that is made for speed reads this number as its neighbour.
#[tokio::test]
async fn a_number_that_the_store_rounds_makes_no_other_content() {
    let outage = Outage::new().await;
    let context = json!({"id": Uuid::now_v7(), "text": "far away", "level": "long_term",
        "metadata": {"distance": [-3.425_397_748_137_272e287]}});
    assert_eq!(outage.store(context.clone()).await.status, AckStatus::Stored);
    outage.store(context.clone()).await;
    outage.cut();
    outage.store(context).await;
    outage.back().await;
    let conflicts = outage.directory.path().join("data/journal/conflicts.jsonl");
    assert!(!conflicts.exists(), "it is the same each time");
    assert_eq!(outage.listed().await.len(), 1);
}

#[tokio::test]
async fn an_id_that_is_taken_between_the_look_and_the_write_is_noticed_by_every_way() {
    let outage = Outage::new().await;
    let owner = outage.engine.owner().clone();
    let long_term = |id: Uuid, text: &str| json!({"id": id, "text": text, "level": "long_term"});
    let text_of = async |id| outage.engine.get(&mine(&outage.engine), id, None).await.expect("found").text;
    let ids = || (Uuid::now_v7(), Uuid::now_v7());

    // A write: the others of its batch are stored, and may be sent again.
    let (id, another) = ids();
    outage.switch.precede(&owner, id, "the first to be stored");
    let batch = |text| {
        [long_term(id, text), long_term(another, "another")]
            .map(|value| (outage.engine.permit(&caller(), None, None).expect("one's own"), message(value)))
            .into()
    };
    let refused = outage.engine.store_batch(batch("the second to be stored"), None).await.expect_err("it came second");
    assert!(matches!(refused, Error::IdTaken(taken) if taken.as_uuid() == id), "{refused:?}");
    assert_eq!((text_of(id).await.as_str(), text_of(another).await.as_str()), ("the first to be stored", "another"));
    outage.engine.store_batch(batch("the first to be stored"), None).await.expect("all of it is there");

    // An import.
    let lines: Vec<ExportedContext> = outage.engine.export(&mine(&outage.engine), None).await.expect("lines");
    let (id, another) = ids();
    outage.switch.precede(&owner, id, "the first to be imported");
    let line = |id, text: &str| ExportedContext { id, text: text.to_owned(), ..lines[0].clone() };
    let lines = vec![(1, line(id, "the second to be imported")), (2, line(another, "another"))];
    let imported = outage.engine.import(&mine(&outage.engine), lines).await.expect("an answer");
    let codes: Vec<(usize, Code)> = imported.refused.into_iter().map(|refused| (refused.line, refused.code)).collect();
    assert_eq!((imported.imported, codes), (1, vec![(1, Code::IdConflict)]));
    assert_eq!((text_of(id).await.as_str(), text_of(another).await.as_str()), ("the first to be imported", "another"));

    // The journal.
    let (id, another) = ids();
    outage.cut();
    outage.store(long_term(id, "the second to be drained")).await;
    outage.store(long_term(another, "another")).await;
    outage.switch.precede(&owner, id, "the first to be drained");
    outage.back().await;
    assert_eq!((text_of(id).await.as_str(), text_of(another).await.as_str()), ("the first to be drained", "another"));
    let texts: Vec<String> = outage.conflicts().into_iter().map(|context| context.text).collect();
    assert_eq!(texts, ["the second to be drained"]);
}

#[tokio::test]
async fn a_write_that_the_store_refuses_is_refused_at_once_and_not_journaled() {
    let outage = Outage::new().await;
    outage.switch.refuse(Some("poison"));
    let refused = store(&outage.engine, json!({"text": "poison"})).await.expect_err("refused");
    assert!(refused.is_refusal(), "{refused:?}");
    assert_eq!(Problem::from(refused).code, Code::StoreRefused);
    assert!(!outage.engine.inner.pending.is_active(), "nothing waits");
    assert_eq!(outage.store(json!({"text": "tea"})).await.status, AckStatus::Stored);
    assert_eq!(outage.listed().await, [("tea".to_owned(), 1)]);
}

#[tokio::test]
async fn a_journaled_write_that_the_store_refuses_does_not_stop_the_others_and_is_set_aside() {
    let outage = Outage::new().await;
    let cup = outage.store(json!({"text": "a cup", "level": "long_term"})).await.id;
    outage.cut();
    let mut ids = Vec::new();
    for number in 0..5 {
        let text = if number % 2 == 0 { format!("poison {number}") } else { format!("tea {number}") };
        ids.push(outage.store(json!({"text": text, "level": "long_term"})).await.id);
    }
    let change = message(json!({"text": "a cup of tea"}));
    let changed = outage.engine.update(&mine(&outage.engine), ids[1], change).await.expect("journaled");
    assert_eq!(changed.status, AckStatus::Journaled);
    let change = message(json!({"text": "a poisoned cup"}));
    let changed = outage.engine.update(&mine(&outage.engine), ids[3], change).await.expect("journaled");
    assert_eq!(changed.status, AckStatus::Journaled);
    outage.store(json!({"text": "the last one", "level": "long_term"})).await;
    outage.switch.refuse(Some("poison"));
    outage.back().await;

    let mut texts: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["a cup", "a cup of tea", "tea 3", "the last one"]);
    assert_eq!(outage.engine.get(&mine(&outage.engine), cup, None).await.expect("there").text, "a cup");
    let aside = |name| outage.directory.path().join("data/journal").join(name);
    let lines = std::fs::read_to_string(aside("refused.jsonl")).expect("a file");
    let refused: Vec<ExportedContext> = lines.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(
        refused.iter().map(|context| context.text.as_str()).collect::<Vec<_>>(),
        ["poison 0", "poison 2", "poison 4"]
    );
    let kept = std::fs::read_to_string(aside("refused_changes.jsonl")).expect("a file");
    assert!(kept.lines().count() == 1 && kept.contains("a poisoned cup"), "{kept}");
    let metrics = outage.engine.inner.metrics.render().expect("metrics");
    assert!(metrics.contains("context_manager_journal_dropped_total{reason=\"refused\"} 4"), "{metrics}");

    // The lines are an import's, for the time when the store takes them.
    outage.switch.refuse(None);
    let lines = refused.into_iter().enumerate().map(|(place, context)| (place + 1, context)).collect();
    let imported = outage.engine.import(&mine(&outage.engine), lines).await.expect("imported");
    assert_eq!((imported.imported, imported.refused.len()), (3, 0));
    assert_eq!(outage.listed().await.len(), 7);
}

#[tokio::test]
async fn a_store_that_refuses_everything_gets_the_journal_when_it_takes_writes_again() {
    let outage = Outage::new().await;
    outage.cut();
    let texts: Vec<String> = (0..150).map(|number| format!("tea {number:03}")).collect();
    for text in &texts {
        outage.store(json!({"text": text, "level": "long_term"})).await;
    }
    outage.switch.refuse(Some("tea"));
    outage.switch.away.store(false, Ordering::Release);
    for _ in 0..3 {
        let refused = outage.engine.drain().await.expect_err("all of it is refused");
        assert!(refused.is_refusal(), "{refused:?}");
    }
    assert!(!outage.directory.path().join("data/journal/refused.jsonl").exists(), "nothing is given up");
    assert_eq!(outage.listed().await.len(), texts.len(), "what waits is read meanwhile");

    outage.switch.refuse(None);
    outage.back().await;
    let listed: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    assert_eq!(listed, texts);
}

#[tokio::test]
async fn l1_is_filled_when_the_store_comes_back() {
    let outage = Outage::new().await;
    let level = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    outage.store(level("tea is hot")).await;
    let outage = outage.restarted(true).await;
    assert!(outage.texts("tea").await.is_empty());
    outage.store(level("tea is cold")).await;
    outage.back().await;
    outage.engine.tick().await.expect("regular work");
    outage.cut();
    assert_eq!(outage.texts("tea").await, ["tea is cold", "tea is hot"]);
}

#[tokio::test]
async fn what_was_deleted_by_conditions_while_the_store_was_away_does_not_come_back() {
    let outage = Outage::new().await;
    let about = |text: &str, topic: &str| json!({"text": text, "metadata": {"topic": topic}});
    outage.store(about("tea in the store", "tea")).await;
    outage.store(about("coffee in the store", "coffee")).await;
    outage.cut();
    outage.store(about("tea in the journal", "tea")).await;
    let conditions = json!({"filter": {"topic": {"eq": "tea"}}});
    let deleted = delete_matching(&outage.engine, conditions).await.expect("journaled");
    assert!(deleted.journaled && deleted.deleted == 1, "{deleted:?}");
    outage.store(about("tea after it", "tea")).await;
    assert_eq!(outage.texts("tea").await, ["tea after it"]);

    // The same after a restart, with the store back but not drained yet, and drained.
    let outage = outage.restarted(false).await;
    let expected = ["coffee in the store", "tea after it"].map(|text| (text.to_owned(), 1));
    let sorted = |mut listed: Vec<(String, i64)>| {
        listed.sort();
        listed
    };
    assert_eq!(sorted(outage.listed().await), expected);
    outage.back().await;
    assert_eq!(sorted(outage.listed().await), expected);
}

/// The store gets it as it was stored first, which the deletion is not about.
#[tokio::test]
async fn what_was_deleted_as_a_change_had_left_it_is_not_seen_before_that_change_gets_there() {
    let outage = Outage::new().await;
    outage.cut();
    let draft = json!({"text": "tea", "level": "long_term", "metadata": {"tag": "draft"}});
    let id = outage.store(draft).await.id;
    let change = message(json!({"metadata": {"tag": "secret"}}));
    outage.engine.update(&mine(&outage.engine), id, change).await.expect("journaled");
    let deleted = delete_matching(&outage.engine, json!({"filter": {"tag": {"eq": "secret"}}})).await;
    assert_eq!(deleted.expect("journaled").deleted, 1);
    outage.switch.away.store(false, Ordering::Release);
    assert!(outage.engine.drain().await.expect("drained"), "the change is next");
    assert!(outage.switch.has(id).await, "as it was stored first");
    assert!(matches!(outage.engine.get(&mine(&outage.engine), id, None).await, Err(Error::NotFound(_))));
    assert_eq!((outage.texts("tea").await, outage.listed().await), (Vec::new(), Vec::new()));
    let figures = outage.engine.stats(&mine(&outage.engine)).await.expect("figures");
    assert_eq!(figures.contexts.values().sum::<usize>(), 0);
    outage.back().await;
    assert!(!outage.switch.has(id).await);
}

/// What is brought to the store before the deletion fills the ring, and nothing of it makes room.
#[tokio::test]
async fn what_was_deleted_with_its_level_does_not_get_away_to_another_one() {
    let mut outage = Outage::new().await;
    outage.config.levels.immediate.capacity = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("another capacity");
    outage.cut();
    for text in ["first tea", "second tea"] {
        outage.store(json!({"text": text, "level": "immediate", "session": "s"})).await;
    }
    let deleted = delete_matching(&outage.engine, json!({"levels": ["immediate"]})).await.expect("journaled");
    assert_eq!(deleted.deleted, 2);
    outage.back().await;
    assert_eq!(outage.listed().await, []);
}

#[tokio::test]
async fn what_was_superseded_while_the_store_was_away_stays_so() {
    let outage = Outage::new().await;
    let old = outage.store(json!({"text": "Ann lives in Bonn"})).await.id;
    outage.cut();
    let middle = outage.store(json!({"text": "Ann lives in Ulm", "supersedes": [old]})).await.id;
    outage.store(json!({"text": "Ann lives in Rome", "supersedes": [middle]})).await;
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Rome"]);

    // The store answers before the journal is drained, and after it.
    let outage = outage.restarted(false).await;
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Rome"]);
    assert_eq!(
        outage.engine.get(&mine(&outage.engine), old, None).await.expect("by its id").superseded_by,
        None,
        "not yet"
    );
    outage.back().await;
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Rome"]);
    assert_eq!(
        outage.engine.get(&mine(&outage.engine), old, None).await.expect("by its id").superseded_by,
        Some(middle)
    );
}

#[tokio::test]
async fn writes_to_other_memories_wait_for_the_store_and_touch_no_other() {
    let directory = TempDir::new().expect("a directory");
    let mut config = super::config(directory.path());
    config.access = vec![sharing::rule(&Operation::ALL, None, Some("team"))];
    let (engine, switch) = begin(&config, false).await;
    let outage = Outage { engine, switch, config, directory };
    let team = json!({"space": "team"});
    let level = "long_term";
    let in_team = |text: &str, session: &str| json!({"text": text, "session": session, "level": level, "scope": team});
    let at_home = |text: &str, session: &str| json!({"text": text, "session": session, "level": level});
    for session in ["cleared", "kept", "doomed"] {
        outage.store(at_home(&format!("own {session}"), session)).await;
        outage.store(in_team(&format!("team {session}"), session)).await;
    }
    outage.cut();
    let scope: Scope = message(team.clone());
    let new = outage.store(in_team("team new", "kept")).await;
    assert_eq!(new.status, AckStatus::Journaled);
    let granted = outage.engine.permit(&caller(), Some(&scope), None).expect("permitted");
    let changed = outage.engine.update(&granted, new.id, message(json!({"text": "team newer"}))).await;
    assert_eq!(changed.expect("journaled").status, AckStatus::Journaled);
    let gone = outage.store(in_team("team gone", "kept")).await.id;
    let granted = outage.engine.permit(&caller(), Some(&scope), None).expect("permitted");
    let unknown = outage.engine.delete(&granted, Uuid::now_v7()).await.expect_err("the store would have to be asked");
    assert_eq!(Problem::from(unknown).status, 503);
    outage.engine.delete(&granted, gone).await.expect("journaled");
    let granted = outage.engine.permit(&caller(), Some(&scope), Some("cleared")).expect("permitted");
    assert!(outage.engine.clear_session(&granted).await.expect("journaled").journaled);
    let doomed = json!({"session": "doomed", "scope": team});
    assert!(delete_matching(&outage.engine, doomed).await.expect("journaled").journaled);
    let superseding = json!({"text": "x", "supersedes": [gone], "scope": team});
    let refused = store(&outage.engine, superseding).await.expect_err("the store would have to be asked");
    assert_eq!(Problem::from(refused).status, 503);

    let texts = async |outage: &Outage, scope: Option<&Scope>| {
        let granted = outage.engine.permit(&caller(), scope, None).expect("permitted");
        let page = outage.engine.list(&granted, ListQuery::default()).await.expect("a page");
        let mut texts: Vec<String> = page.contexts.into_iter().map(|context| context.text).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(texts(&outage, Some(&scope)).await, ["team newer"], "as far as it is known");
    // After a restart with the store back the waiting writes lie over it; then they are brought to it.
    let outage = outage.restarted(false).await;
    let own = ["own cleared", "own doomed", "own kept"];
    let shared = ["team kept", "team newer"];
    assert_eq!(texts(&outage, Some(&scope)).await, shared);
    assert_eq!(texts(&outage, None).await, own);
    outage.back().await;
    assert_eq!(texts(&outage, Some(&scope)).await, shared);
    assert_eq!(texts(&outage, None).await, own);
    let granted = outage.engine.permit(&caller(), Some(&scope), None).expect("permitted");
    let newer = outage.engine.get(&granted, new.id, None).await.expect("there");
    assert_eq!((newer.version, newer.written_by.as_deref()), (2, Some("agent")));
}

#[tokio::test]
async fn a_context_that_a_journaled_one_supersedes_cannot_be_changed_and_does_not_come_back() {
    let outage = Outage::new().await;
    outage.cut();
    let old = outage.store(json!({"text": "Ann lives in Bonn"})).await.id;
    outage.store(json!({"text": "Ann lives in Rome", "supersedes": [old]})).await;
    let refused = outage.engine.update(&mine(&outage.engine), old, message(json!({"text": "Ann lives in Ulm"}))).await;
    assert!(matches!(refused, Err(Error::Past { .. })), "{refused:?}");
    outage.back().await;
    assert_eq!(outage.texts("where does Ann live").await, ["Ann lives in Rome"]);
}

#[tokio::test]
async fn a_journaled_deletion_leaves_what_another_sidecar_has_stored_since() {
    let outage = Outage::new().await;
    let id = outage.store(json!({"text": "tea before", "session": "s"})).await.id;
    let again = outage.store(json!({"text": "tea by its id"})).await.id;
    outage.cut();
    clear(&outage.engine, "s").await.expect("journaled");
    outage.engine.delete(&mine(&outage.engine), again).await.expect("journaled");
    tokio::time::sleep(Duration::from_millis(3)).await;
    // Another sidecar of the agent still reaches the store.
    let mut points = outage.switch.store.get(outage.engine.owner(), vec![id.into(), again.into()], now()).await;
    let points = points.as_mut().expect("there");
    for point in points.iter_mut() {
        if point.context.id == id.into() {
            point.context.id = Uuid::now_v7().into();
        }
        point.context.text = "tea since".to_owned();
        point.context.created_at = now();
    }
    outage.switch.store.upsert(points.clone()).await.expect("stored");
    outage.back().await;
    let texts: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    assert_eq!(texts, ["tea since", "tea since"]);
    assert_eq!(lines(&outage, Kind::RefusedChanges).len(), 1, "the one that names it is kept for its agent to decide");
}

/// Journaled writes follow one another by their numbers. A deletion reaches what was stored before it, although that seems to be of the
/// future.
#[tokio::test]
async fn a_clock_that_jumps_while_the_store_is_away_changes_no_order_and_spares_nothing_that_was_deleted() {
    const HOURS: i64 = 3 * 3_600;
    let outage = Outage::new().await;
    outage.store(json!({"text": "in the session", "session": "s"})).await;
    outage.store(json!({"text": "of a topic", "metadata": {"topic": "tea"}})).await;
    let by_id = outage.store(json!({"text": "by its id"})).await.id;
    let changed = outage.store(json!({"text": "version 1", "session": "t"})).await.id;
    outage.cut();
    jump_to(HOURS);
    outage.store(json!({"text": "journaled ahead", "session": "t", "level": "long_term"})).await;
    outage.store(json!({"text": "journaled in the session", "session": "s"})).await;
    jump_to(-HOURS);
    let behind = outage.store(json!({"text": "journaled behind", "session": "t", "level": "long_term"})).await.id;
    outage.engine.update(&mine(&outage.engine), behind, message(json!({"text": "changed"}))).await.expect("journaled");
    outage.engine.delete(&mine(&outage.engine), by_id).await.expect("journaled");
    clear(&outage.engine, "s").await.expect("journaled");
    let topic = message(json!({"filter": {"topic": {"eq": "tea"}}}));
    outage.engine.delete_matching(&mine(&outage.engine), topic).await.expect("journaled");
    jump_to(0);
    let outage = outage.restarted(true).await;
    outage.back().await;
    outage.engine.update(&mine(&outage.engine), changed, message(json!({"text": "version 2"}))).await.expect("changed");
    let selection = Selection::alive(outage.engine.owner().clone(), now());
    let mut contexts = outage.switch.store.list(selection, None, 100).await.expect("a page").contexts;
    contexts.sort_by_key(|context| context.sequence);
    let texts: Vec<&str> = contexts.iter().map(|context| context.text.as_str()).collect();
    assert_eq!(texts, ["version 2", "journaled ahead", "changed"]);
}

/// What a drain asks of the embedding and of the store at once is bounded by contexts and by bytes, also when one write has more.
#[tokio::test]
async fn a_drain_is_bounded_by_contexts_and_by_bytes_and_keeps_the_order() {
    let outage = Outage::new().await;
    outage.cut();
    let long = |number: usize| {
        let metadata = json!({"filling": "x".repeat(15_000)});
        json!({"text": format!("{number:03}"), "session": "s", "level": "long_term", "metadata": metadata})
    };
    for number in 0..20 {
        outage.store(long(number)).await;
    }
    let granted = || outage.engine.permit(&caller(), None, Some("s")).expect("one's own");
    let batch = (20..40).map(|number| (granted(), message(long(number)))).collect();
    outage.engine.store_batch(batch, None).await.expect("journaled");
    for number in 40..190 {
        outage.store(json!({"text": format!("{number:03}"), "session": "s", "level": "long_term"})).await;
    }
    outage.switch.upserts.lock().expect("not poisoned").clear();
    outage.back().await;
    let upserts = outage.switch.upserts.lock().expect("not poisoned").clone();
    assert_eq!(upserts.iter().map(|(contexts, _)| contexts).sum::<usize>(), 190, "{upserts:?}");
    assert!(upserts.iter().all(|(contexts, bytes)| *contexts <= 100 && *bytes <= 256 << 10), "{upserts:?}");
    assert!(upserts.len() < 15, "several go together: {upserts:?}");
    let selection = Selection::alive(outage.engine.owner().clone(), now());
    let mut contexts = outage.switch.store.list(selection, None, 1_000).await.expect("a page").contexts;
    contexts.sort_by_key(|context| context.sequence);
    let numbers: Vec<&str> = contexts.iter().map(|context| context.text.as_str()).collect();
    assert!(numbers.is_sorted() && numbers.len() == 190, "{numbers:?}");
}
