//! The limit of strict mode that makes a server refuse writes here: how long sparse vectors may be. A server of version 1.19 refuses
//! what is longer with `InvalidArgument`.

use qdrant_client::qdrant::{CreateCollection, StrictModeConfig, UpsertPoints, vector, vectors::VectorsOptions};
use tonic::Status;

use crate::{convert, store::Collection};

/// Takes over the limits that are named; those that are not stay.
pub(crate) fn change(made: &mut CreateCollection, new: StrictModeConfig) -> Result<(), Status> {
    let StrictModeConfig { enabled, sparse_config, .. } = new.clone();
    let known = StrictModeConfig { enabled, sparse_config, ..StrictModeConfig::default() };
    if new != known {
        return Err(convert::unknown("limits of strict mode other than sparse_config"));
    }
    let limits = made.strict_mode_config.get_or_insert_default();
    limits.enabled = new.enabled.or(limits.enabled);
    limits.sparse_config = new.sparse_config.or(limits.sparse_config.take());
    Ok(())
}

/// Refuses points that go beyond a limit.
pub(crate) fn check(collection: &Collection, request: &UpsertPoints) -> Result<(), Status> {
    let limits = collection.definition().strict_mode_config.unwrap_or_default();
    if limits.enabled != Some(true) {
        return Ok(());
    }
    let Some(sparse) = limits.sparse_config else { return Ok(()) };
    for point in &request.points {
        let vectors = point.vectors.as_ref().and_then(|vectors| vectors.vectors_options.as_ref());
        let Some(VectorsOptions::Vectors(named)) = vectors else { continue };
        for (name, vector) in &named.vectors {
            let Some(vector::Vector::Sparse(terms)) = &vector.vector else { continue };
            let longest = sparse.sparse_config.get(name).and_then(|limit| limit.max_length);
            if longest.is_some_and(|longest| terms.indices.len() as u64 > longest) {
                return Err(Status::invalid_argument(format!("Forbidden: sparse vector {name} is too long")));
            }
        }
    }
    Ok(())
}
