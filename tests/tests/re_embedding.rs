//! The embedding model changes: contexts stay, are found meanwhile, and get their new vectors whatever happens to the sidecar.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::message::{
    Acknowledgment, ContextList, ContextResponse, ReEmbedding, ReEmbeddingState, Stats,
};
use context_manager_tests::{
    client::{Client, Draft},
    embeddings::{Behaviour, Embeddings},
    qdrant::Qdrant,
    sidecar::Sidecar,
};
use nix::sys::signal::Signal;
use serde_json::json;

const FORMER: &str = "former-64";
/// Of the same dimensions, so that nothing but its name tells its vectors from the former ones.
const OPPOSITE: &str = "opposite-64";
const SHORTER: &str = "shorter-32";
const CONTEXTS: usize = 160;
/// Contexts that the sidecar embeds at once.
const BATCH: usize = 32;
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the contexts lie.
struct Store {
    config: String,
    _server: Option<Qdrant>,
}

impl Store {
    /// In the sidecar's own process, in its folder.
    const fn embedded() -> Self {
        Self { config: String::new(), _server: None }
    }

    async fn qdrant(folder: &Path) -> Result<Self> {
        let server = Qdrant::start(&folder.join("qdrant")).await?;
        let url = server.address();
        let config = format!("[store.qdrant]\nurl = \"http://{url}\"\ncollection = \"memory\"\ntimeout = \"5s\"\n");
        Ok(Self { config, _server: Some(server) })
    }

    fn with(&self, embedding: &str, contexts_per_second: u32, keep_former_for: &str) -> String {
        format!(
            "{}{embedding}\n[embedding.re_embedding]\ncontexts_per_second = {contexts_per_second}\n\
             keep_former_for = \"{keep_former_for}\"\n",
            self.config
        )
    }
}

async fn stats(client: &Client) -> Result<Stats> {
    client.get("/v1/contexts/stats").await?.message()
}

