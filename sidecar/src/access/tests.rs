//! Who may do what where. The rules are a table; so is this.

use context_manager_protocol::{config::SidecarConfig, message::Scope};

use super::*;

fn access(agent: &str, rules: &str) -> Arc<Access> {
    let toml = format!("[store.qdrant]\nurl = \"http://q:6334\"\ncollection = \"c\"\n{rules}");
    let config = SidecarConfig::from_toml(&toml).expect("valid rules");
    let identity = Identity::new(Some("team-a"), Some(agent), None).expect("valid names");
    Arc::new(Access::new(&identity, &config.access))
}

fn place(access: &Access, agent: Option<&str>, space: Option<&str>, session: Option<&str>) -> Place {
    let scope = Scope { agent: agent.map(Into::into), space: space.map(Into::into), session: None };
    Place::new(&access.agent, Some(&scope), session).expect("a valid scope")
}

/// The levels on which an operation is permitted; none is a refusal.
fn on<O: Permission>(access: &Arc<Access>, place: Place) -> Vec<&'static str> {
    let granted = access.permit::<O>(&Verified::for_test(), place);
    granted.map(|granted| granted.reach().levels().iter().map(|level| level.as_str()).collect()).unwrap_or_default()
}

const ALL: [&str; 3] = ["immediate", "short_term", "long_term"];
const LASTING: [&str; 2] = ["short_term", "long_term"];

#[test]
fn without_a_rule_an_agent_may_do_everything_in_its_own_memory_and_nothing_elsewhere() {
    let access = access("a", "");
    assert_eq!(on::<Delete>(&access, place(&access, None, None, None)), ALL);
    assert_eq!(on::<Delete>(&access, place(&access, Some("a"), None, Some("s"))), ALL, "it may be named");
    for place in [place(&access, Some("b"), None, None), place(&access, None, Some("a"), None)] {
        assert!(on::<Read>(&access, place.clone()).is_empty());
        assert!(on::<Store>(&access, place.clone()).is_empty());
        assert!(on::<Update>(&access, place.clone()).is_empty());
        assert!(on::<Delete>(&access, place.clone()).is_empty());
        assert!(on::<Export>(&access, place.clone()).is_empty());
        assert!(on::<Import>(&access, place).is_empty());
    }
}

#[test]
fn a_rule_permits_its_operations_on_its_levels_at_its_target_to_its_agents() {
    let rules = r#"
        [[access]]
        agents = ["a", "c"]
        operations = ["read", "delete"]
        target = { agent = "b" }
        [[access]]
        agents = ["a"]
        operations = ["store"]
        levels = ["long_term"]
        target = { agent = "b" }
        [[access]]
        agents = ["*"]
        operations = ["read", "store"]
        target = { space = "team" }
    "#;
    let access = |agent| access(agent, rules);
    let (a, c, d) = (access("a"), access("c"), access("d"));
    let of_b = |access: &Access| place(access, Some("b"), None, None);
    assert_eq!(on::<Read>(&a, of_b(&a)), ALL);
    assert_eq!(on::<Delete>(&a, of_b(&a)), LASTING, "immediate memory is written by its own agent alone");
    assert_eq!(on::<Store>(&a, of_b(&a)), ["long_term"]);
    assert!(on::<Update>(&a, of_b(&a)).is_empty());
    assert_eq!(on::<Read>(&c, of_b(&c)), ALL);
    assert!(on::<Store>(&c, of_b(&c)).is_empty());
    assert!(on::<Read>(&d, of_b(&d)).is_empty());
    for access in [&a, &c, &d] {
        assert_eq!(on::<Store>(access, place(access, None, Some("team"), Some("any session"))), LASTING);
        assert!(on::<Read>(access, place(access, None, Some("other"), None)).is_empty());
        assert!(on::<Read>(access, place(access, Some("team"), None, None)).is_empty(), "an agent is no space");
    }
}

#[test]
fn an_agent_knows_whether_others_may_write_to_its_memory() {
    let rule = |agents: &str, operation: &str, target: &str| {
        format!("[[access]]\nagents = [{agents}]\noperations = [\"{operation}\"]\ntarget = {{ {target} }}\n")
    };
    for (agents, operation, target, expected) in [
        ("\"b\"", "store", "agent = \"a\"", true),
        ("\"*\"", "delete", "agent = \"*\"", true),
        ("\"b\"", "update", "agent = \"a\", session = \"s\"", true),
        ("\"b\"", "read", "agent = \"a\"", false),
        ("\"a\"", "store", "agent = \"*\"", false),
        ("\"b\"", "store", "agent = \"c\"", false),
        ("\"b\"", "store", "space = \"a\"", false),
        ("\"b\"", "import", "tenant = true", true),
        ("\"b\"", "export", "tenant = true", false),
        ("\"a\"", "import", "tenant = true", false),
    ] {
        let rules = rule(agents, operation, target);
        assert_eq!(access("a", &rules).others_write(), expected, "{rules}");
    }
}

#[test]
fn a_rule_for_a_session_is_for_no_other_and_not_for_the_whole() {
    let access = access(
        "a",
        "[[access]]\nagents = [\"a\"]\noperations = [\"read\"]\ntarget = { agent = \"*\", session = \"s 1\" }\n",
    );
    for holder in ["b", "c"] {
        assert_eq!(on::<Read>(&access, place(&access, Some(holder), None, Some("s 1"))), ALL);
        assert!(on::<Read>(&access, place(&access, Some(holder), None, Some("s 2"))).is_empty());
        assert!(on::<Read>(&access, place(&access, Some(holder), None, None)).is_empty());
    }
    assert!(on::<Read>(&access, place(&access, None, Some("b"), Some("s 1"))).is_empty(), "* is every agent, no space");
}

