//! The collections of a directory: for each a folder with the message that made it and the engine's files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use prost::Message as _;
use qdrant_client::qdrant::CreateCollection;
use qdrant_edge::{EdgeConfig, EdgeShard};
use tonic::Status;

use crate::convert;

/// The message that made the collection; it is written last, so a folder without it is an interrupted making.
const DEFINITION: &str = "definition";

/// How long calls of a collection that is deleted may be under way.
const CALLS: Duration = Duration::from_secs(5);

/// All collections.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    collections: RwLock<BTreeMap<String, Arc<Collection>>>,
}

/// One collection.
pub(crate) struct Collection {
    folder: PathBuf,
    /// The message that would make it as it is by now.
    definition: Mutex<CreateCollection>,
    pub(crate) engine: EdgeShard,
}

impl Collection {
    pub(crate) fn definition(&self) -> CreateCollection {
        self.definition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what it was made as, here and on the disk, and says whether anything is another by it.
    pub(crate) fn redefine(
        &self,
        change: impl FnOnce(&mut CreateCollection) -> Result<(), Status>,
    ) -> Result<bool, Status> {
        let mut definition = self.definition.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = definition.clone();
        change(&mut changed)?;
        let differs = changed != *definition;
        if differs {
            write(&self.folder, &changed).map_err(failed)?;
            *definition = changed;
        }
        Ok(differs)
    }
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn open(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let mut collections = BTreeMap::new();
        for entry in fs::read_dir(&directory)? {
            let folder = entry?.path();
            let Ok(definition) = fs::read(folder.join(DEFINITION)) else {
                fs::remove_dir_all(folder)?;
                continue;
            };
            let definition = CreateCollection::decode(definition.as_slice())?;
            let config = convert::engine_config(&definition).map_err(|status| anyhow::anyhow!("{status}"))?;
            let engine = EdgeShard::load(&folder.join("engine"), Some(config))
                .with_context(|| format!("failed to open {}", folder.display()))?;
            let name = definition.collection_name.clone();
            collections.insert(name, Arc::new(Collection { folder, definition: Mutex::new(definition), engine }));
        }
        Ok(Self { directory, collections: RwLock::new(collections) })
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.collections.read().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    pub(crate) fn collection(&self, name: &str) -> Result<Arc<Collection>, Status> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        let missing = || Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"));
        collections.get(name).cloned().ok_or_else(missing)
    }

    pub(crate) fn create(&self, definition: CreateCollection) -> Result<(), Status> {
        let name = definition.collection_name.clone();
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return Err(Status::invalid_argument(format!("collection name {name:?} cannot be a folder's")));
        }
        let config = convert::engine_config(&definition)?;
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        if collections.contains_key(&name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let folder = self.directory.join(&name);
        let engine = make(&folder, &definition, config).map_err(failed)?;
        collections.insert(name, Arc::new(Collection { folder, definition: Mutex::new(definition), engine }));
        Ok(())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<bool, Status> {
        let mut collections = self.collections.write().unwrap_or_else(PoisonError::into_inner);
        let Some(collection) = collections.remove(name) else { return Ok(false) };
        // A call that is under way would write files while they are deleted.
        let since = Instant::now();
        while Arc::strong_count(&collection) > 1 && since.elapsed() < CALLS {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(collection);
        let folder = self.directory.join(name);
        fs::remove_file(folder.join(DEFINITION)).and_then(|()| fs::remove_dir_all(folder)).map_err(failed)?;
        Ok(true)
    }

    pub(crate) fn flush(&self) -> Result<()> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        Ok(collections.values().try_for_each(|collection| collection.engine.flush())?)
    }
}

fn make(folder: &Path, definition: &CreateCollection, config: EdgeConfig) -> Result<EdgeShard> {
    let files = folder.join("engine");
    fs::create_dir_all(&files)?;
    let engine = EdgeShard::new(&files, config)?;
    engine.flush()?;
    write(folder, definition)?;
    Ok(engine)
}

fn write(folder: &Path, definition: &CreateCollection) -> std::io::Result<()> {
    fs::write(folder.join("definition.new"), definition.encode_to_vec())?;
    fs::rename(folder.join("definition.new"), folder.join(DEFINITION))
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("Service internal error: {error}"))
}
