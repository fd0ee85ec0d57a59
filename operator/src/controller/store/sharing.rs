//! Which other resources use the collection of a resource, and so what of it is not the resource's to delete.
//!
//! Resources are read as JSON, because one that the operator cannot decode may use the collection too: its pods run, whatever became of
//! its spec. What it says of its store is then taken by the letter, and where that is not clear it counts as a user.
//!
//! A server has more names than one, and nothing here can tell whether two are of one server. So a resource with a collection of the same
//! name elsewhere may be a user as well.

use context_manager_crds::{ContextManager, context_manager::qdrant::Qdrant};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::{Value, json};

use crate::{
    controller::{
        context::Context,
        error::{Error, call},
        plan::{Overlap, Plan, QdrantPlan},
        status::{Trouble, listed},
    },
    slim::Slim,
    watches::{RESOURCES_PAGE, next_page},
};

/// Those that use a collection beside one resource.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Those that are known to.
    pub(super) others: Vec<Other>,
    /// Those that may: the collection has the same name, and the server another one.
    pub(super) namesakes: Vec<Other>,
    /// Those that may: nobody can read them.
    unreadable: Vec<Unreadable>,
}

/// A resource, and whose contexts are its own.
#[derive(Debug)]
pub(super) struct Other {
    namespace: String,
    allowed: Vec<String>,
    pub(super) name: String,
    /// Where its server is, if that is known.
    url: String,
}

/// A resource that cannot be decoded.
#[derive(Debug)]
struct Unreadable {
    namespace: String,
    name: String,
    why: String,
}

impl Other {
    pub(super) fn serves(&self, namespace: &str) -> bool {
        self.namespace == namespace || self.allowed.iter().any(|allowed| allowed == namespace)
    }
}

impl Sharing {
    /// Takes a resource in, if it uses the collection or may.
    fn add(&mut self, object: &DynamicObject, wanted: &QdrantPlan) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let default = Qdrant::default().collection(&namespace, &name);
        let says_so = may_use(&object.data["spec"], &default, &wanted.store.collection);
        let other = match serde_json::from_value::<ContextManager>(json!(object)) {
            Ok(other) => other,
            Err(error) if says_so => {
                self.unreadable.push(Unreadable { namespace, name, why: error.to_string() });
                return;
            }
            Err(_) => return,
        };
        let plan = Plan::of(&other);
        let server = plan.as_ref().ok().and_then(|plan| plan.storage.server());
        let overlap = match (&plan, server) {
            (Ok(_), Some(theirs)) => theirs.overlap(wanted),
            // What one that breaks a rule connects to is not known, so its word is taken.
            (Err(_), _) if says_so => Overlap::Yes,
            (Ok(_), None) | (Err(_), _) => Overlap::No,
        };
        let url = server.map(|server| server.store.url.clone()).unwrap_or_default();
        let found = Other { namespace, allowed: other.spec.allowed_namespaces().to_vec(), name, url };
        match overlap {
            Overlap::Yes => self.others.push(found),
            Overlap::Perhaps => self.namesakes.push(found),
            Overlap::No => {}
        }
    }

    /// Why contexts of a namespace may not be deleted yet.
    pub(super) fn obstacle(&self, namespace: &str, collection: &str) -> Option<Trouble> {
        if let Some(first) = self.unreadable.first() {
            let named = self.unreadable.iter().map(|other| format!("{} of namespace {}", other.name, other.namespace));
            let message = format!(
                "ContextManager {} cannot be read ({}) and may use the collection {collection}; correct its spec, or delete it",
                listed(&named.collect::<Vec<_>>()),
                first.why
            );
            return Some(Trouble::passing("OthersUnreadable", message));
        }
        let serving = self.namesakes.iter().filter(|other| other.serves(namespace));
        let named: Vec<_> =
            serving.map(|other| format!("{} of namespace {} ({})", other.name, other.namespace, other.url)).collect();
        if named.is_empty() {
            return None;
        }
        let message = format!(
            "ContextManager {} uses a collection {collection} too, by a url that may be another name of the same server; give \
             both the same url if it is, so that the contexts go with the last of them, or delete that one first. If it is \
             another server, leave the contexts and delete them there yourself",
            listed(&named)
        );
        Some(Trouble::passing("OthersPossible", message))
    }
}

/// Other resources with the same collection where this operator looks, as the API server has them now. Those that are being deleted too
/// do not count: none of two that go together waits for the other.
pub(super) async fn sharing(context: &Context, plan: &Plan, wanted: &QdrantPlan) -> Result<Sharing, Error> {
    let kind = ApiResource::erase::<ContextManager>(&());
    let mut found = Sharing::default();
    for place in context.scope.places() {
        let api: Api<Slim> = match place {
            None => Api::all_with(context.client.clone(), &kind),
            Some(namespace) => Api::namespaced_with(context.client.clone(), namespace, &kind),
        };
        let stays = |object: &&DynamicObject| {
            object.metadata.deletion_timestamp.is_none() && object.uid().is_none_or(|uid| uid != plan.owner.uid)
        };
        let mut params = ListParams::default().limit(RESOURCES_PAGE);
        loop {
            let page = call("list the resources that may share a collection", api.list(&params)).await?;
            page.items.iter().map(|Slim(object)| object).filter(stays).for_each(|object| found.add(object, wanted));
            match next_page(&params, &page.metadata) {
                Some(next) => params = next,
                None => break,
            }
        }
    }
    Ok(found)
}

