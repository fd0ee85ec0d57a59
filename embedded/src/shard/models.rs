//! Vectors of several models in one directory: the files are written anew when the current model changes, and when former vectors go.
//!
//! The engine could add a name to its files where they are, but a process that is killed between two of its segments would leave
//! files that cannot be opened any more. New files beside the old ones, and a manifest that is replaced as a whole, have no such
//! moment.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use context_manager_memory::{
    ContextId,
    store::{Clauses, DenseNames, Model, NewDense, Owner, schema},
};
use qdrant_edge::{
    EdgeShard, PointInsertOperations, PointOperations, PointStructPersisted, PointVectorsPersisted, Record,
    ScrollRequest, UpdateOperation, UpdateVectorsOp, VectorInternal, VectorOperations, VectorPersisted,
    VectorStructInternal, VectorStructPersisted, WithPayloadInterface, WithVector,
};

use super::{Shard, lock, open};
use crate::{
    Error, Former, OpenOptions, filter,
    manifest::{self, Manifest},
};

/// Contexts that are copied at once.
const PAGE: usize = 256;
const PAGES_PER_FLUSH: usize = 32;

impl Shard {
    /// Gives an owner's contexts their vectors of the current model, if they still have the version that is named. Everything else
    /// stays. What is not there any more is left out.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number (nothing is changed then), or when the engine fails.
    pub fn set_vectors(&self, owner: &Owner, vectors: &[NewDense]) -> Result<(), Error> {
        for new in vectors {
            self.check_dense(Some(new.id), &new.own)?;
            self.check_dense(Some(new.id), &new.with_previous)?;
        }
        let ids: Vec<ContextId> = vectors.iter().map(|new| new.id).collect();
        let write = {
            // No write comes between look and change.
            let _writes = lock(&self.writes);
            let current = self.read(&filter::of(&Clauses::owned(owner, &ids))?, ids.len())?;
            let current: BTreeSet<_> = current.into_iter().map(|context| (context.id, context.version)).collect();
            let points: Vec<PointVectorsPersisted> =
                vectors.iter().filter(|new| current.contains(&(new.id, new.version))).map(persisted).collect();
            if points.is_empty() {
                return Ok(());
            }
            let update = VectorOperations::UpdateVectors(UpdateVectorsOp { points, update_filter: None });
            self.apply_unindexed(&ids, UpdateOperation::VectorOperation(update), "add vectors")?
        };
        self.commit(write)
    }

    /// Bytes that opening with these options writes anew, beside those that are there: none unless it changes the models.
    ///
    /// # Errors
    /// When the directory cannot be read, or is of another version of this program.
    pub fn writes_anew(options: &OpenOptions) -> Result<u64, Error> {
        match Manifest::read(&options.path)? {
            Some(manifest) if !are_as_wanted(&manifest, options) => {
                let files = options.path.join(manifest.files());
                open::disk_bytes(&files).map_err(Error::file("measure", files))
            }
            Some(_) | None => Ok(0),
        }
    }

    /// Models whose vectors some contexts may still have beside those of the current one.
    #[must_use]
    pub fn former_models(&self) -> Vec<Model> {
        lock(&self.manifest).former().to_vec()
    }
}

fn persisted(new: &NewDense) -> PointVectorsPersisted {
    let vectors = [(schema::DENSE_SELF, &new.own), (schema::DENSE_CTX, &new.with_previous)];
    let vectors = vectors.map(|(name, vector)| (name.to_owned(), VectorPersisted::Dense(vector.clone())));
    PointVectorsPersisted { id: filter::point_id(new.id), vector: VectorStructPersisted::Named(vectors.into()) }
}

/// Whether the directory is for the wanted model, and has former vectors only if it may.
pub(super) fn are_as_wanted(manifest: &Manifest, options: &OpenOptions) -> bool {
    manifest.model() == options.model && (options.former == Former::Keep || manifest.former().is_empty())
}

