//! Export and import of all memories of the tenant.

use context_manager_protocol::config::{AccessRule, AccessTarget, Operation};

use super::*;

const EXPORT: &str = "/v1/tenant/export";
const IMPORT: &str = "/v1/tenant/import";

fn rule(operations: &[Operation], target: AccessTarget) -> AccessRule {
    AccessRule { agents: vec!["agent".to_owned()], operations: operations.to_vec(), levels: Vec::new(), target }
}

/// A sidecar that may do everything in the memory of `planner` and in the space `team`, and move the tenant.
async fn fixture() -> Fixture {
    let mut config = None;
    let fixture = Fixture::with(|given| config = Some(given.clone()), 10_000).await;
    let access = vec![
        rule(&Operation::ALL, AccessTarget { agent: Some("planner".to_owned()), ..AccessTarget::default() }),
        rule(&Operation::ALL, AccessTarget { space: Some("team".to_owned()), ..AccessTarget::default() }),
        rule(&[Operation::Export, Operation::Import], AccessTarget { tenant: true, ..AccessTarget::default() }),
    ];
    let config = SidecarConfig { access, ..config.expect("it was given") };
    fixture.engine.reconfigure(&config).await.expect("rules of the engine");
    fixture
}

async fn export(fixture: &Fixture, query: &str) -> (Vec<ExportedContext>, String) {
    exported(fixture, format!("{EXPORT}{query}")).await
}

async fn import(fixture: &Fixture, body: impl Into<Vec<u8>>) -> Imported {
    imported(fixture, importing(IMPORT, body)).await
}

/// Contexts of three holders whose sessions have the same names, one of them changed and one of them superseded.
async fn fill(fixture: &Fixture) {
    for number in 0..18 {
        let scope = [json!({}), json!({"agent": "planner"}), json!({"space": "team"})][number % 3].clone();
        let level = if number % 3 == 0 { ["immediate", "long_term"][number % 2] } else { "short_term" };
        let mut body = json!({"text": format!("memory {number}"), "level": level, "scope": scope,
            "session": format!("s{}", number / 9), "metadata": {"n": number}});
        if number == 7 {
            body["ttl"] = json!("1h");
        }
        let stored = fixture.send(Call::json("POST", CONTEXTS, body.to_string()).sign()).await;
        assert_eq!(stored.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&stored.body));
        let id = stored.json::<Acknowledgment>().id;
        if number == 8 {
            let change = json!({"text": "changed", "scope": scope});
            let changed = Call::json("PATCH", format!("{CONTEXTS}/{id}"), change.to_string());
            assert_eq!(fixture.send(changed.sign()).await.status, StatusCode::OK);
            let next = json!({"text": "instead", "level": "long_term", "scope": scope, "supersedes": [id]});
            let next = fixture.send(Call::json("POST", CONTEXTS, next.to_string()).sign()).await;
            assert_eq!(next.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&next.body));
        }
    }
}

#[tokio::test]
async fn an_exported_tenant_is_the_same_where_it_is_imported() {
    let from = fixture().await;
    fill(&from).await;
    let (exported, text) = export(&from, "").await;
    assert_eq!(exported.len(), 20, "with what one was, and what took its place");
    assert!(exported.iter().all(|context| context.agent.is_some() != context.space.is_some()));
    let of = |agent: Option<&str>, space: Option<&str>| {
        exported.iter().filter(|one| (one.agent.as_deref(), one.space.as_deref()) == (agent, space)).count()
    };
    assert_eq!((of(Some("agent"), None), of(Some("planner"), None), of(None, Some("team"))), (6, 6, 8));

    let to = fixture().await;
    // It comes in two pieces, of which the second one is sent twice.
    let place = text.lines().take(11).map(|line| line.len() + 1).sum::<usize>();
    let first = import(&to, &text[..place]).await;
    assert_eq!(first, Imported { lines_taken: 11, imported: 11, ..Imported::default() });
    let second = import(&to, &text[place..]).await;
    assert_eq!(second, Imported { lines_taken: 10, imported: 9, ..Imported::default() });
    assert_eq!(import(&to, &text[place..]).await, Imported { lines_taken: 10, unchanged: 9, ..Imported::default() });
    assert_eq!(export(&to, "").await, (exported.clone(), text.clone()));

    // Each memory is found where it was, and its sessions go on.
    for (scope, number) in [(json!({}), 15), (json!({"agent": "planner"}), 16), (json!({"space": "team"}), 17)] {
        let search = json!({"query": format!("memory {number}"), "scope": scope});
        let found: ContextResponse = to.send(Call::json("POST", SEARCH, search.to_string()).sign()).await.json();
        let best = found.contexts.first().map(|found| found.context.text.clone());
        assert_eq!(best, Some(format!("memory {number}")));
        let more = json!({"text": "more", "level": "short_term", "session": "s1", "scope": scope});
        assert_eq!(to.send(Call::json("POST", CONTEXTS, more.to_string()).sign()).await.status, StatusCode::CREATED);
    }
    let (grown, _) = export(&to, "").await;
    let new: Vec<i64> = grown.iter().filter(|one| one.text == "more").map(|one| one.sequence).collect();
    assert_eq!(new, [3, 3, 3], "each after the three of its own session");

    // Broken off, an export goes on after the last line that came.
    let (rest, _) = export(&from, &format!("?after={}", exported[12].id)).await;
    assert_eq!(rest, exported[13..]);
}

