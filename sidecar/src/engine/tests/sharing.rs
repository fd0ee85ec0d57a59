//! Other memories than one's own: what works there as at home, and what is left to its own agent.

use context_manager_memory::ContextId;
use context_manager_protocol::{
    config::{AccessRule, AccessTarget, Operation},
    message::Scope,
};

use super::*;

/// The rule of every agent for some operations on an agent's memory or a space.
pub(super) fn rule(operations: &[Operation], agent: Option<&str>, space: Option<&str>) -> AccessRule {
    let target = AccessTarget { agent: agent.map(Into::into), space: space.map(Into::into), ..AccessTarget::default() };
    AccessRule { agents: vec!["*".to_owned()], operations: operations.to_vec(), levels: Vec::new(), target }
}

fn all_of(agent: Option<&str>, space: Option<&str>) -> Vec<AccessRule> {
    vec![rule(&Operation::ALL, agent, space)]
}

impl Fixture {
    /// A fixture in which everything is permitted in the space `team` and in the memory of `planner`.
    async fn sharing() -> Self {
        let rules = [all_of(None, Some("team")), all_of(Some("planner"), None)].concat();
        Self::with(|config| config.access = rules).await
    }

    fn there<O: Permission>(&self, scope: Value, session: Option<&str>) -> Granted<O> {
        let scope: Scope = message(scope);
        self.engine.permit(&caller(), Some(&scope), session).expect("it is permitted")
    }

    async fn listed(&self, scope: Value) -> Vec<Context> {
        let granted = self.there(scope, None);
        self.engine.list(&granted, ListQuery::default()).await.expect("a page").contexts
    }
}

fn code(error: Error) -> &'static str {
    Problem::from(error).code.as_str()
}