/// Writes the files anew as the options want them, and the manifest that says so. Interrupted, it leaves the directory as it was.
pub(super) fn change(
    old: EdgeShard,
    manifest: &Manifest,
    options: &OpenOptions,
) -> Result<(EdgeShard, Manifest), Error> {
    let current = manifest.model();
    let there = || manifest.former().iter().chain([&current]).filter(|model| **model != options.model);
    let former: Vec<Model> = match options.former {
        Former::Keep => there().cloned().collect(),
        Former::Drop => Vec::new(),
    };
    let renames = renames(manifest, &current, options);
    let files = manifest::next_files(manifest.files());
    let path = options.path.join(&files);
    // Its manifest was never written, so it is of an interrupted change.
    open::remove(&path)?;
    let count = open::count(&old)?;
    let engine = open::create_with(&path, options, &former, |new| copy(&old, new, &renames))?;
    let copied = open::count(&engine)?;
    if copied != count {
        let (expected, found) = (format!("{count} contexts in the new files"), copied.to_string());
        return Err(Error::Damaged { path: path.clone(), expected, found });
    }
    let manifest = manifest.moved(files, &options.model, former);
    manifest.write(&options.path)?;
    drop(old);
    let model = &options.model;
    tracing::info!(contexts = copied, %model, "Wrote the store's files anew for another set of models");
    Ok((engine, manifest))
}

/// What each dense vector that stays is called in the new files.
fn renames(manifest: &Manifest, current: &Model, options: &OpenOptions) -> HashMap<String, String> {
    let mut renames = HashMap::new();
    for model in manifest.former().iter().chain([current]) {
        let from = if model == current { DenseNames::default() } else { DenseNames::of(model) };
        let to = if *model == options.model { DenseNames::default() } else { DenseNames::of(model) };
        if *model == options.model || options.former == Former::Keep {
            renames.extend(from.both().into_iter().map(str::to_owned).zip(to.both().into_iter().map(str::to_owned)));
        }
    }
    renames
}

/// Removes the files that the manifest does not name: of an interrupted change, or those that were replaced.
pub(super) fn remove_others(directory: &Path, manifest: &Manifest) -> Result<(), Error> {
    others(directory, manifest.files())?.iter().try_for_each(|name| open::remove(&directory.join(name)))
}

/// The folders of the engine beside the one that is named.
pub(super) fn others(directory: &Path, files: &str) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
        let name = entry.map_err(Error::file("list", directory))?.file_name();
        names.extend(name.to_str().filter(|name| manifest::are_files(name) && *name != files).map(str::to_owned));
    }
    Ok(names)
}

fn copy(from: &EdgeShard, to: &EdgeShard, renames: &HashMap<String, String>) -> Result<(), Error> {
    let mut offset = None;
    for page in 1.. {
        let request = ScrollRequest {
            offset,
            limit: Some(PAGE),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Bool(true),
            ..ScrollRequest::new()
        };
        let (records, next) = from.scroll(request).map_err(Error::engine("read its files"))?;
        let rows: Vec<PointStructPersisted> = records.into_iter().map(|record| row(record, renames)).collect();
        if !rows.is_empty() {
            let insert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(rows));
            to.update(UpdateOperation::PointOperation(insert)).map_err(Error::engine("write new files"))?;
        }
        match next {
            Some(next) => offset = Some(next),
            None => break,
        }
        // So that the log of the new files does not grow to the size of all of them.
        if page % PAGES_PER_FLUSH == 0 {
            to.flush().map_err(Error::engine("write new files"))?;
        }
    }
    Ok(())
}

/// A point as it was, whatever it is; of its dense vectors those that stay.
fn row(record: Record, renames: &HashMap<String, String>) -> PointStructPersisted {
    let named = match record.vector {
        Some(VectorStructInternal::Named(named)) => named,
        Some(VectorStructInternal::Single(_) | VectorStructInternal::MultiDense(_)) | None => HashMap::new(),
    };
    let vectors = named.into_iter().filter_map(|(name, vector)| match vector {
        VectorInternal::Dense(values) => Some((renames.get(&name)?.clone(), VectorPersisted::Dense(values))),
        VectorInternal::Sparse(values) => Some((name, VectorPersisted::Sparse(values))),
        VectorInternal::MultiDense(_) => None,
    });
    PointStructPersisted {
        id: record.id,
        vector: VectorStructPersisted::Named(vectors.collect()),
        payload: record.payload,
    }
}
