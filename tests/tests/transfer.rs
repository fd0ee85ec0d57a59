//! A tenant is moved: exported by one sidecar, imported by another, on real stores, with what breaks on the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::{
    message::{Acknowledgment, ContextResponse, ExportEnd, ExportedContext, Imported},
    problem::Code,
};
use context_manager_tests::{
    client::{Client, Draft},
    embeddings::{Behaviour, Embeddings},
    qdrant::Qdrant,
    sidecar::Sidecar,
    team::Team,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CONTEXTS: &str = "/v1/contexts";
const EXPORT: &str = "/v1/tenant/export";
const IMPORT: &str = "/v1/tenant/import";

const RULES: &str = r#"
[[access]]
agents = ["planner", "reviewer"]
operations = ["read", "store", "update"]
target = { space = "team" }

[[access]]
agents = ["mover"]
operations = ["export", "import"]
target = { tenant = true }
"#;

async fn store(client: &Client, context: &Value) -> Result<Acknowledgment> {
    let answer = client.post(CONTEXTS, context).await?;
    ensure!(answer.status < 300, "{context}: {}", String::from_utf8_lossy(&answer.body));
    answer.message()
}

/// Contexts of every kind: levels, sessions, metadata, times, changes, what supersedes and what expires.
async fn remember(client: &Client, name: &str, scope: &Value) -> Result<()> {
    let is_own = scope.as_object().is_some_and(serde_json::Map::is_empty);
    for number in 0..40 {
        let level = ["long_term", "short_term", if is_own { "immediate" } else { "long_term" }][number % 3];
        let mut context = json!({"text": format!("{name} notes the harbour fact {number}"), "level": level, "scope": scope,
            "metadata": {"number": number, "exact": 1.0, "deep": {"list": [1, 1.5, "x"]}}});
        if number % 4 > 0 {
            context["session"] = json!(format!("session {}", number % 4));
            context["actor"] = json!(name);
        }
        if number % 5 == 0 {
            context["ttl"] = json!("2h");
        }
        if number % 7 == 0 {
            context["occurred_at"] = json!(1_700_000_000_000_i64 + i64::try_from(number)?);
        }
        let id = store(client, &context).await?.id;
        if number % 10 == 1 {
            let change = json!({"text": format!("{name} corrects the harbour fact {number}"), "scope": scope});
            let changed = client.send(Draft::new("PATCH", &format!("{CONTEXTS}/{id}"), change.to_string())).await?;
            ensure!(changed.status == 200, "{}", String::from_utf8_lossy(&changed.body));
        }
        if number % 10 == 3 {
            let next = format!("{name} replaces the harbour fact {number}");
            store(client, &json!({"text": next, "level": "long_term", "scope": scope, "supersedes": [id]})).await?;
        }
    }
    Ok(())
}

/// The lines of an export without the last one, which must be there.
async fn exported(client: &Client, path: &str) -> Result<Vec<String>> {
    let answer = client.get(path).await?;
    let text = String::from_utf8(answer.body)?;
    ensure!(answer.status == 200, "{text}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let end: ExportEnd = serde_json::from_str(&lines.pop().context("a last line")?)?;
    ensure!(end.exported == lines.len(), "{end:?}");
    Ok(lines)
}

fn read(lines: &[String]) -> Result<Vec<ExportedContext>> {
    Ok(lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?)
}

/// That two exports are the same, line by line.
fn are_same(one: &[String], other: &[String]) -> Result<()> {
    for (number, (line, there)) in one.iter().zip(other).enumerate() {
        ensure!(line == there, "line {number} is\n{line}\nand\n{there}");
    }
    ensure!(one.len() == other.len(), "{} and {} lines", one.len(), other.len());
    Ok(())
}

async fn import(client: &Client, path: &str, lines: &[String]) -> Result<Imported> {
    let draft = Draft { content_type: "application/jsonl", ..Draft::new("POST", path, lines.join("\n")) };
    let answer = client.send(draft).await?;
    ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.message()
}

/// A tenant of two agents and a space, beside another tenant.
async fn filled() -> Result<(Team, Vec<Sidecar>, Client)> {
    let from = Team::new(RULES).await?;
    let (planner, client) = from.agent("team-a", "planner", "").await?;
    remember(&client, "planner", &json!({})).await?;
    remember(&client, "planner of the team", &json!({"space": "team"})).await?;
    let (reviewer, client) = from.agent("team-a", "reviewer", "").await?;
    remember(&client, "reviewer", &json!({})).await?;
    let (stranger, client) = from.agent("team-b", "planner", "").await?;
    remember(&client, "stranger", &json!({})).await?;
    let (sidecar, mover) = from.agent("team-a", "mover", "").await?;
    Ok((from, vec![planner, reviewer, stranger, sidecar], mover))
}

#[tokio::test]
async fn a_tenant_is_the_same_on_another_server_and_its_memories_in_embedded_stores() -> Result<()> {
    println!("the Qdrant server is {}", Qdrant::name());
    let (_from, sidecars, mover) = filled().await?;
    let lines = exported(&mover, EXPORT).await?;
    let contexts = read(&lines)?;
    // Of each memory 40, 4 earlier versions, and 4 that took another's place.
    ensure!(contexts.len() == 3 * 48, "{}", contexts.len());
    let foreign = lines.iter().filter(|line| line.contains("stranger") || line.contains("team-b")).count();
    ensure!(foreign == 0, "{foreign} lines are another tenant's");
    ensure!(contexts.windows(2).all(|pair| pair[0].id < pair[1].id), "they come in the order of their ids");

    // Whoever breaks off goes on after the last line that came, as often as they like.
    let mut pieced: Vec<String> = Vec::new();
    while pieced.len() < lines.len() {
        let path = match read(&pieced)?.last() {
            Some(last) => format!("{EXPORT}?after={}", last.id),
            None => EXPORT.to_owned(),
        };
        pieced.extend(exported(&mover, &path).await?.into_iter().take(37));
    }
    are_same(&pieced, &lines)?;

    let to = Team::new(RULES).await?;
    let (_moving, there) = to.agent("team-c", "mover", "").await?;
    ensure!(exported(&there, EXPORT).await?.is_empty(), "nothing is there before");
    let (half, rest) = lines.split_at(70);
    let first = import(&there, IMPORT, half).await?;
    ensure!(first == Imported { lines_taken: 70, imported: 70, ..Imported::default() }, "{first:?}");
    // The one who did not hear that sends all of it again.
    let all = import(&there, IMPORT, &lines).await?;
    let expected = Imported { lines_taken: 144, unchanged: 70, imported: rest.len(), ..Imported::default() };
    ensure!(all == expected, "{all:?}");
    are_same(&exported(&there, EXPORT).await?, &lines)?;

    // Its agents find what is theirs, and no more; what was corrected or replaced is past there too.
    let (_planner, planner) = to.agent("team-c", "planner", "").await?;
    let (_stranger, stranger) = to.agent("team-d", "planner", "").await?;
    let wanted = json!({"query": "harbour fact 31", "limit": 50, "scopes": [{}, {"space": "team"}]});
    let found: ContextResponse = planner.post("/v1/contexts/search", &wanted).await?.message()?;
    let texts: Vec<&str> = found.contexts.iter().map(|found| found.context.text.as_str()).collect();
    ensure!(texts.contains(&"planner corrects the harbour fact 31"), "{texts:?}");
    ensure!(texts.contains(&"planner of the team corrects the harbour fact 31"), "{texts:?}");
    ensure!(
        !texts.iter().any(|text| text.contains("reviewer") || text.ends_with("notes the harbour fact 31")),
        "{texts:?}"
    );
    let nothing = json!({"query": "harbour fact"});
    let found: ContextResponse = stranger.post("/v1/contexts/search", &nothing).await?.message()?;
    ensure!(found.contexts.is_empty(), "{found:?}");

    // In embedded stores each agent has a directory of its own, and takes what is its own from the same lines.
    for name in ["planner", "reviewer"] {
        let folder = tempfile::tempdir()?;
        let sidecar = Sidecar::start_agent("team-e", name, folder.path(), "").await?;
        let client = sidecar.client()?;
        let taken = import(&client, "/v1/contexts/import", &lines).await?;
        ensure!((taken.imported, taken.refused_total) == (48, 96), "{taken:?}");
        let own: Vec<ExportedContext> = contexts
            .iter()
            .filter(|context| context.agent.as_deref() == Some(name))
            .map(|context| ExportedContext { agent: None, ..context.clone() })
            .collect();
        let there = read(&exported(&client, "/v1/contexts/export").await?)?;
        ensure!(there == own, "{name} has its own");
        // And back: what an embedded store exports is that agent's on a server.
        let back = Team::new(RULES).await?;
        let (_sidecar, agent) = back.agent("team-a", name, "").await?;
        import(&agent, "/v1/contexts/import", &exported(&client, "/v1/contexts/export").await?).await?;
        let (_moving, mover) = back.agent("team-a", "mover", "").await?;
        let returned = read(&exported(&mover, EXPORT).await?)?;
        let expected: Vec<_> = contexts.iter().filter(|context| context.agent.as_deref() == Some(name)).collect();
        ensure!(returned.iter().collect::<Vec<_>>() == expected, "{name} is the same there and back");
    }
    for sidecar in &sidecars {
        ensure!(!sidecar.log()?.contains("panicked"));
    }
    Ok(())
}

#[tokio::test]
async fn who_has_no_rule_for_the_tenant_neither_exports_nor_imports_it() -> Result<()> {
    let (_from, sidecars, mover) = filled().await?;
    let line = exported(&mover, EXPORT).await?.remove(0);
    let planner = sidecars.first().context("the planner's")?.client()?;
    for draft in
        [Draft::new("GET", EXPORT, ""), Draft { content_type: "application/jsonl", ..Draft::new("POST", IMPORT, line) }]
    {
        let problem = planner.send(draft).await?.problem()?;
        ensure!(problem.code == Code::AccessDenied, "{problem:?}");
        ensure!(problem.detail.contains("the whole tenant"), "{problem:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_import_that_is_killed_and_sent_again_doubles_nothing() -> Result<()> {
    let (_from, _sidecars, mover) = filled().await?;
    let lines = exported(&mover, EXPORT).await?;
    let to = Team::new(RULES).await?;
    for after in [5, 20, 60, 150] {
        let (sidecar, there) = to.agent("team-a", "mover", "").await?;
        let sent = lines.clone();
        let sending = tokio::spawn(async move { import(&there, IMPORT, &sent).await });
        tokio::time::sleep(Duration::from_millis(after)).await;
        sidecar.signal(Signal::SIGKILL)?;
        println!("killed after {after} ms: {:?}", sending.await?.ok());
    }
    let (_sidecar, there) = to.agent("team-a", "mover", "").await?;
    let last = import(&there, IMPORT, &lines).await?;
    ensure!(last.imported + last.unchanged == 144 && last.refused_total == 0, "{last:?}");
    are_same(&exported(&there, EXPORT).await?, &lines)?;
    Ok(())
}

#[tokio::test]
async fn an_import_without_time_for_all_lines_says_how_many_it_took() -> Result<()> {
    let embeddings = Embeddings::start().await?;
    let to = Team::new(RULES).await?;
    let more = format!("request_timeout = \"2s\"\n{}", embeddings.config("builtin-64"));
    let (_sidecar, there) = to.agent("team-a", "mover", &more).await?;
    embeddings.set(Behaviour::Slow(Duration::from_millis(400)));
    let lines: Vec<String> = (1..=700_u32)
        .map(|number| {
            let id = uuid::Uuid::from_u128(number.into());
            json!({"id": id, "agent": format!("agent-{}", number % 3), "text": format!("fact {number}"), "level": "long_term",
                "version": 1, "created_at": 5, "updated_at": 5})
            .to_string()
        })
        .collect();
    let (mut taken, mut rounds) = (0, 0);
    while taken < lines.len() {
        let answer = import(&there, IMPORT, &lines[taken..]).await?;
        ensure!(answer.lines_taken > 0 && answer.imported == answer.lines_taken, "{answer:?}");
        (taken, rounds) = (taken + answer.lines_taken, rounds + 1);
    }
    println!("{rounds} requests for {taken} lines");
    ensure!(taken == 700 && rounds > 1, "{rounds} rounds");
    ensure!(read(&exported(&there, EXPORT).await?)?.len() == 700);
    Ok(())
}

#[tokio::test]
async fn an_export_has_what_waits_in_the_journal_and_refuses_while_the_store_is_away() -> Result<()> {
    let mut from = Team::new(RULES).await?;
    let (_sidecar, mover) = from.agent("team-a", "mover", "").await?;
    store(&mover, &json!({"text": "before", "level": "long_term"})).await?;
    from.server.kill()?;
    let waiting = store(&mover, &json!({"text": "meanwhile", "level": "long_term"})).await?;
    ensure!(waiting.status == context_manager_protocol::message::AckStatus::Journaled, "{waiting:?}");
    let problem = mover.get(EXPORT).await?.problem()?;
    ensure!(problem.code == Code::StoreUnavailable, "{problem:?}");
    from.server.restart().await?;
    // Whether it has reached the store by then or not.
    let lines =
        context_manager_tests::cluster::eventually("an export", Duration::from_secs(20), || exported(&mover, EXPORT))
            .await?;
    let texts: Vec<String> = read(&lines)?.into_iter().map(|context| context.text).collect();
    ensure!(texts == ["before", "meanwhile"], "{texts:?}");
    Ok(())
}