/// Waits until something is so about the vectors.
async fn until(client: &Client, sidecar: &Sidecar, holds: impl Fn(Option<ReEmbedding>) -> bool) -> Result<()> {
    let since = Instant::now();
    loop {
        let re_embedding = stats(client).await?.re_embedding;
        if holds(re_embedding) {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            bail!("still {re_embedding:?} after {PATIENCE:?}: {}", sidecar.log()?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stores contexts of several sessions, of which some are changed and one takes another's place.
async fn fill(client: &Client) -> Result<()> {
    let context = |number: usize| {
        let (text, session) = (format!("memory {number} of the lighthouse"), format!("s{}", number % 5));
        json!({"text": text, "session": session, "level": "long_term"})
    };
    let mut first = None;
    for batch in (0..CONTEXTS - 1).collect::<Vec<_>>().chunks(40) {
        let contexts: Vec<_> = batch.iter().map(|number| context(*number)).collect();
        let stored = client.post("/v1/contexts/batch", &json!({ "contexts": contexts })).await?;
        ensure!(stored.status == 201, "{}", String::from_utf8_lossy(&stored.body));
        let stored: context_manager_protocol::message::AcknowledgmentBatch = stored.message()?;
        first = first.or_else(|| stored.acknowledgments.first().map(|acknowledged| acknowledged.id));
    }
    let first = first.context("contexts were stored")?;
    let change = Draft::new("PATCH", "", serde_json::to_vec(&json!({"text": "a changed memory of the lighthouse"}))?);
    let path = format!("/v1/contexts/{first}");
    let changed = client.send(Draft { path: &path, ..change }).await?;
    ensure!(changed.status == 200, "{}", String::from_utf8_lossy(&changed.body));
    let last = json!({"text": "what took its place at the lighthouse", "level": "long_term", "supersedes": [first]});
    ensure!(client.post("/v1/contexts", &last).await?.status == 201);
    Ok(())
}

/// What the caller sees of each context: text and version.
async fn listed(client: &Client) -> Result<BTreeMap<String, (String, i64)>> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page: ContextList = client.get(&format!("/v1/contexts?limit=100{cursor}")).await?.message()?;
        all.extend(page.contexts.into_iter().map(|context| (context.id.to_string(), (context.text, context.version))));
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

async fn search(client: &Client) -> Result<ContextResponse> {
    let query = json!({"query": "lighthouse memory", "token_budget": 2_000, "limit": 50, "explain": true});
    let answer = client.post("/v1/contexts/search", &query).await?;
    ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.message()
}

/// How many of the found contexts were compared by meaning. The least of all scores is 0, so one of them may go uncounted.
fn compared(answer: &ContextResponse) -> usize {
    let by_meaning = |name: &String, score: f64| name.starts_with("dense") && score > 0.0;
    let explained = answer.contexts.iter().filter_map(|found| found.explanation.as_ref());
    explained.filter(|parts| parts.iter().any(|(name, score)| by_meaning(name, *score))).count()
}

async fn killed_again_and_again(folder: &Path, store: &Store) -> Result<()> {
    let api = Embeddings::start().await?;
    let sidecar = Sidecar::start(folder, &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    fill(&sidecar.client()?).await?;
    let before = listed(&sidecar.client()?).await?;
    ensure!(compared(&search(&sidecar.client()?).await?) > 0, "the former model's vectors are compared");
    drop(sidecar);

    let slowly = store.with(&api.config_once(OPPOSITE), 60, "0s");
    let (mut kills, mut last) = (0, 0);
    while kills < 4 {
        let mut sidecar = Sidecar::start(folder, &slowly).await?;
        let client = sidecar.client()?;
        let made = api.texts(OPPOSITE);
        // Killed soon after it has begun a batch, so that some are killed within one.
        let begun = Instant::now();
        while api.texts(OPPOSITE) == made && begun.elapsed() < PATIENCE {
            let answer = search(&client).await?;
            ensure!(!answer.contexts.is_empty(), "contexts are found while they wait for their vectors");
            ensure!(answer.degraded == ["re_embedding"], "the answer says so: {:?}", answer.degraded);
            let done = stats(&client).await?.re_embedding.context("it is under way")?.done;
            ensure!(compared(&answer) <= done, "the former model's vectors are not compared: {answer:?}");
        }
        let progress = stats(&client).await?.re_embedding.context("it is under way")?;
        ensure!(progress.done >= last, "progress is kept: {progress:?} after {last}");
        last = progress.done;
        tokio::time::sleep(Duration::from_millis(17 * (kills + 1))).await;
        sidecar.signal(Signal::SIGKILL)?;
        sidecar.wait(Duration::from_secs(5)).await?;
        kills += 1;
    }

    let sidecar = Sidecar::start(folder, &store.with(&api.config_once(OPPOSITE), 1_000, "0s")).await?;
    let client = sidecar.client()?;
    until(&client, &sidecar, |re_embedding| re_embedding.is_none()).await?;
    ensure!(listed(&client).await? == before, "for the caller nothing has changed");
    let answer = search(&client).await?;
    ensure!(answer.degraded.is_empty(), "{:?}", answer.degraded);
    ensure!(compared(&answer) + 2 >= answer.contexts.len(), "all are compared by meaning again: {answer:?}");
    // A changed context has an earlier version, which is searched as well.
    let queries = 200;
    let (needed, made) = (2 * (CONTEXTS + 1), api.texts(OPPOSITE));
    let most = needed + 2 * BATCH * usize::try_from(kills)? + queries;
    ensure!((needed..=most).contains(&made), "{made} texts for {needed}: it goes on and does not begin anew");
    let since = Instant::now();
    while sidecar.admin_page("/metrics").await?.contains("context_manager_re_embedding_state 1") {
        ensure!(since.elapsed() < PATIENCE, "{}", sidecar.log()?);
    }
    println!("{needed} texts needed, {made} embedded with queries, in {} starts", kills + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_goes_on_where_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    killed_again_and_again(folder.path(), &Store::embedded()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_before_a_server_goes_on_where_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::qdrant(folder.path()).await?;
    killed_again_and_again(folder.path(), &store).await
}

async fn changed_while_it_runs(folder: &Path, store: &Store) -> Result<()> {
    let api = Embeddings::start().await?;
    let sidecar = Sidecar::start(folder, &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    let client = sidecar.client()?;
    fill(&client).await?;
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let mut written = 0;
            loop {
                let text = format!("memory of the lighthouse while it changes, {written}");
                let stored = client.post("/v1/contexts", &json!({"text": text, "level": "immediate"})).await?;
                ensure!(stored.status == 201, "write {written}: {}", String::from_utf8_lossy(&stored.body));
                let found = search(&client).await?;
                ensure!(!found.contexts.is_empty(), "search {written} finds something");
                written += 1;
                if written > 20 && found.degraded.is_empty() && stats(&client).await?.embedding_model == OPPOSITE {
                    return Ok(written);
                }
            }
        }
    });
    sidecar.reconfigure(&store.with(&api.config_once(OPPOSITE), 200, "0s"))?;
    let written = tokio::time::timeout(PATIENCE, writer).await.with_context(|| sidecar.log().unwrap_or_default())??;
    let written = written.with_context(|| sidecar.log().unwrap_or_default())?;
    until(&client, &sidecar, |re_embedding| re_embedding.is_none()).await?;
    println!("{written} writes and searches during the change, none failed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_while_it_runs_fails_no_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    changed_while_it_runs(folder.path(), &Store::embedded()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_while_it_runs_before_a_server_fails_no_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::qdrant(folder.path()).await?;
    changed_while_it_runs(folder.path(), &store).await
}

/// Going back before the end costs nothing for what was not changed, and another model comes and goes.
#[tokio::test(flavor = "multi_thread")]
async fn going_back_half_way_needs_no_new_vectors() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::qdrant(folder.path()).await?;
    let api = Embeddings::start().await?;
    let sidecar = Sidecar::start(folder.path(), &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    let client = sidecar.client()?;
    fill(&client).await?;
    let made = api.texts(FORMER);
    sidecar.reconfigure(&store.with(&api.config_once(SHORTER), 60, "1h"))?;
    until(&client, &sidecar, |re_embedding| re_embedding.is_some_and(|progress| progress.done >= BATCH)).await?;
    let text = json!({"text": "written with the other model", "level": "long_term"});
    let stored: Acknowledgment = client.post("/v1/contexts", &text).await?.message()?;
    sidecar.reconfigure(&store.with(&api.config_once(FORMER), 1_000, "1h"))?;
    let since = Instant::now();
    while stats(&client).await?.embedding_model != FORMER {
        ensure!(since.elapsed() < PATIENCE, "{}", sidecar.log()?);
    }
    until(&client, &sidecar, |re_embedding| re_embedding.is_none()).await?;
    let found = search(&client).await?;
    ensure!(found.degraded.is_empty() && compared(&found) > 0, "{found:?}");
    // One context was written meanwhile, and one query was made.
    let more = api.texts(FORMER) - made;
    ensure!(more <= 2 + 1, "{more} texts were embedded for {}", stored.id);
    Ok(())
}

/// Both work at what is left, and neither harms the other.
#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_of_one_agent_share_the_work() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::qdrant(folder.path()).await?;
    let api = Embeddings::start().await?;
    let sidecar = Sidecar::start(folder.path(), &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    fill(&sidecar.client()?).await?;
    let before = listed(&sidecar.client()?).await?;
    drop(sidecar);
    let config = store.with(&api.config_once(SHORTER), 100, "0s");
    let other = tempfile::tempdir()?;
    let both = [Sidecar::start(folder.path(), &config).await?, Sidecar::start(other.path(), &config).await?];
    for sidecar in &both {
        until(&sidecar.client()?, sidecar, |re_embedding| re_embedding.is_none()).await?;
    }
    for sidecar in &both {
        ensure!(listed(&sidecar.client()?).await? == before, "for the caller nothing has changed");
    }
    let made = api.texts(SHORTER);
    ensure!(made < 4 * (CONTEXTS + 1), "{made} texts: not everything was done twice");
    Ok(())
}

/// The API is down for a while, and one text is not to its liking, until that is changed while the API is down again.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_fails_or_refuses_a_text_holds_up_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, api) = (Store::embedded(), Embeddings::start().await?);
    let sidecar = Sidecar::start(folder.path(), &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    fill(&sidecar.client()?).await?;
    drop(sidecar);
    api.set(Behaviour::Fails(503));
    api.refuse("memory 17 of");
    let breaker = "[circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n";
    let config = format!("{}{breaker}", store.with(&api.config_once(OPPOSITE), 1_000, "1h"));
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    let waits = |progress: ReEmbedding| progress.state == ReEmbeddingState::Waiting && progress.done == 0;
    until(&client, &sidecar, |re_embedding| re_embedding.is_some_and(waits)).await?;
    ensure!(sidecar.admin_page("/health").await?.contains("re_embedding"));
    ensure!(!search(&client).await?.contexts.is_empty(), "the words answer");
    api.set(Behaviour::Well);
    let rest = |progress: ReEmbedding| progress.state == ReEmbeddingState::Complete && progress.refused > 0;
    until(&client, &sidecar, |re_embedding| re_embedding.is_some_and(rest)).await?;
    let progress = stats(&client).await?.re_embedding.context("the refused ones are told")?;
    // The context itself, and not the one after it in its session, whose text with the one before has it too.
    ensure!(progress.refused == 1 && progress.done == progress.contexts - 1, "{progress:?}");
    ensure!(search(&client).await?.degraded.is_empty(), "all that can be done is done");

    api.set(Behaviour::Fails(503));
    let refused = listed(&client).await?.into_iter().find(|(_, (text, _))| text.starts_with("memory 17 of"));
    let path = format!("/v1/contexts/{}", refused.context("it is there")?.0);
    let change = serde_json::to_vec(&json!({"text": "another memory of the lighthouse"}))?;
    let changed = client.send(Draft::new("PATCH", &path, change)).await?;
    ensure!(changed.status == 200, "{}", String::from_utf8_lossy(&changed.body));
    let progress = stats(&client).await?.re_embedding.context("its vectors are missing")?;
    ensure!(progress.state != ReEmbeddingState::Complete, "{progress:?}");
    api.set(Behaviour::Well);
    // What is left is what the context was before.
    let rest = |progress: ReEmbedding| {
        let is_whole = progress.refused == 1 && progress.done + 1 == progress.contexts;
        progress.state == ReEmbeddingState::Complete && is_whole
    };
    until(&client, &sidecar, |re_embedding| re_embedding.is_some_and(rest)).await
}

/// A text that is too long for the model costs a few calls, and neither it nor what follows it stays without vectors.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_too_long_is_found_by_its_beginning() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, api) = (Store::embedded(), Embeddings::start().await?);
    api.takes(200);
    let sidecar = Sidecar::start(folder.path(), &store.with(&api.config_once(FORMER), 1_000, "1h")).await?;
    let client = sidecar.client()?;
    let long = format!("the lighthouse keeper paints {}", "and paints ".repeat(4_000));
    for text in [long.as_str(), "a memory of the kettle in the lighthouse"] {
        let context = json!({"text": text, "session": "s", "level": "long_term"});
        let stored = client.post("/v1/contexts", &context).await?;
        ensure!(stored.status == 201, "{}", String::from_utf8_lossy(&stored.body));
    }
    until(&client, &sidecar, |re_embedding| re_embedding.is_none()).await?;
    let calls = api.arrivals().len();
    ensure!(calls < 30, "{calls} calls");
    let query = json!({"query": "who paints the lighthouse", "token_budget": 100_000, "explain": true});
    let found: ContextResponse = client.post("/v1/contexts/search", &query).await?.message()?;
    ensure!(found.contexts.len() == 2 && compared(&found) > 0 && found.degraded.is_empty(), "{:?}", found.degraded);
    Ok(())
}

/// Whoever does not want it gets a refusal that names both models, and the contexts stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_refused_if_that_is_wanted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (store, api) = (Store::embedded(), Embeddings::start().await?);
    let refusing = |model: &str| format!("{}on_model_change = \"refuse\"\n", api.config_once(model));
    let sidecar = Sidecar::start(folder.path(), &store.with(&refusing(FORMER), 1_000, "1h")).await?;
    let client = sidecar.client()?;
    fill(&client).await?;
    sidecar.reconfigure(&store.with(&refusing(SHORTER), 1_000, "1h"))?;
    let since = Instant::now();
    while !sidecar.log()?.contains(SHORTER) {
        ensure!(since.elapsed() < PATIENCE, "{}", sidecar.log()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(stats(&client).await?.embedding_model == FORMER && sidecar.log()?.contains("on_model_change"));
    drop(sidecar);
    let mut refused = Sidecar::spawn(folder.path(), &store.with(&refusing(SHORTER), 1_000, "1h"))?;
    let code = refused.wait(Duration::from_secs(10)).await?;
    let log = refused.log()?;
    ensure!(code == Some(1) && log.contains(FORMER) && log.contains(SHORTER), "{code:?} {log}");
    let sidecar = Sidecar::start(folder.path(), &store.with(&refusing(FORMER), 1_000, "1h")).await?;
    ensure!(listed(&sidecar.client()?).await?.len() == CONTEXTS - 1, "all but the superseded one");
    Ok(())
}
