//! The limits of strict mode that make a server refuse writes: how many points a collection may have, and how long its sparse
//! vectors may be. They are what a real server of version 1.19 refuses with `InvalidArgument`.

use qdrant_client::qdrant::{CreateCollection, StrictModeConfig, UpsertPoints, vector, vectors::VectorsOptions};
use tonic::Status;

use crate::{convert, store::Collection};

/// Takes over the limits that are named; those that are not stay.
pub(crate) fn change(made: &mut CreateCollection, new: StrictModeConfig) -> Result<(), Status> {
    let StrictModeConfig { enabled, max_points_count, sparse_config, .. } = new.clone();
    let known = StrictModeConfig { enabled, max_points_count, sparse_config, ..StrictModeConfig::default() };
    if new != known {
        return Err(convert::unknown("limits of strict mode other than max_points_count and sparse_config"));
    }
    let limits = made.strict_mode_config.get_or_insert_default();
    limits.enabled = new.enabled.or(limits.enabled);
    limits.max_points_count = new.max_points_count.or(limits.max_points_count);
    limits.sparse_config = new.sparse_config.or(limits.sparse_config.take());
    Ok(())
}

/// Refuses points that go beyond a limit.
pub(crate) fn check(collection: &Collection, request: &UpsertPoints) -> Result<(), Status> {
    let limits = collection.definition().strict_mode_config.unwrap_or_default();
    if limits.enabled != Some(true) {
        return Ok(());
    }
    check_size(collection, &limits)?;
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

fn check_size(collection: &Collection, limits: &StrictModeConfig) -> Result<(), Status> {
    let Some(most) = limits.max_points_count else { return Ok(()) };
    let points = collection.engine.info().map_err(crate::store::failed)?.points_count as u64;
    if points >= most {
        return Err(Status::invalid_argument(format!("Forbidden: the collection has its {most} points")));
    }
    Ok(())
}
