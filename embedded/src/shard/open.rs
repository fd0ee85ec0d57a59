//! Opening and closing: the directory, the engine's configuration, the checks of what is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use context_manager_memory::store::{
    DenseNames, Model,
    schema::{self, Index},
};
use qdrant_edge::{
    CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeSparseVectorParams, EdgeVectorParams,
    FieldIndexOperations, IntegerIndexParamsBuilder, KeywordIndexParamsBuilder, Modifier, Payload, PayloadFieldSchema,
    PayloadSchemaParams, UpdateOperation, WalOptions, WithVector,
};

use super::{Shard, Writes, models, read, search, write};
use crate::{
    Error, OpenOptions,
    lock::DirectoryLock,
    manifest::{Manifest, Newest},
};

impl Shard {
    /// Opens the store of a directory, and makes it if there is none. Writes that are in the log but not in the engine's files
    /// yet are applied first.
    ///
    /// # Errors
    /// When another process has the directory, when it was made with another model, dimension or layout, when it holds less
    /// than was flushed to it, or when the file system fails. Nothing is ever deleted to make it work.
    pub fn open(options: OpenOptions) -> Result<Self, Error> {
        let directory = &options.path;
        fs::create_dir_all(directory).map_err(Error::file("create the directory", directory))?;
        let lock = DirectoryLock::acquire(directory)?;
        let manifest = Manifest::read(directory)?;
        let folder =
            manifest.as_ref().map_or_else(|| Manifest::new(&options).files().to_owned(), |m| m.files().to_owned());
        let files = directory.join(&folder);
        let there = files.try_exists().map_err(Error::file("look for", &files))?;
        let damaged = |expected: &str, found: &str| {
            Err(Error::Damaged { path: directory.clone(), expected: expected.to_owned(), found: found.to_owned() })
        };
        if manifest.is_none()
            && let [other, ..] = models::others(directory, &folder)?.as_slice()
        {
            // Only a manifest tells which files count, so none of them is touched.
            return damaged("a manifest.json", &format!("none beside the folder {other:?}"));
        }
        let (engine, manifest) = match (manifest, there) {
            (None, false) => (create(&files, &options)?, Manifest::new(&options)),
            (Some(_), false) => return damaged(&format!("the folder {folder:?}"), "none"),
            (Some(manifest), true) => {
                manifest.check(&options)?;
                let engine = load(&files, &options, &manifest.model(), manifest.former())?;
                if models::are_as_wanted(&manifest, &options) {
                    (engine, manifest)
                } else {
                    verify(directory, &engine, &manifest)?;
                    models::change(engine, &manifest, &options)?
                }
            }
            (None, true) => {
                // The first start ended between making the engine's files and writing the manifest, so nothing was stored yet.
                let engine = load(&files, &options, &options.model, &[])?;
                match count(&engine)? {
                    0 => (engine, Manifest::new(&options)),
                    found => return damaged("a manifest.json", &format!("none beside {found} contexts")),
                }
            }
        };
        verify(directory, &engine, &manifest)?;
        models::remove_others(directory, &manifest)?;
        let shard = Self {
            engine,
            flushing: Mutex::default(),
            writes: Mutex::new(Writes { newest: manifest.newest, ..Writes::default() }),
            manifest: Mutex::new(manifest.clone()),
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            // How many an earlier process deleted is not known, so the first call looks.
            uncompacted: AtomicUsize::new(write::WORTH_COMPACTING),
            unreadable: AtomicU64::new(0),
            frequencies: Mutex::default(),
            counting: Mutex::default(),
            levels: Mutex::default(),
            changes: AtomicU64::new(0),
            recent: Mutex::default(),
            tries: AtomicUsize::new(search::PAUSE),
            options,
            _lock: lock,
        };
        manifest.write(&shard.options.path)?;
        Ok(shard)
    }

    /// Flushes and closes the store. Dropping it does the same, but can only log what fails.
    ///
    /// # Errors
    /// When the last flush fails; the log then still has what it did not cover.
    pub fn close(self) -> Result<(), Error> {
        self.flush()
    }
}

/// Compares what the engine shows with what was flushed.
fn verify(directory: &Path, engine: &EdgeShard, manifest: &Manifest) -> Result<(), Error> {
    let damaged = |expected, found| Err(Error::Damaged { path: directory.to_owned(), expected, found });
    let points = count(engine)?;
    if points < manifest.points {
        return damaged(format!("at least {} contexts", manifest.points), format!("{points}"));
    }
    let Some(Newest { id, version }) = manifest.newest else { return Ok(()) };
    let payload = read::retrieve(engine, &[id], WithVector::Bool(false))?.pop().and_then(|(_, payload, _)| payload);
    match payload.map(|Payload(fields)| schema::context(id, fields)) {
        Some(Ok(context)) if context.version >= version => Ok(()),
        Some(Ok(context)) => {
            damaged(format!("context {id} in version {version} or later"), format!("version {}", context.version))
        }
        Some(Err(_)) => damaged(format!("context {id}"), "something that is no context".to_owned()),
        None => damaged(format!("context {id}"), "none".to_owned()),
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "Could not flush the store while closing it");
        }
    }
}

/// Makes the engine's files under another name first, so that a folder `engine` is always a whole one.
fn create(files: &Path, options: &OpenOptions) -> Result<EdgeShard, Error> {
    create_with(files, options, &[], |_| Ok(()))
}

