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

/// Brings an object to what it should be, and says whether it was written. One that the API server does not take stays as it is.
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
    if live.is_some_and(|live| covers(&live, &desired)) {
        return Ok(Ok(false));
    }
    if plan.suspended {
        return Ok(Err(suspended(&format!("The {} {name} is not up to date", K::kind(&())))));
    }
    if let Err(error) = apply(api, &name, &desired, &context.manager(Manager::Store), action).await {
        let say = |words: &str| {
            format!(
                "spec.vectorStore.managed: the API server does not take the {} {name} ({words}); correct the field that it names, or \
                 change the quota or policy of the namespace that is against it. It is tried again",
                K::kind(&())
            )
        };
        return error.or_refused("ObjectRefused", say).map(Err);
    }
    context.wrote("qdrant");
    Ok(Ok(true))
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

    use super::*;

    #[test]
    fn what_cannot_be_written_down_has_no_digest() {
        let of = |number: u8| digest(&BTreeMap::from([("number", number)]), "write").unwrap();
        assert!(of(1) == of(1) && of(1) != of(2));
        let unwritable = BTreeMap::from([((1, 2), "a key that is no text")]);
        assert!(matches!(digest(&unwritable, "write"), Err(Error::Api { action: "write", .. })));
    }
}