/// Whether a spec names a collection, or leaves open which one. `default` is what it has when it names none.
fn may_use(spec: &Value, default: &str, collection: &str) -> bool {
    let Some(stores) = spec.get("vectorStore") else { return false };
    let Some(stores) = stores.as_object() else { return true };
    stores.iter().filter(|(kind, _)| *kind != "embedded").any(|(_, store)| {
        let named = store.get("collection").map_or(Some(default), Value::as_str);
        named.is_none_or(|named| named == collection)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::controller::plan::{StoragePlan, tests::resource};

    fn plan_of(spec: &Value) -> QdrantPlan {
        match Plan::of(&resource(spec)).unwrap().storage {
            StoragePlan::Qdrant(plan) => *plan,
            StoragePlan::EmptyDir | StoragePlan::Claim(_) | StoragePlan::Managed(_) => unreachable!("it has a server"),
        }
    }

    fn found(spec: &Value, wanted: &QdrantPlan) -> Sharing {
        let mut object: DynamicObject = serde_json::from_value(json!(resource(&json!({})))).unwrap();
        object.data["spec"] = spec.clone();
        let mut found = Sharing::default();
        found.add(&object, wanted);
        found
    }

    fn server(url: &str) -> Value {
        json!({"vectorStore": {"qdrant": {"url": url, "collection": "shared"}}})
    }

    #[test]
    fn a_resource_uses_the_collection_that_it_names_and_not_another_of_the_name() {
        let mine = plan_of(&server("https://qdrant.stores.svc"));
        let uses = |spec: &Value, wanted: &QdrantPlan| {
            let Sharing { others, namesakes, unreadable } = found(spec, wanted);
            assert!(unreadable.is_empty() && namesakes.is_empty(), "{unreadable:?} {namesakes:?}");
            others.len() == 1
        };
        assert!(uses(&server("https://qdrant.stores:6334"), &mine));
        assert!(!uses(&json!({"vectorStore": {"qdrant": {"url": "https://elsewhere"}}}), &mine));
        assert!(!uses(&json!({}), &mine));
        let theirs = json!({"url": "https://memory-context-qdrant.team.svc", "collection": "ctx_team_memory"});
        let theirs = plan_of(&json!({"vectorStore": {"qdrant": theirs}}));
        let managed = json!({"vectorStore": {"managed": {}}});
        assert!(uses(&managed, &theirs));
        // Nobody knows what a resource that breaks a rule uses, so its word is taken.
        for (mut broken, wanted) in [(server("https://elsewhere"), &mine), (managed, &theirs)] {
            broken["sidecar"] = json!({"adminPort": 7419});
            assert!(uses(&broken, wanted), "{broken}");
        }
    }

    #[test]
    fn a_namesake_on_a_server_of_another_name_is_in_the_way_of_whom_it_serves() {
        let mine = plan_of(&server("https://qdrant.stores.svc"));
        let found = found(&server("https://10.96.0.7"), &mine);
        assert!(found.others.is_empty() && found.namesakes.len() == 1, "{found:?}");
        let trouble = found.obstacle("team", "shared").unwrap();
        assert_eq!(trouble.reason, "OthersPossible");
        for part in ["memory of namespace team (https://10.96.0.7", "a collection shared too", "give both the same url"]
        {
            assert!(trouble.message.contains(part), "{}", trouble.message);
        }
        assert_eq!(found.obstacle("elsewhere", "shared"), None, "contexts of another namespace are not its own");
    }

    #[test]
    fn one_that_cannot_be_read_is_in_the_way_if_it_names_the_collection_or_leaves_it_open() {
        let mine = plan_of(&server("https://qdrant.stores.svc"));
        let obstacle = |mut spec: Value| {
            spec["gc"] = json!("often");
            let found = found(&spec, &mine);
            assert!(found.others.is_empty());
            found.obstacle("team", "shared")
        };
        for spec in [
            server("https://elsewhere"),
            json!({"vectorStore": {"qdrant": {"collection": 7}}}),
            json!({"vectorStore": {"another": {"collection": "shared"}}}),
            json!({"vectorStore": "qdrant"}),
        ] {
            let trouble = obstacle(spec).unwrap();
            assert_eq!(trouble.reason, "OthersUnreadable");
            for part in ["memory of namespace team cannot be read (", "the collection shared", "correct its spec"] {
                assert!(trouble.message.contains(part), "{}", trouble.message);
            }
        }
        for spec in [
            json!({}),
            json!({"vectorStore": {"embedded": {}}}),
            json!({"vectorStore": {"qdrant": {"url": "https://qdrant.stores.svc"}}}),
            json!({"vectorStore": {"qdrant": {"collection": "another"}}}),
            json!({"vectorStore": {"managed": {}}}),
        ] {
            assert_eq!(obstacle(spec.clone()), None, "{spec}");
        }
    }
}