/// The same, with what `fill` puts in, and with names for the vectors of former models.
pub(super) fn create_with(
    files: &Path,
    options: &OpenOptions,
    former: &[Model],
    fill: impl FnOnce(&EdgeShard) -> Result<(), Error>,
) -> Result<EdgeShard, Error> {
    let unfinished = files.with_extension("new");
    remove(&unfinished)?;
    let config = config(options, &options.model, former);
    let engine = EdgeShard::new(&unfinished, config).map_err(Error::engine("make its files"))?;
    make_indexes(&engine)?;
    fill(&engine)?;
    engine.flush().map_err(Error::engine("write its files"))?;
    drop(engine);
    fs::rename(&unfinished, files).map_err(Error::file("rename", unfinished))?;
    load(files, options, &options.model, former)
}

/// Removes a folder that may be there, the leftover of something that was interrupted or has been replaced.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove the leftover", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the indexes that are missing: all of them at first, later those that a newer version of this program added.
fn make_indexes(engine: &EdgeShard) -> Result<(), Error> {
    let made = engine.info().map_err(Error::engine("describe itself"))?.payload_schema;
    for (name, index) in schema::INDEXES {
        if made.contains_key(&path(name)?) {
            continue;
        }
        let operation = UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(CreateIndex {
            field_name: path(name)?,
            field_schema: Some(PayloadFieldSchema::FieldParams(parameters(index))),
        }));
        engine.update(operation).map_err(Error::engine("make an index"))?;
    }
    Ok(())
}

fn load(files: &Path, options: &OpenOptions, model: &Model, former: &[Model]) -> Result<EdgeShard, Error> {
    let config = config(options, model, former);
    let engine = EdgeShard::load(files, Some(config)).map_err(Error::engine("open its files"))?;
    make_indexes(&engine)?;
    Ok(engine)
}

pub(super) fn count(engine: &EdgeShard) -> Result<usize, Error> {
    engine.count(qdrant_edge::CountRequest::new()).map_err(Error::engine("count the contexts"))
}

pub(super) fn path(field: &str) -> Result<qdrant_edge::JsonPath, Error> {
    field.parse().map_err(|()| Error::Engine { action: "understand a field's name", source: field.into() })
}

fn config(options: &OpenOptions, model: &Model, former: &[Model]) -> EdgeConfig {
    let sparse = EdgeSparseVectorParams::builder().modifier(Modifier::Idf).build();
    let mut config = EdgeConfig::builder();
    let former = former.iter().map(|model| (DenseNames::of(model), model.dimensions));
    for (names, dimensions) in [(DenseNames::default(), model.dimensions)].into_iter().chain(former) {
        for name in names.both() {
            config = config.vector(name, EdgeVectorParams::builder(dimensions, Distance::Cosine).build());
        }
    }
    config
        .sparse_vector(schema::SPARSE_SELF, sparse.clone())
        .sparse_vector(schema::SPARSE_CTX, sparse)
        .wal_enabled(true)
        .wal_options(WalOptions { segment_capacity: options.log_segment_bytes, ..WalOptions::default() })
        .max_search_threads(options.search_threads.max(1))
        // An approximate index costs minutes and much memory, and a filtered scan of one agent's contexts is quick without.
        .optimizers(EdgeOptimizersConfig { indexing_threshold: Some(0), ..EdgeOptimizersConfig::default() })
        .build()
}

fn parameters(index: Index) -> PayloadSchemaParams {
    match index {
        Index::Tenant => PayloadSchemaParams::Keyword(KeywordIndexParamsBuilder::new().is_tenant(true).build()),
        Index::Keyword => PayloadSchemaParams::Keyword(KeywordIndexParamsBuilder::new().build()),
        Index::Range => {
            PayloadSchemaParams::Integer(IntegerIndexParamsBuilder::new().lookup(false).range(true).build())
        }
    }
}

/// What a directory takes on the disk; files with holes count what they really take.
pub(super) fn disk_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    let mut bytes = 0;
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // The engine replaces files while this runs; one that is gone takes no space.
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use context_manager_memory::{
        AgentId, Context, ContextId, Level, TenantId, Timestamp, Vectors,
        store::{Owner, Point, Selection},
    };

    use super::*;

    #[test]
    fn an_index_that_an_earlier_version_did_not_make_is_made_when_opening_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Shard::open(OpenOptions::new(directory.path(), 4, "model")).unwrap();
        let owner = Owner::new(TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
        let now = Timestamp::from_millis(0);
        let id = ContextId::new(uuid::Uuid::from_u128(1));
        let context = Context::new(id, owner.tenant.clone(), owner.holder.clone(), Level::LongTerm, "tea", now);
        let shard = open();
        shard.upsert(&[Point { context: context.clone(), vectors: Vectors::default() }]).unwrap();
        let space = path(schema::SPACE).unwrap();
        let drop_index = FieldIndexOperations::DeleteIndex(space.clone());
        shard.engine.update(UpdateOperation::FieldIndexOperation(drop_index)).unwrap();
        assert!(!shard.engine.info().unwrap().payload_schema.contains_key(&space));
        shard.close().unwrap();
        let shard = open();
        assert!(shard.engine.info().unwrap().payload_schema.contains_key(&space));
        assert_eq!(shard.list(&Selection::alive(owner, now), None, 9).unwrap().contexts, [context]);
    }
}
