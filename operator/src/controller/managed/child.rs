//! Writing of one object of a managed Qdrant.

use std::fmt::Debug;

use kube::{Api, Resource, ResourceExt as _};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::controller::{
    apply::{Manager, apply, covers},
    build,
    context::Context,
    error::Error,
    keys::{name_taken, owned, suspended},
    plan::Plan,
    status::Trouble,
};
use context_manager_protocol::hexadecimal::hexadecimal;

/// Annotation: the digest of what was applied last. What is not desired any more is found by it, because the object itself does not show
/// who asked for what it has.
const APPLIED: &str = "contextmanager.dev/applied";

/// Brings an object to what it should be, and says whether it is another one now. One that the API server does not take stays as it is, and
/// so does one that a policy of the cluster rewrites each time: that one is asked for at each look, and its answer is what there was.
pub(super) async fn bring<K>(
    context: &Context,
    plan: &Plan,
    api: &Api<K>,
    live: Option<K>,
    mut desired: K,
    action: &'static str,
) -> Result<Result<bool, Trouble>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = desired.name_any();
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(live.meta()) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let digest = digest(&desired, action)?;
    desired.annotations_mut().insert(APPLIED.to_owned(), digest);
    if live.as_ref().is_some_and(|live| covers(live, &desired)) {
        return Ok(Ok(false));
    }
    if plan.suspended {
        return Ok(Err(suspended(&format!("The {} {name} is not up to date", K::kind(&())))));
    }
    let written = match apply(api, &name, &desired, &context.manager(Manager::Store), action).await {
        Ok(written) => written,
        Err(error) => {
            let say = |words: &str| {
                format!(
                    "spec.vectorStore.managed: the API server does not take the {} {name} ({words}); correct the field that it names, or \
                     change the quota or policy of the namespace that is against it. It is tried again",
                    K::kind(&())
                )
            };
            return error.or_refused("ObjectRefused", say).map(Err);
        }
    };
    let before = live.and_then(|live| live.resource_version());
    let is_changed = before.is_none() || written.resource_version() != before;
    if is_changed {
        context.wrote("qdrant");
    }
    Ok(Ok(is_changed))
}

/// The digest of an object. What cannot be written down has none: one of nothing would be the same for all objects.
fn digest(desired: &impl Serialize, action: &'static str) -> Result<String, Error> {
    let text = serde_json::to_vec(desired)
        .map_err(|error| Error::Api { action, source: Box::new(kube::Error::SerdeError(error)) })?;
    Ok(hexadecimal(&Sha256::digest(text)[..8]))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use http::{Request, Response};
    use k8s_openapi::api::apps::v1::StatefulSet;
    use kube::{Client, client::Body};
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;
    use crate::controller::{context::tests::context_with, plan::tests::resource};

    #[tokio::test]
    async fn what_a_policy_rewrites_each_time_is_not_another_object() {
        let set = |image: &str, version: Option<&str>| -> StatefulSet {
            let owner = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "name": "memory", "uid": "uid-1"});
            let mut metadata =
                json!({"name": "memory-context-qdrant", "namespace": "team", "ownerReferences": [owner]});
            metadata["resourceVersion"] = version.into();
            let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "qdrant", "image": image}]}});
            let spec = json!({"serviceName": "peers", "selector": {}, "template": pod});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        // An API server with a policy that has images come from a mirror.
        let mirror = service_fn(move |request: Request<Body>| async move {
            let mut object: Value = serde_json::from_slice(&request.into_body().collect_bytes().await?).unwrap();
            object["metadata"]["resourceVersion"] = "7".into();
            object["spec"]["template"]["spec"]["containers"][0]["image"] = "mirror/qdrant".into();
            Ok::<_, kube::Error>(Response::new(Body::from(object.to_string().into_bytes())))
        });
        let client = Client::new(mirror, "default");
        let context = context_with(&client, |settings| settings);
        let api = Api::<StatefulSet>::namespaced(client, "team");
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}}))).unwrap();
        for (live, is_changed) in [
            (None, true),
            (Some(set("mirror/qdrant", Some("6"))), true),
            (Some(set("mirror/qdrant", Some("7"))), false),
        ] {
            let seen = format!("{live:?}");
            let brought = bring(&context, &plan, &api, live, set("qdrant", None), "write the set").await.unwrap();
            assert_eq!(brought, Ok(is_changed), "{seen}");
        }
        let page = context.metrics.render().unwrap();
        assert!(page.contains("context_manager_writes_total{object=\"qdrant\"} 2\n"), "{page}");
    }

    #[test]
    fn what_cannot_be_written_down_has_no_digest() {
        let of = |number: u8| digest(&BTreeMap::from([("number", number)]), "write").unwrap();
        assert!(of(1) == of(1) && of(1) != of(2));
        let unwritable = BTreeMap::from([((1, 2), "a key that is no text")]);
        assert!(matches!(digest(&unwritable, "write"), Err(Error::Api { action: "write", .. })));
    }
}
