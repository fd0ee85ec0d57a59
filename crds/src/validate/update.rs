//! Rules about changes: what a spec may not become.

use super::{Check, Problem};
use crate::{
    ContextManagerSpec,
    context_manager::{
        embedding::{Embedding, OnModelChange},
        managed::Managed,
        qdrant::Qdrant,
        vector_store::{Storage, VolumeClaimTemplate},
    },
    rules,
};

/// Every rule that the change from `old` to `new` breaks; empty when it is allowed.
#[must_use]
pub fn validate_update(old: &ContextManagerSpec, new: &ContextManagerSpec) -> Vec<Problem> {
    let mut check = Check::default();
    check.rule(old.class() == new.class(), rules::CLASS_IS_FIXED);
    let (server_before, server_now) = (server(old), server(new));
    let (managed_before, managed_now) = (managed(old), managed(new));
    let same_kind =
        server_before.is_some() == server_now.is_some() && managed_before.is_some() == managed_now.is_some();
    check.rule(same_kind, rules::STORE_IS_FIXED);
    if let (Some(before), Some(now)) = (managed_before, managed_now) {
        self::nodes(&mut check, before, now);
    }
    if let (Some(before), Some(now)) = (server_before, server_now) {
        check.rule(now.collection == before.collection, rules::COLLECTION_IS_FIXED);
    }
    let (claim_before, claim_now) = (claim(old), claim(new));
    check.rule(claim_before.is_some() == claim_now.is_some(), rules::STORAGE_KIND_IS_FIXED);
    if let (Some(before), Some(now)) = (claim_before, claim_now) {
        let size = |claim: &VolumeClaimTemplate| claim.resources.requests.storage.amount();
        check.rule(size(now) >= size(before), rules::CLAIM_ONLY_GROWS);
        let same = now.storage_class_name == before.storage_class_name
            && now.access_modes == before.access_modes
            && now.volume_name == before.volume_name;
        check.rule(same, rules::CLAIM_IS_FIXED);
    }
    let none = Embedding::default();
    let before = old.embedding.as_ref().unwrap_or(&none);
    let now = new.embedding.as_ref().unwrap_or(&none);
    let model = |embedding: &Embedding| {
        (embedding.provider.unwrap_or_default(), embedding.model.clone(), embedding.dimensions.unwrap_or(384))
    };
    let may_change = now.on_model_change.unwrap_or_default() == OnModelChange::ReEmbed;
    check.rule(may_change || model(now) == model(before), rules::MODEL_IS_FIXED);
    check.problems
}

fn managed(spec: &ContextManagerSpec) -> Option<&Managed> {
    spec.vector_store.as_ref()?.managed.as_ref()
}

fn nodes(check: &mut Check, before: &Managed, now: &Managed) {
    check.rule(now.storage.is_some() == before.storage.is_some(), rules::MANAGED_STORAGE_IS_FIXED);
    if let (Some(before), Some(now)) = (&before.storage, &now.storage) {
        check.rule(now == before, rules::MANAGED_VOLUMES_ARE_FIXED);
    }
    check.rule(now.is_encrypted() == before.is_encrypted(), rules::MANAGED_TLS_IS_FIXED);
    check.rule(now.restore_from.is_none() || now.restore_from == before.restore_from, rules::RESTORE_AT_CREATION);
}

fn server(spec: &ContextManagerSpec) -> Option<&Qdrant> {
    spec.vector_store.as_ref()?.qdrant.as_ref()
}

fn claim(spec: &ContextManagerSpec) -> Option<&VolumeClaimTemplate> {
    let storage = spec.vector_store.as_ref()?.embedded.as_ref()?.storage.as_ref()?;
    let Storage { empty_dir: _, volume_claim_template } = storage;
    volume_claim_template.as_ref()
}