#[tokio::test]
async fn memories_that_are_searched_together_are_ranked_as_one() {
    let fixture = Fixture::sharing().await;
    let team = json!({"space": "team"});
    fixture.stored(json!({"text": "The ferry leaves at nine.", "scope": team})).await;
    fixture.stored(json!({"text": "The ferry leaves at nine in summer only.", "level": "immediate"})).await;
    fixture.stored(json!({"text": "Ann plays the violin.", "scope": {"agent": "planner"}})).await;
    let scopes = json!([{}, team, {"agent": "planner"}, team]);
    let answer = fixture.search(json!({"query": "When does the ferry leave?", "scopes": scopes})).await;
    let told: Vec<_> = answer.contexts.iter().map(|found| (&found.context.space, &found.context.agent)).collect();
    assert_eq!(told.len(), 3, "each once, though a scope is named twice: {told:?}");
    assert!(answer.contexts.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let last = &answer.contexts[2].context;
    assert_eq!((last.agent.as_deref(), last.written_by.as_deref()), (Some("planner"), Some("agent")));
    assert!(answer.contexts.iter().any(|found| found.context.space.as_deref() == Some("team")));
    assert_eq!(fixture.texts(json!({"query": "ferry"})).await, ["The ferry leaves at nine in summer only."]);
    let both = json!({"query": "ferry", "scope": {}, "scopes": [{}]});
    assert_eq!(field(search(&fixture.engine, both).await.expect_err("twice")).0, "scopes");
    let many: Vec<Value> = (0..17).map(|_| json!({})).collect();
    let refused = search(&fixture.engine, json!({"query": "ferry", "scopes": many})).await;
    assert_eq!(field(refused.expect_err("too many")).0, "scopes");
}

#[tokio::test]
async fn immediate_memory_is_read_by_others_and_written_by_its_own_agent_alone() {
    let planner = json!({"agent": "planner"});
    let fixture = Fixture::sharing().await.reopened("planner").await;
    let id = fixture.stored(json!({"text": "the kettle boils", "level": "immediate", "session": "s"})).await;
    fixture.stored(json!({"text": "the kettle is red", "session": "s"})).await;
    let fixture = fixture.reopened("agent").await;
    let fresh = json!({"query": "kettle", "levels": ["immediate"], "scope": planner});
    assert_eq!(fixture.texts(fresh).await, ["the kettle boils"]);

    let stored = fixture.store(json!({"text": "x", "level": "immediate", "scope": planner})).await;
    assert_eq!(field(stored.expect_err("not here")).0, "level");
    let stored = fixture.store(json!({"text": "x", "level": "immediate", "scope": {"space": "team"}})).await;
    assert_eq!(field(stored.expect_err("a space has none")).0, "level");
    let update = message(json!({"text": "cold"}));
    let changed = fixture.engine.update(&fixture.there(planner.clone(), None), id, update).await;
    assert_eq!(field(changed.expect_err("not by others")).0, "id");
    let deleted = fixture.engine.delete(&fixture.there(planner.clone(), None), id).await;
    assert_eq!(field(deleted.expect_err("not by others")).0, "id");
    let superseding = json!({"text": "x", "supersedes": [id], "scope": planner});
    assert_eq!(code(fixture.store(superseding).await.expect_err("not by others")), "access-denied");
    let cleared = fixture.engine.clear_session(&fixture.there(planner, Some("s"))).await;
    assert_eq!(cleared.expect("a deletion").deleted, 1, "what is not immediate");

    let fixture = fixture.reopened("planner").await;
    assert_eq!(fixture.texts(json!({"query": "kettle"})).await, ["the kettle boils"]);
}

#[tokio::test]
async fn superseding_elsewhere_takes_the_permission_to_change_and_tells_nothing_without_it() {
    let fixture = Fixture::sharing().await;
    let team = json!({"space": "team"});
    let old = fixture.stored(json!({"text": "Ann lives in Bonn", "scope": team})).await;
    let superseding = |id: Uuid| json!({"text": "Ann lives in Ulm", "supersedes": [id], "scope": team});
    let only_store = SidecarConfig {
        access: vec![rule(&[Operation::Read, Operation::Store], None, Some("team"))],
        ..fixture.config.clone()
    };
    fixture.engine.reconfigure(&only_store).await.expect("other rules");
    let there = fixture.store(superseding(old)).await.expect_err("no permission to change").to_string();
    let not_there = fixture.store(superseding(Uuid::now_v7())).await.expect_err("nothing to change").to_string();
    assert_eq!(there, not_there);
    assert!(there.contains("operation update in the memory of space team"), "{there}");
    assert_eq!(fixture.listed(team.clone()).await.len(), 1, "nothing was stored");
    fixture.engine.reconfigure(&fixture.config).await.expect("all rules");
    fixture.stored(superseding(old)).await;
    let found = fixture.texts(json!({"query": "where does Ann live", "scope": team})).await;
    assert_eq!(found, ["Ann lives in Ulm"]);
}

#[tokio::test]
async fn what_a_rule_does_not_reach_is_no_different_from_what_is_not_there() {
    let fixture = Fixture::sharing().await;
    let team = json!({"space": "team"});
    let hidden = fixture.stored(json!({"text": "short", "scope": team})).await;
    let long = AccessRule {
        levels: vec![Level::LongTerm],
        ..rule(&[Operation::Read, Operation::Delete, Operation::Update], None, Some("team"))
    };
    let config = SidecarConfig { access: vec![long], ..fixture.config.clone() };
    fixture.engine.reconfigure(&config).await.expect("other rules");
    for id in [hidden, Uuid::now_v7()] {
        let read = fixture.engine.get(&fixture.there(team.clone(), None), id, None).await.map(drop);
        let past = fixture.engine.get(&fixture.there(team.clone(), None), id, Some(5)).await.map(drop);
        let changed =
            fixture.engine.update(&fixture.there(team.clone(), None), id, message(json!({"text": "y"}))).await;
        let deleted = fixture.engine.delete(&fixture.there(team.clone(), None), id).await;
        for answer in [read, past, changed.map(drop), deleted.map(drop)] {
            let error = answer.expect_err("out of reach");
            let detail = error.to_string();
            assert!(detail.contains("on long_term only") && !detail.contains(&id.to_string()), "{detail}");
            assert_eq!(code(error), "access-denied");
        }
    }
    assert!(fixture.texts(json!({"query": "short", "scope": team})).await.is_empty());
}

#[tokio::test]
async fn shared_memory_is_kept_up_like_ones_own() {
    let fixture = Fixture::sharing().await;
    let mut config = fixture.config.clone();
    config.levels.short_term.capacity = Some(2);
    config.levels.promotion.min_accesses = Some(1);
    fixture.engine.reconfigure(&config).await.expect("another capacity");
    let team = json!({"space": "team"});
    let store = |text: &str| json!({"text": text, "session": "s", "scope": team});
    fixture.stored(store("the red lighthouse")).await;
    for text in ["one", "two", "three"] {
        fixture.stored(json!({"text": text, "session": "s"})).await;
        fixture.stored(store(text)).await;
    }
    assert_eq!(fixture.texts(json!({"query": "lighthouse", "limit": 1, "scope": team})).await, ["the red lighthouse"]);
    fixture.tick().await;
    fixture.tick().await;
    let levels: BTreeMap<String, Level> =
        fixture.listed(team).await.into_iter().map(|context| (context.text, context.level)).collect();
    let expected = [("the red lighthouse", Level::LongTerm), ("three", Level::ShortTerm), ("two", Level::ShortTerm)];
    assert_eq!(levels, expected.map(|(text, level)| (text.to_owned(), level)).into());
    assert_eq!(fixture.all().await.len(), 2, "and one's own by itself");
}

#[tokio::test]
async fn a_key_makes_another_id_in_another_memory() {
    let fixture = Fixture::sharing().await;
    let key = || Some(IdempotencyKey::new("k").expect("a key"));
    let store = async |scope: Value| {
        let message: ContextStore = message(json!({"text": "once", "scope": scope}));
        let granted = fixture.engine.permit(&caller(), message.scope.as_ref(), None).expect("permitted");
        fixture.engine.store(&granted, message, key()).await.expect("stored").id
    };
    let ids = [store(json!({})).await, store(json!({"space": "team"})).await, store(json!({"agent": "planner"})).await];
    assert_eq!(BTreeSet::from(ids).len(), 3);
    assert_eq!(store(json!({"space": "team"})).await, ids[1]);
    assert_eq!(fixture.listed(json!({"space": "team"})).await.len(), 1);
}

#[tokio::test]
async fn an_import_keeps_who_wrote_and_is_the_author_of_the_rest() {
    let fixture = Fixture::sharing().await;
    let line = |number: u128, more: Value| {
        let mut line = json!({"id": Uuid::from_u128(number), "text": format!("line {number}"), "level": "long_term",
            "session": "s", "version": 1, "created_at": 5, "updated_at": 5});
        line.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        (usize::try_from(number).expect("a number"), message::<ExportedContext>(line))
    };
    let lines = vec![
        line(1, json!({"written_by": "reviewer"})),
        line(2, json!({})),
        line(3, json!({"level": "immediate"})),
        line(4, json!({"session": "t"})),
    ];
    let granted = fixture.there(json!({"space": "team"}), Some("s"));
    let imported = fixture.engine.import(&granted, lines).await.expect("an import");
    let refused: Vec<_> = imported.refused.iter().map(|line| (line.line, line.code.as_str())).collect();
    assert_eq!((imported.imported, refused), (2, vec![(3, "field-invalid"), (4, "field-invalid")]));
    let authors: Vec<_> = fixture.listed(json!({"space": "team"})).await.into_iter().map(|c| c.written_by).collect();
    assert_eq!(authors, [Some("reviewer".to_owned()), Some("agent".to_owned())]);
    let exported =
        fixture.engine.export(&fixture.there(json!({"space": "team"}), None), None).await.expect("an export");
    assert_eq!(exported[0].written_by.as_deref(), Some("reviewer"));
    let counted = fixture.engine.stats(&fixture.there(json!({"space": "team"}), Some("s"))).await.expect("figures");
    assert_eq!(counted.contexts[&Level::LongTerm], 2);
}

#[tokio::test]
async fn who_may_only_read_a_memory_promotes_nothing_in_it() {
    let fixture = Fixture::sharing().await;
    let mut config = fixture.config.clone();
    config.levels.promotion.min_accesses = Some(1);
    let team = json!({"space": "team"});
    let id = ContextId::new(fixture.stored(json!({"text": "the red lighthouse", "scope": team})).await);
    let long =
        |operations: &[Operation]| AccessRule { levels: vec![Level::LongTerm], ..rule(operations, None, Some("team")) };
    let read = rule(&[Operation::Read], None, Some("team"));
    let there = async || fixture.engine.inner.store.find(vec![id]).await.expect("read").remove(0);
    let before = there().await;
    for rules in [vec![read.clone()], vec![read.clone(), long(&[Operation::Update])]] {
        config.access = rules;
        fixture.engine.reconfigure(&config).await.expect("other rules");
        assert_eq!(fixture.texts(json!({"query": "lighthouse", "scope": team})).await, ["the red lighthouse"]);
        fixture.tick().await;
        let after = there().await;
        assert_eq!((after.level, after.version, after.expires_at), (before.level, 1, before.expires_at));
    }
    assert_eq!(there().await.access_count, 2, "that it was used is counted");
    config.access = vec![read, rule(&[Operation::Update], None, Some("team"))];
    fixture.engine.reconfigure(&config).await.expect("other rules");
    assert_eq!(fixture.texts(json!({"query": "lighthouse", "scope": team})).await, ["the red lighthouse"]);
    fixture.tick().await;
    assert_eq!(there().await.level, context_manager_memory::Level::LongTerm);
}
