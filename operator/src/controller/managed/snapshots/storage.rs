//! What snapshots need before a node can start: a claim without an owner, so that it outlives the resource, which all nodes can mount, or
//! the credentials of a bucket.

use context_manager_crds::context_manager::snapshots::SnapshotBucket;
use context_manager_protocol::hexadecimal::hexadecimal;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use sha2::{Digest as _, Sha256};

use crate::controller::{
    children,
    context::Context,
    error::{Error, call},
    given,
    plan::{CaSource, ManagedPlan, Plan, SnapshotPlace},
    status::Trouble,
};

const CA_FIELDS: [&str; 2] = [
    "spec.vectorStore.managed.snapshots.storage.s3.caSecretRef",
    "spec.vectorStore.managed.snapshots.storage.s3.caConfigMapRef",
];
const CLAIM_FIELD: &str = "spec.vectorStore.managed.snapshots.storage.volume.size";
/// By which a claim can be mounted on several machines.
const SHARED: &str = "ReadWriteMany";

/// Brings the claim to what it should be, if there are to be snapshots on one. Credentials of a bucket and
/// the CA of its endpoint are read, and nodes that were started with other ones than these of the digest are started anew.
pub(in crate::controller::managed) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
) -> Result<Result<String, Trouble>, Error> {
    let Some(snapshots) = &wanted.snapshots else { return Ok(Ok(String::new())) };
    let name = match &snapshots.place {
        SnapshotPlace::Bucket(bucket) => return credentials(context, plan, bucket, snapshots.place.ca()).await,
        SnapshotPlace::GivenClaim(name) => name,
        SnapshotPlace::OwnClaim(claim) => {
            if let Err(trouble) = children::claim(context, plan, claim, CLAIM_FIELD).await? {
                return Ok(Err(trouble));
            }
            &claim.name
        }
    };
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the claim of the snapshots", api.get_opt(name)).await?;
    Ok(judge(live.as_ref(), name, wanted.nodes).map(|()| String::new()))
}

/// What nodes read of the bucket at their start: its credentials, and the CA of its endpoint.
async fn credentials(
    context: &Context,
    plan: &Plan,
    bucket: &SnapshotBucket,
    ca: Option<CaSource>,
) -> Result<Result<String, Trouble>, Error> {
    let mut digest = Sha256::new();
    for (field, secret) in [
        ("spec.vectorStore.managed.snapshots.storage.s3.accessKeyIdSecretRef", &bucket.access_key_id_secret_ref),
        (
            "spec.vectorStore.managed.snapshots.storage.s3.secretAccessKeySecretRef",
            &bucket.secret_access_key_secret_ref,
        ),
    ] {
        match given::secret(context, &plan.namespace, field, secret).await? {
            Ok(credential) => digest.update(Sha256::digest(credential)),
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    if let Some(source) = ca {
        // Qdrant warns of what it cannot use, and goes on without.
        match given::checked_ca(context, &plan.namespace, CA_FIELDS, &source).await? {
            Ok(pem) => digest.update(Sha256::digest(pem)),
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    Ok(Ok(hexadecimal(&digest.finalize()[..8])))
}

fn judge(live: Option<&PersistentVolumeClaim>, name: &str, nodes: i32) -> Result<(), Trouble> {
    let Some(live) = live else {
        let message = format!(
            "spec.vectorStore.managed.snapshots.storage.volume.claimName: there is no PersistentVolumeClaim {name:?}; make it, or \
             give size instead, and the operator makes one"
        );
        return Err(Trouble::stalled("ClaimNotFound", message));
    };
    let modes = live.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    if nodes > 1 && !modes.iter().any(|mode| mode == SHARED) {
        let message = format!(
            "the claim {name} of the snapshots has the access modes {modes:?}, and {nodes} nodes need {SHARED}: give another claim \
             by spec.vectorStore.managed.snapshots.storage.volume, of a class that has it"
        );
        return Err(Trouble::stalled("ClaimNotShared", message));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_for_several_nodes_is_one_that_several_machines_can_mount() {
        let claim = |mode: &str| serde_json::from_value(json!({"spec": {"accessModes": [mode]}})).unwrap();
        let reason = |mode: &str, nodes| judge(Some(&claim(mode)), "mine", nodes).map_err(|trouble| trouble.reason);
        assert_eq!(reason("ReadWriteOnce", 1), Ok(()));
        assert_eq!(reason(SHARED, 3), Ok(()));
        assert_eq!(reason("ReadWriteOnce", 2), Err("ClaimNotShared"));
        let missing = judge(None, "mine", 1).unwrap_err();
        assert!(missing.message.contains("claimName") && missing.message.contains("\"mine\""), "{}", missing.message);
    }
}
