//! What keeps a resource until something that no garbage collector takes is gone: contexts on a server, and copies in other namespaces.

use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::json;

use super::{
    Object,
    context::Context,
    error::{Error, call},
};

/// Whether a resource has a finalizer.
pub(super) fn has(metadata: &ObjectMeta, wanted: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == wanted)
}

/// A finalizer, and whether it is to be there.
pub(super) type Wanted = (&'static str, bool);

/// Adds and removes finalizers, unless the resource was changed meanwhile. Nothing is written when all is as it should be.
pub(super) async fn set(context: &Context, metadata: &ObjectMeta, all: &[Wanted]) -> Result<(), Error> {
    if all.iter().all(|(finalizer, wanted)| has(metadata, finalizer) == *wanted) {
        return Ok(());
    }
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| all.iter().all(|(other, _)| finalizer != other));
    finalizers.extend(all.iter().filter(|(_, wanted)| *wanted).map(|(finalizer, _)| (*finalizer).to_owned()));
    let (Some(name), Some(namespace)) = (&metadata.name, &metadata.namespace) else { return Ok(()) };
    let api = Api::<Object>::namespaced(context.client.clone(), namespace);
    let patch = json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": finalizers}});
    call("write the finalizers", api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
    context.wrote("finalizer");
    Ok(())
}
