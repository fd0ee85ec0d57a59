//! The Secret that the sidecars of a resource mount to reach its server.

use context_manager_crds::context_manager::qdrant::TokenPolicy;
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    credentials::Credentials,
    probe::{Seen, Takes},
    token::{self, Scope},
};
use crate::controller::{
    apply::{Manager, apply, covers},
    build,
    context::Context,
    error::{Error, call},
    keys::{name_taken, not_taken, owned, suspended},
    plan::{Plan, QdrantPlan},
    status::Trouble,
};

/// How far the Secret is what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It is, or stays as it is because the server refused what it should be.
    Settled,
    /// It stays as it is until the first look at the server with what it should be has ended.
    Waits,
}

/// Brings the Secret to what it should be. What the server was not asked about yet, or has refused, does not replace what may still be good.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
    credentials: &Credentials,
    (scope, seen): (&Scope, Option<&Seen>),
) -> Result<Result<Published, Trouble>, Error> {
    let name = names::store_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the store's Secret", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let has_some = live.as_ref().is_some_and(|live| FILES.iter().any(|file| has(live, file)));
    if has_some && is_held_back(seen) {
        return Ok(Ok(Published::Settled));
    }
    let published = live.as_ref().and_then(key_in);
    let issue = Issue { policy: wanted.tokens, scope, uid: &plan.owner.uid, lifetime: wanted.token_lifetime };
    let key = credentials.key.as_ref().map(|key| issue.of(key, published.as_deref(), seen, Timestamp::now()));
    let key = key.as_ref().map(|key| key.expose_secret().as_bytes());
    let mut desired = build::store_secret(plan, key, credentials.ca.as_deref());
    if let Some(live) = &live {
        // A Secret's type cannot be changed.
        desired.type_.clone_from(&live.type_);
    }
    if live.as_ref().is_some_and(|live| covers(live, &desired) && has_nothing_else(live, &desired)) {
        return Ok(Ok(Published::Settled));
    }
    if plan.suspended {
        return Ok(Err(suspended("The store's Secret is not up to date")));
    }
    if has_some && seen.is_none() {
        return Ok(Ok(Published::Waits));
    }
    let manager = context.manager(Manager::Store);
    if let Err(error) = apply(&api, &name, &desired, &manager, "write the store's Secret").await {
        return not_taken(error, "Secret", &name).map(Err);
    }
    context.wrote("store_secret");
    Ok(Ok(Published::Settled))
}

/// What may be in it.
const FILES: [&str; 2] = [names::QDRANT_API_KEY_FILE, names::QDRANT_CA_FILE];

fn has(secret: &Secret, file: &str) -> bool {
    secret.data.as_ref().is_some_and(|data| data.contains_key(file))
}

fn key_in(secret: &Secret) -> Option<String> {
    let ByteString(bytes) = secret.data.as_ref()?.get(names::QDRANT_API_KEY_FILE)?;
    String::from_utf8(bytes.clone()).ok()
}

fn is_held_back(seen: Option<&Seen>) -> bool {
    matches!(seen, Some(Err(trouble)) if ["StoreUnauthorized", "StoreNotTrusted"].contains(&trouble.reason))
}

/// Whether no file of ours is left in it that is not desired any more.
fn has_nothing_else(live: &Secret, desired: &Secret) -> bool {
    FILES.iter().all(|file| has(live, file) == has(desired, file))
}

/// How sidecars get something to prove themselves by.
struct Issue<'a> {
    policy: TokenPolicy,
    scope: &'a Scope,
    uid: &'a str,
    lifetime: std::time::Duration,
}

