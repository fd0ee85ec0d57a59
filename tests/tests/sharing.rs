//! Agents in pods of their own that share a space on a Qdrant server: what they may see of each other, and what they may not.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::{
    message::{AckStatus, Acknowledgment, Context, ContextList, ContextResponse},
    problem::Code,
};
use context_manager_tests::{
    client::{Client, Draft},
    files,
    team::Team,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

const CONTEXTS: &str = "/v1/contexts";
const SEARCH: &str = "/v1/contexts/search";

const RULES: &str = r#"
[[access]]
agents = ["planner", "reviewer"]
operations = ["read", "store", "update"]
target = { space = "team" }

[[access]]
agents = ["reviewer"]
operations = ["read"]
target = { agent = "planner", session = "handover" }
"#;

async fn store(client: &Client, context: &Value) -> Result<Acknowledgment> {
    client.post(CONTEXTS, context).await?.message()
}

async fn found(client: &Client, request: &Value) -> Result<Vec<Context>> {
    let answer: ContextResponse = client.post(SEARCH, request).await?.message()?;
    Ok(answer.contexts.into_iter().map(|found| found.context).collect())
}

async fn is_denied(client: &Client, draft: Draft<'_>) -> Result<()> {
    let what = format!("{} {}", draft.method, draft.path);
    let problem = client.send(draft).await?.problem().context(what.clone())?;
    ensure!(problem.code == Code::AccessDenied && problem.status == 403, "{what}: {problem:?}");
    Ok(())
}

#[tokio::test]
async fn two_agents_share_a_space_and_nothing_else() -> Result<()> {
    let team = Team::new(RULES).await?;
    let (_planner, planner) = team.agent("team-a", "planner", "").await?;
    let (_reviewer, reviewer) = team.agent("team-a", "reviewer", "").await?;
    let (mut stranger, other) = team.agent("team-a", "stranger", "").await?;

    let scope = json!({"space": "team"});
    let agreed = json!({"text": "We ship the harbour release on Friday", "level": "long_term", "scope": scope});
    let agreed = store(&planner, &agreed).await?.id;
    let secret = store(&planner, &json!({"text": "The harbour release is late", "level": "long_term"})).await?.id;
    let handover = json!({"text": "Read the harbour checklist first", "level": "long_term", "session": "handover"});
    let handover = store(&planner, &handover).await?.id;
    store(&reviewer, &json!({"text": "I review the harbour release on Thursday", "level": "long_term"})).await?;

    // One's own memory and the space, ranked together; each agent sees its own and the space's.
    let both = json!({"query": "when is the harbour release", "scopes": [{}, {"space": "team"}]});
    let texts = found(&reviewer, &both).await?;
    let texts: Vec<(&str, Option<&str>, Option<&str>)> = texts
        .iter()
        .map(|context| (context.text.as_str(), context.space.as_deref(), context.written_by.as_deref()))
        .collect();
    ensure!(texts.len() == 2, "{texts:?}");
    ensure!(texts.contains(&("We ship the harbour release on Friday", Some("team"), Some("planner"))), "{texts:?}");
    ensure!(texts.contains(&("I review the harbour release on Thursday", None, None)), "{texts:?}");
    let own = found(&planner, &json!({"query": "harbour release"})).await?;
    ensure!(own.iter().all(|context| context.space.is_none()) && own.len() == 2, "{own:?}");

    // The other agent's memory: the one session, and not a word of the rest.
    let session = json!({"query": "harbour", "scope": {"agent": "planner", "session": "handover"}});
    let seen = found(&reviewer, &session).await?;
    ensure!(seen.len() == 1 && seen[0].id == handover && seen[0].agent.as_deref() == Some("planner"), "{seen:?}");
    let whole = json!({"query": "harbour", "scope": {"agent": "planner"}});
    is_denied(&reviewer, Draft::new("POST", SEARCH, whole.to_string())).await?;
    is_denied(&reviewer, Draft::new("GET", &format!("{CONTEXTS}/{secret}?agent=planner"), "")).await?;
    let in_session = format!("{CONTEXTS}/{secret}?agent=planner&session=handover");
    ensure!(reviewer.get(&in_session).await?.problem()?.code == Code::ContextNotFound);
    ensure!(reviewer.get(&format!("{CONTEXTS}/{secret}")).await?.problem()?.code == Code::ContextNotFound);

    // A change by the other, with its author; a deletion takes a rule of its own.
    let one = format!("{CONTEXTS}/{agreed}");
    let change = json!({"text": "We ship the harbour release on Monday", "if_version": 1, "scope": scope});
    ensure!(reviewer.send(Draft::new("PATCH", &one, change.to_string())).await?.status == 200);
    let in_space = format!("{one}?space=team");
    let changed: Context = planner.get(&in_space).await?.message()?;
    ensure!((changed.version, changed.written_by.as_deref()) == (2, Some("reviewer")), "{changed:?}");
    let before: Context = planner.get(&format!("{in_space}&as_of={}", changed.updated_at - 1)).await?.message()?;
    ensure!(before.text.ends_with("Friday") && before.written_by.as_deref() == Some("planner"), "{before:?}");
    is_denied(&reviewer, Draft::new("DELETE", &in_space, "")).await?;
    is_denied(&planner, Draft::new("GET", &format!("{CONTEXTS}/export?space=team"), "")).await?;

    // Who has no rule has nothing, and leaves a trace.
    is_denied(&other, Draft::new("GET", &in_space, "")).await?;
    is_denied(&other, Draft::new("POST", SEARCH, both.to_string())).await?;
    let planted = json!({"text": "xyzzy", "session": "plugh", "scope": scope});
    is_denied(&other, Draft::new("POST", CONTEXTS, planted.to_string())).await?;
    let metrics = stranger.admin_page("/metrics").await?;
    ensure!(metrics.contains("context_manager_access_refusals_total{operation=\"read\"} 2\n"), "{metrics}");
    stranger.signal(Signal::SIGTERM)?;
    stranger.wait(Duration::from_secs(5)).await?;
    let log = stranger.log()?;
    ensure!(!log.contains("xyzzy") && !log.contains("plugh") && !log.contains("harbour"), "{log}");
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let audit: Vec<&Value> = lines.iter().filter(|line| line["target"] == "context_manager::audit").collect();
    let refused: Vec<(&str, &str)> = audit
        .iter()
        .map(|line| (line["decision"].as_str().unwrap_or_default(), line["scope.refused"].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ("refused", "read in space team"),
        ("refused", "read in space team"),
        ("refused", "store in a session of space team"),
    ];
    ensure!(refused == expected, "{refused:?} in {log}");
    ensure!(audit.iter().all(|line| line["agent"] == "stranger" && line.to_string().contains("request.id")), "{log}");
    Ok(())
}

/// What `spec.allowedNamespaces` promises: one collection, and a tenant for each namespace. Both agents have the same name, the same session
/// and the same rules.
#[tokio::test]
async fn namespaces_on_one_collection_see_and_change_nothing_of_each_other() -> Result<()> {
    let team = Team::new(RULES).await?;
    let (_ours, ours) = team.agent("team-a", "planner", "").await?;
    let (_theirs, theirs) = team.agent("team-b", "planner", "").await?;
    let context =
        |text: &str| json!({"text": text, "level": "long_term", "session": "harbour", "metadata": {"kind": "plan"}});
    let mine = store(&ours, &context("The harbour release ships on Friday")).await?.id;
    let shared = json!({"text": "The harbour team meets on Monday", "level": "long_term", "scope": {"space": "team"}});
    let shared = store(&ours, &shared).await?.id;
    let other = store(&theirs, &context("The harbour is closed in winter")).await?.id;

    let every = json!({"query": "harbour release", "scopes": [{}, {"space": "team"}]});
    let ids = |contexts: Vec<Context>| contexts.into_iter().map(|context| context.id).collect::<Vec<_>>();
    ensure!(ids(found(&theirs, &every).await?) == [other], "a search finds another namespace's");
    let listed: ContextList = theirs.get(CONTEXTS).await?.message()?;
    ensure!(ids(listed.contexts) == [other], "a list has another namespace's");
    for (id, place) in [(mine, ""), (shared, "?space=team")] {
        let one = format!("{CONTEXTS}/{id}");
        let scope = if place.is_empty() { json!({}) } else { json!({"space": "team"}) };
        let change = json!({"text": "The harbour burns", "scope": scope}).to_string();
        for draft in [Draft::new("GET", &format!("{one}{place}"), ""), Draft::new("PATCH", &one, change)] {
            let problem = theirs.send(draft).await?.problem()?;
            ensure!(problem.code == Code::ContextNotFound, "{id}: {problem:?}");
        }
    }
    // Whatever this is answered with: the other namespace's is still there below.
    theirs.send(Draft::new("DELETE", &format!("{CONTEXTS}/{mine}"), "")).await?;
    // Who knows an id cannot write over it, and does not learn whose it is.
    let mut taken = context("The harbour burns");
    taken["id"] = json!(mine);
    let problem = theirs.post(CONTEXTS, &taken).await?.problem()?;
    ensure!(problem.code == Code::IdConflict && !format!("{problem:?}").contains("team-a"), "{problem:?}");
    // By filter, and by session, all goes that is one's own.
    let all = json!({"levels": ["long_term"]});
    ensure!(theirs.post(&format!("{CONTEXTS}/delete"), &all).await?.status == 200);
    ensure!(theirs.send(Draft::new("DELETE", &format!("{CONTEXTS}?session=harbour"), "")).await?.status == 200);
    ensure!(found(&theirs, &every).await?.is_empty(), "its own is still there");

    let mut left = ids(found(&ours, &every).await?);
    left.sort();
    let mut expected = vec![mine, shared];
    expected.sort();
    ensure!(left == expected, "{left:?} is left of {expected:?}");
    let kept: Context = ours.get(&format!("{CONTEXTS}/{mine}")).await?.message()?;
    ensure!(kept.text.ends_with("Friday") && kept.version == 1, "{kept:?}");
    Ok(())
}

#[tokio::test]
async fn writes_of_both_at_the_same_time_are_all_there() -> Result<()> {
    let team = Team::new(RULES).await?;
    let (_planner, planner) = team.agent("team-a", "planner", "").await?;
    let (_reviewer, reviewer) = team.agent("team-a", "reviewer", "").await?;
    let write = async |client: &Client, who: &str| -> Result<()> {
        for number in 0..20 {
            let text = format!("{who} {number}");
            let context = json!({"text": text, "session": "together", "scope": {"space": "team"}});
            ensure!(store(client, &context).await?.status == AckStatus::Stored);
        }
        Ok(())
    };
    tokio::try_join!(write(&planner, "planner"), write(&reviewer, "reviewer"))?;
    for client in [&planner, &reviewer] {
        let page = format!("{CONTEXTS}?space=team&session=together&limit=100");
        let listed: ContextList = client.get(&page).await?.message()?;
        let mut texts: Vec<_> = listed.contexts.iter().map(|context| context.text.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        ensure!(texts.len() == 40, "{texts:?}");
    }
    Ok(())
}

/// Both look whether the id is free before either has written; the server keeps the first, and says nothing to the second.
#[tokio::test]
async fn of_two_contents_for_one_id_at_the_same_time_one_is_refused() -> Result<()> {
    let team = Team::new(RULES).await?;
    let (_planner, planner) = team.agent("team-a", "planner", "").await?;
    let (_reviewer, reviewer) = team.agent("team-a", "reviewer", "").await?;
    let both = [("planner", &planner), ("reviewer", &reviewer)];
    let context = |id: Uuid, who: &str| json!({"id": id, "text": format!("{who} {id}"), "level": "long_term", "scope": {"space": "team"}});
    let there = async |id: Uuid| -> Result<String> {
        let there: Context = planner.get(&format!("{CONTEXTS}/{id}?space=team")).await?.message()?;
        Ok(there.text)
    };
    for number in 0..100 {
        let id = Uuid::from_u128(number);
        let [one, other] = both.map(|(who, client)| (client, context(id, who)));
        let (one, other) = tokio::try_join!(one.0.post(CONTEXTS, &one.1), other.0.post(CONTEXTS, &other.1))?;
        let (stored, refused, who) = match (one.status, other.status) {
            (201, _) => (one, other, "planner"),
            (_, 201) => (other, one, "reviewer"),
            statuses => anyhow::bail!("{id} is refused to both: {statuses:?}"),
        };
        let acknowledged: Acknowledgment = stored.message()?;
        ensure!(acknowledged.status == AckStatus::Stored, "{acknowledged:?}");
        ensure!(there(id).await? == format!("{who} {id}"), "{id} was acknowledged to the {who}");
        let problem = refused.problem()?;
        ensure!(problem.code == Code::IdConflict, "{id}: {problem:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_stored_in_a_space_while_the_server_is_away_reaches_the_others() -> Result<()> {
    let mut team = Team::new(RULES).await?;
    let (_planner, planner) = team.agent("team-a", "planner", "").await?;
    let (_reviewer, reviewer) = team.agent("team-a", "reviewer", "").await?;
    team.server.kill()?;
    let scope = json!({"space": "team"});
    let context = json!({"text": "The lighthouse is green", "level": "long_term", "session": "s", "scope": scope});
    let stored = store(&planner, &context).await?;
    ensure!(stored.status == AckStatus::Journaled, "{stored:?}");
    let search = json!({"query": "lighthouse", "scope": scope});
    ensure!(found(&planner, &search).await?.len() == 1, "it is found at once where it was written");
    ensure!(found(&planner, &json!({"query": "lighthouse"})).await?.is_empty(), "and not in the agent's own memory");
    team.server.restart().await?;
    for _ in 0..100 {
        let seen = found(&reviewer, &search).await?;
        if let [context] = seen.as_slice() {
            ensure!((context.id, context.written_by.as_deref()) == (stored.id, Some("planner")), "{context:?}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the journaled context did not reach the other agent within 10 s")
}

#[tokio::test]
async fn a_rule_that_is_taken_away_is_out_of_force_without_a_restart() -> Result<()> {
    let team = Team::new(RULES).await?;
    let (sidecar, planner) = team.agent("team-a", "planner", "").await?;
    let scope = json!({"space": "team"});
    let id = store(&planner, &json!({"text": "still there", "scope": scope})).await?.id;
    let path = format!("{CONTEXTS}/{id}?space=team");
    let with_rules = fs::read_to_string(sidecar.config())?;
    files::replace(sidecar.config(), with_rules.replace(RULES, ""))?;
    until(&planner, &path, 403).await?;
    let planted = json!({"text": "too late", "scope": scope});
    is_denied(&planner, Draft::new("POST", CONTEXTS, planted.to_string())).await?;
    files::replace(sidecar.config(), &with_rules)?;
    until(&planner, &path, 200).await
}

/// Both have written to the session before, so each remembers an end of it.
#[tokio::test]
async fn replicas_that_write_to_one_session_in_turn_keep_its_newest_contexts() -> Result<()> {
    let team = Team::new("").await?;
    let full = "[levels.short_term]\ncapacity = 4\n";
    let (_one, one) = team.replica("team-a", "planner", "one", full).await?;
    let (_other, other) = team.replica("team-a", "planner", "other", full).await?;
    let writers = [&one, &other, &other, &other, &other, &other, &other, &one, &one];
    for (number, client) in writers.into_iter().enumerate() {
        store(client, &json!({"text": format!("turn {number}"), "session": "chat-42"})).await?;
    }
    let session = format!("{CONTEXTS}?session=chat-42");
    for _ in 0..200 {
        let listed: ContextList = one.get(&session).await?.message()?;
        let mut left: Vec<String> = listed.contexts.into_iter().map(|context| context.text).collect();
        left.sort_unstable();
        ensure!(left.ends_with(&["turn 7".to_owned(), "turn 8".to_owned()]), "the newest made room: {left:?}");
        if left.len() <= 4 {
            ensure!(left == ["turn 5", "turn 6", "turn 7", "turn 8"], "{left:?}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the session did not make room within 20 s")
}

#[tokio::test]
async fn replicas_find_each_others_immediate_contexts_and_nothing_that_one_has_deleted() -> Result<()> {
    let team = Team::new("").await?;
    let (_one, one) = team.replica("team-a", "planner", "one", "").await?;
    let (_other, other) = team.replica("team-a", "planner", "other", "").await?;
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "chat-42"});
    let of_all = json!({"query": "lighthouse"});
    let of_immediate = json!({"query": "lighthouse", "levels": ["immediate"]});
    let green = store(&other, &turn("The lighthouse is green")).await?.id;
    let white = store(&one, &turn("The lighthouse is white")).await?.id;
    for client in [&one, &other] {
        for request in [&of_all, &of_immediate] {
            let seen = found(client, request).await?;
            ensure!(seen.len() == 2, "{request}: {seen:?}");
        }
    }
    let deleted = other.send(Draft::new("DELETE", &format!("{CONTEXTS}/{white}"), "")).await?;
    ensure!(deleted.status == 200, "{}", deleted.status);
    for request in [&of_all, &of_immediate] {
        let seen = found(&one, request).await?;
        ensure!(seen.iter().map(|context| context.id).eq([green]), "{request}: {seen:?}");
    }
    Ok(())
}

async fn until(client: &Client, path: &str, status: u16) -> Result<()> {
    for _ in 0..100 {
        if client.get(path).await?.status == status {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{path} is not answered by {status} within 10 s")
}