#[tokio::test]
async fn a_hostile_line_is_refused_alone_and_names_its_field() {
    let fixture = fixture().await;
    let line = |number: u128, more: serde_json::Value| {
        let mut line = json!({"id": Uuid::from_u128(number), "text": "fine", "level": "long_term", "version": 1,
            "created_at": 5, "updated_at": 5, "agent": "planner"});
        for (key, value) in more.as_object().expect("an object") {
            line[key] = value.clone();
        }
        line.to_string().into_bytes()
    };
    let mut invalid = line(9, json!({}));
    let place = invalid.windows(4).position(|text| text == b"fine").expect("the text");
    invalid[place] = 0xff;
    let lines = [
        line(1, json!({})),
        line(2, json!({"tenant": "team-b"})),
        line(3, json!({"agent": null})),
        line(4, json!({"space": "team"})),
        line(5, json!({"agent": "../planner"})),
        line(6, json!({"agent": null, "space": "team", "level": "immediate"})),
        line(7, json!({"text": "x".repeat(2_000_000)})),
        line(8, json!({"version": 0})),
        invalid,
        format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes(),
        line(11, json!({"written_by": "a b"})),
        b"null".to_vec(),
        line(1, json!({"agent": null, "space": "team"})),
        line(14, json!({"agent": null, "space": "team"})),
    ];
    let answer = import(&fixture, lines.join(&b'\n')).await;
    assert_eq!((answer.lines_taken, answer.imported, answer.refused_total), (14, 2, 12));
    let refused: Vec<(usize, &str)> = answer.refused.iter().map(|line| (line.line, line.code.as_str())).collect();
    let expected = [
        (2, "field-invalid"),
        (3, "field-invalid"),
        (4, "field-invalid"),
        (5, "field-invalid"),
        (6, "field-invalid"),
        (7, "field-invalid"),
        (8, "field-invalid"),
        (9, "body-malformed"),
        (10, "field-invalid"),
        (11, "field-invalid"),
        (12, "field-invalid"),
        (13, "id-conflict"),
    ];
    assert_eq!(refused, expected);
    for (line, word) in [(2, "tenant"), (3, "/v1/contexts/import"), (4, "an agent and a space"), (6, "immediate")] {
        let detail = &answer.refused.iter().find(|refused| refused.line == line).expect("refused").detail;
        assert!(detail.contains(word), "{line}: {detail}");
    }
    let (there, _) = export(&fixture, "").await;
    let ids: Vec<u128> = there.iter().map(|context| context.id.as_u128()).collect();
    assert_eq!(ids, [1, 14], "what was refused left nothing");
    // Nobody is named as the author of an agent's own memory but the agent; a space has no author of its own.
    let authors: Vec<_> = there.iter().map(|context| context.written_by.as_deref()).collect();
    assert_eq!(authors, [None, Some("agent")]);
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_imports_nothing() {
    let (from, to) = (fixture().await, fixture().await);
    fill(&from).await;
    let (_, text) = export(&from, "").await;
    let mut request = importing(IMPORT, text.clone()).sign();
    *request.body_mut() = Body::from(text.replace("memory 3", "poison 3"));
    refused(&to, request, Code::DigestMismatch).await;
    let call = Call::json("POST", IMPORT, text);
    refused(&to, call.sign(), Code::MediaTypeUnsupported).await;
    assert_eq!(export(&to, "").await.0, []);
}

#[tokio::test]
async fn the_lines_of_a_tenant_are_refused_by_another_memory() {
    let fixture = fixture().await;
    fill(&fixture).await;
    let (_, text) = export(&fixture, "").await;
    let other = Fixture::new().await;
    let call = Call { body: text.into_bytes(), ..Call::new("POST", "/v1/contexts/import") };
    let answer: Imported = other.send(call.header("content-type", "application/jsonl").sign()).await.json();
    // Its own are its own there as well.
    assert_eq!((answer.imported, answer.refused_total), (6, 14), "{answer:?}");
    // Ids of one millisecond have no order among them, so the first line may be of either holder.
    for holder in ["agent planner", "space team"] {
        let of_holder = answer.refused.iter().find(|refused| refused.detail.contains(&format!("is of {holder}")));
        let detail = &of_holder.expect(holder).detail;
        assert!(detail.contains("/v1/tenant/import"), "{detail}");
    }
}