impl Issue<'_> {
    /// What sidecars prove themselves by: the token they have while it lasts, a new one, or the key.
    fn of(&self, key: &SecretString, published: Option<&str>, seen: Option<&Seen>, now: Timestamp) -> SecretString {
        let by_token = match (self.policy, seen) {
            (TokenPolicy::Never, _) | (TokenPolicy::Auto, Some(Ok(Takes::Key | Takes::Nothing))) => false,
            (TokenPolicy::PerResource, _) | (TokenPolicy::Auto, Some(Ok(Takes::Tokens))) => true,
            // Nobody knows, so it stays what it is; and the lesser right comes first.
            (TokenPolicy::Auto, Some(Err(_)) | None) => {
                published.is_none_or(|published| published != key.expose_secret() && token::is_token(published))
            }
        };
        if !by_token {
            return key.clone();
        }
        let rest = |token: &str| {
            let expires = token::expiry(token, key, self.scope)?;
            std::time::Duration::try_from(expires.duration_since(now)).ok()
        };
        let least = self.lifetime.mul_f64(token::renewal_share(self.uid));
        match published.filter(|token| rest(token).is_some_and(|rest| rest > least && rest <= self.lifetime)) {
            Some(lasting) => lasting.into(),
            None => token::mint(key, self.scope, now.checked_add(self.lifetime).unwrap_or(Timestamp::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::controller::{
        context::tests::context_with,
        objects::Objects,
        plan::{StoragePlan, tests::resource},
    };

    const HOUR: Duration = Duration::from_hours(1);

    fn scope() -> Scope {
        Scope { collection: "mine".to_owned(), subject: "team/memory".to_owned() }
    }

    /// What is issued at `minute` with a key.
    fn issued(
        policy: TokenPolicy,
        (key, minute): (&str, i64),
        published: Option<&str>,
        seen: Option<&Seen>,
    ) -> (String, bool) {
        let issue = Issue { policy, scope: &scope(), uid: "uid-1", lifetime: HOUR };
        let now = Timestamp::from_second(60 * minute).expect("a time");
        let issued = issue.of(&key.into(), published, seen, now);
        let text = issued.expose_secret().to_owned();
        let is_token = token::is_token(&text);
        (text, is_token)
    }

    #[test]
    fn a_token_lasts_for_about_half_of_its_life_and_not_longer_than_its_key() {
        let policy = TokenPolicy::PerResource;
        let (first, is_token) = issued(policy, ("key", 0), None, None);
        assert!(is_token);
        assert_eq!(issued(policy, ("key", 20), Some(&first), None).0, first);
        let (second, _) = issued(policy, ("key", 40), Some(&first), None);
        assert_ne!(second, first, "it is renewed well before its end");
        assert_ne!(issued(policy, ("rotated", 20), Some(&first), None).0, first);
        // A shorter life that is asked for counts at once.
        let long = token::mint(&"key".into(), &scope(), Timestamp::from_second(7_200).expect("a time"));
        assert_ne!(issued(policy, ("key", 0), Some(long.expose_secret()), None).0, long.expose_secret());
    }

    #[test]
    fn automatic_tokens_follow_what_the_server_takes_and_stay_while_nobody_knows() {
        let policy = TokenPolicy::Auto;
        let away: Seen = Err(Trouble::passing("StoreUnreachable", ""));
        let (token, is_token) = issued(policy, ("key", 0), None, None);
        assert!(is_token, "the lesser right comes first");
        assert_eq!(issued(policy, ("key", 0), Some(&token), Some(&Ok(Takes::Key))).0, "key");
        assert_eq!(issued(policy, ("key", 0), Some("key"), Some(&away)).0, "key");
        assert_eq!(issued(policy, ("key", 1), Some(&token), Some(&away)).0, token);
        assert!(issued(policy, ("key", 0), Some("key"), Some(&Ok(Takes::Tokens))).1);
        assert_eq!(issued(policy, ("rotated", 0), Some("key"), Some(&away)).0, "rotated");
        // API keys of Qdrant Cloud begin as tokens do, and one may even look like a token throughout.
        let cloud = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhY2Nlc3MiOiJtIn0.c2lnbmF0dXJl";
        assert_eq!(issued(policy, (cloud, 0), Some(cloud), Some(&away)).0, cloud);
        assert_eq!(issued(policy, ("rotated", 0), Some(cloud), Some(&away)).0, "rotated");
        assert_eq!(issued(policy, (token.as_str(), 0), Some(&token), Some(&away)).0, token);
    }

    #[test]
    fn the_key_is_given_away_only_where_that_is_allowed() {
        assert_eq!(issued(TokenPolicy::Never, ("key", 0), None, Some(&Ok(Takes::Tokens))).0, "key");
        let refused: Seen = Err(Trouble::stalled("StoreTokensRefused", ""));
        for seen in [None, Some(&Ok(Takes::Tokens)), Some(&refused)] {
            assert!(issued(TokenPolicy::PerResource, ("key", 0), Some("key"), seen).1, "{seen:?}");
        }
    }

    #[tokio::test]
    async fn what_the_server_was_not_asked_about_does_not_replace_what_may_be_good() {
        let store = json!({
            "url": "https://qdrant", "apiKeySecretRef": {"name": "mine", "key": "key"}, "token": {"policy": "Never"},
        });
        let plan = Plan::of(&resource(&json!({"vectorStore": {"qdrant": store}}))).expect("a plan");
        let StoragePlan::Qdrant(wanted) = &plan.storage else { unreachable!("the store is a server") };
        let with = |file: &str, text: &str| match file {
            names::QDRANT_CA_FILE => Credentials { ca: Some(text.into()), ..Credentials::default() },
            _ => Credentials { key: Some(text.into()), ..Credentials::default() },
        };
        for (file, reason) in
            [(names::QDRANT_API_KEY_FILE, "StoreUnauthorized"), (names::QDRANT_CA_FILE, "StoreNotTrusted")]
        {
            let objects = Objects::default();
            let context = context_with(&objects.client(), |settings| settings);
            let refused: Seen = Err(Trouble::stalled(reason, ""));
            for (text, seen, said, published) in [
                ("first", None, Published::Settled, "first"),
                ("second", None, Published::Waits, "first"),
                ("second", Some(&refused), Published::Settled, "first"),
                ("third", None, Published::Waits, "first"),
                ("third", Some(&Ok(Takes::Key)), Published::Settled, "third"),
                ("third", None, Published::Settled, "third"),
            ] {
                let scope = scope();
                let ended = ensure(&context, &plan, wanted, &with(file, text), (&scope, seen)).await;
                assert_eq!(ended.expect("an answer"), Ok(said), "{file}: {text} {seen:?}");
                assert_eq!(
                    objects.file("memory-context-store", file).as_deref(),
                    Some(published),
                    "{file}: {text} {seen:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_secret_that_the_api_server_does_not_take_is_said() {
        let store = json!({"url": "https://qdrant", "apiKeySecretRef": {"name": "mine", "key": "key"}});
        let plan = Plan::of(&resource(&json!({"vectorStore": {"qdrant": store}}))).expect("a plan");
        let StoragePlan::Qdrant(wanted) = &plan.storage else { unreachable!("the store is a server") };
        let objects = Objects::default();
        let context = context_with(&objects.client(), |settings| settings);
        objects.refuse(true);
        let credentials = Credentials { key: Some("key".into()), ..Credentials::default() };
        let scope = scope();
        let ended = ensure(&context, &plan, wanted, &credentials, (&scope, None)).await.expect("an answer");
        let trouble = ended.expect_err("it is not taken");
        assert_eq!((trouble.reason, trouble.stalled), ("ObjectRefused", true), "{}", trouble.message);
    }

    #[test]
    fn what_the_server_refused_is_held_back() {
        for (reason, held) in [("StoreUnauthorized", true), ("StoreNotTrusted", true), ("StoreUnreachable", false)] {
            assert_eq!(is_held_back(Some(&Err(Trouble::stalled(reason, "")))), held, "{reason}");
        }
        assert!(!is_held_back(None) && !is_held_back(Some(&Ok(Takes::Key))));
    }
}
