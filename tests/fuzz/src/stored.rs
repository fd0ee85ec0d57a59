//! What the product wrote itself and reads back: contexts and vectors from the journal and from a store.

use context_manager_memory::{Context, ContextId, SparseVector, Vectors, store::schema};
use uuid::Uuid;

/// Contexts and vectors as JSON.
pub fn json(data: &[u8]) {
    if let Ok(mut context) = serde_json::from_slice::<Context>(data) {
        // Numbers in JSON are read to within one unit in the last place.
        context.metadata.clear();
        let written = serde_json::to_vec(&context).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Context>(&written).expect("what was written is read"), context);
    }
    if let Ok(vectors) = serde_json::from_slice::<Vectors>(data) {
        ascends(&vectors.sparse_self);
        ascends(&vectors.sparse_ctx);
    }
    if let Ok(vector) = serde_json::from_slice::<SparseVector>(data) {
        ascends(&vector);
        assert!(vector.dot(&vector).is_nan() || vector.dot(&vector) >= 0.0);
    }
}

/// The payload of a point in a store.
pub fn payload(data: &[u8]) {
    let Ok(fields) = serde_json::from_slice(data) else { return };
    let Ok(mut context) = schema::context(ContextId::new(Uuid::nil()), fields) else { return };
    context.metadata.clear();
    let written = schema::payload(&context).expect("what was read can be written");
    assert_eq!(schema::context(context.id, written).expect("what was written is read"), context);
}

fn ascends(vector: &SparseVector) {
    assert_eq!(vector.indices().len(), vector.values().len());
    assert!(vector.indices().windows(2).all(|pair| pair[0] < pair[1]), "the indices of a sparse vector ascend");
}