#[test]
fn a_permission_reaches_what_it_says_and_tells_nothing_of_the_rest() {
    use context_manager_memory::{Context, ContextId, Timestamp};

    let access = access(
        "a",
        "[[access]]\nagents = [\"a\"]\noperations = [\"read\"]\nlevels = [\"long_term\"]\ntarget = { agent = \"b\" }\n",
    );
    let caller = Verified::for_test();
    let granted = access.permit::<Read>(&caller, place(&access, Some("b"), None, Some("s"))).expect("permitted");
    let reach = granted.reach();
    let context = |agent: &str, level, session| Context {
        session: SessionId::new(session).ok(),
        ..Context::new(
            ContextId::new(uuid::Uuid::nil()),
            access.own.tenant.clone(),
            AgentId::new(agent).expect("a name"),
            level,
            "x",
            Timestamp::from_millis(0),
        )
    };
    assert!(reach.admits(&context("b", Level::LongTerm, "s")));
    assert!(!reach.admits(&context("b", Level::ShortTerm, "s")));
    assert!(!reach.admits(&context("b", Level::LongTerm, "t")));
    assert!(!reach.admits(&context("a", Level::LongTerm, "s")));
    assert!(!reach.is_whole());
    let denied = reach.on_level(Level::ShortTerm).expect_err("another level").to_string();
    for part in ["agent a", "operation read", "agent b", "short_term", "spec.auth.access", "[[access]]"] {
        assert!(denied.contains(part), "{denied} lacks {part}");
    }
    let decisions = caller.decisions().all();
    let expected = |permitted| Decision {
        operation: Operation::Read,
        whose: Whose::Other(AgentId::new("b").expect("a name").into()),
        in_session: true,
        permitted,
    };
    assert_eq!(decisions, [expected(true), expected(false)]);
}

#[test]
fn a_scope_that_names_no_place_is_refused_by_its_field() {
    let agent = AgentId::new("a").expect("a name");
    let refused = |scope: Scope, session| Place::new(&agent, Some(&scope), session).expect_err("no place").field;
    let both = Scope { agent: Some("b".into()), space: Some("t".into()), session: None };
    assert_eq!(refused(both, None), "scope");
    assert_eq!(refused(Scope { agent: Some("a b".into()), ..Scope::default() }, None), "scope.agent");
    assert_eq!(refused(Scope { space: Some(String::new()), ..Scope::default() }, None), "scope.space");
    assert_eq!(refused(Scope { session: Some("s".into()), ..Scope::default() }, Some("t")), "session");
    assert_eq!(refused(Scope::default(), Some("")), "session");
}

#[test]
fn a_tenant_is_moved_by_a_rule_for_the_tenant_and_by_no_other() {
    let moved = |access: &Arc<Access>, level| {
        let granted = access.permit_tenant::<Export>(&Verified::for_test()).ok()?;
        Some(granted.within(access.own.holder.clone()).on_level(level).is_ok())
    };
    let all = r#"agents = ["a"]
        operations = ["read", "store", "update", "delete", "export", "import"]
    "#;
    let every_memory =
        format!("[[access]]\n{all}\ntarget = {{ agent = \"*\" }}\n[[access]]\n{all}\ntarget = {{ space = \"*\" }}\n");
    assert_eq!(moved(&access("a", &every_memory), Level::LongTerm), None);
    let rule = |agents: &str, operation: &str| {
        format!(
            "[[access]]\nagents = [\"{agents}\"]\noperations = [\"{operation}\"]\nlevels = [\"long_term\"]\ntarget = {{ tenant = true }}\n"
        )
    };
    for (agents, operation, expected) in
        [("a", "export", Some(true)), ("*", "export", Some(true)), ("b", "export", None), ("a", "import", None)]
    {
        let access = access("a", &rule(agents, operation));
        assert_eq!(moved(&access, Level::LongTerm), expected, "{agents} {operation}");
        assert_eq!(moved(&access, Level::ShortTerm), expected.map(|_| false), "{agents} {operation}");
        assert!(
            on::<Export>(&access, place(&access, Some("c"), None, None)).is_empty(),
            "one memory is not the tenant"
        );
        assert!(on::<Import>(&access, place(&access, None, Some("team"), None)).is_empty());
    }
    let caller = Verified::for_test();
    let denied = access("a", "").permit_tenant::<Import>(&caller).expect_err("no rule").to_string();
    for part in ["agent a", "operation import", "the whole tenant", "spec.auth.access", "[[access]]"] {
        assert!(denied.contains(part), "{denied} lacks {part}");
    }
    let decision = Decision { operation: Operation::Import, whose: Whose::Tenant, in_session: false, permitted: false };
    assert_eq!(caller.decisions().all(), [decision]);
}

#[test]
fn who_moves_a_tenant_brings_immediate_memory_to_agents_and_none_to_spaces() {
    let access = access("a", "[[access]]\nagents = [\"a\"]\noperations = [\"import\"]\ntarget = { tenant = true }\n");
    let granted = access.permit_tenant::<Import>(&Verified::for_test()).expect("permitted");
    let levels = |holder: Holder| granted.within(holder).levels();
    assert_eq!(levels(AgentId::new("b").expect("a name").into()), Level::ALL);
    assert_eq!(levels(SpaceId::new("b").expect("a name").into()), [Level::ShortTerm, Level::LongTerm]);
}
