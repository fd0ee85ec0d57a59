//! The manifest: what a directory must hold, written beside the engine's files.
//!
//! Owns `manifest.json`. It is replaced atomically and synced, so it is always whole; one that is not was tampered with.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use context_manager_memory::ContextId;
use serde::{Deserialize, Serialize};

use crate::{Error, OpenOptions};

/// Version of the directory's layout; another one is another arrangement of files, fields or indexes.
const FORMAT: u32 = 1;

/// What a directory was made with, and the least that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    dimensions: usize,
    distance: String,
    model: String,
    /// The directory holds at least so many contexts.
    pub(crate) points: usize,
    /// A context that it holds, in this version or a later one: the last one written before the flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) newest: Option<Newest>,
}

/// A context and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Newest {
    pub(crate) id: ContextId,
    pub(crate) version: i64,
}

/// The version alone: a later layout may have other fields, and is no damage.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Manifest {
    /// The manifest of a new, empty directory.
    pub(crate) fn new(options: &OpenOptions) -> Self {
        Self {
            format: FORMAT,
            dimensions: options.dimensions,
            distance: "cosine".to_owned(),
            model: options.model.clone(),
            points: 0,
            newest: None,
        }
    }

    /// Reads the manifest of a directory; `None` if it never had one.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = path(directory);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read the manifest", path)(error)),
        };
        let damaged = |error: serde_json::Error| Error::Damaged {
            path: directory.to_owned(),
            expected: "a readable manifest.json".to_owned(),
            found: error.to_string(),
        };
        let Versioned { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::Incompatible {
                path: directory.to_owned(),
                setting: "the layout version",
                stored: format.to_string(),
                wanted: FORMAT.to_string(),
            });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Refuses a directory that was made with other settings.
    pub(crate) fn check(&self, options: &OpenOptions) -> Result<(), Error> {
        let Self { format: _, dimensions, distance, model, points: _, newest: _ } = self;
        let wanted = Self::new(options);
        for (setting, stored, wanted) in [
            ("the embedding model", model, &wanted.model),
            ("dimensions", &dimensions.to_string(), &wanted.dimensions.to_string()),
            ("the distance", distance, &wanted.distance),
        ] {
            if stored != wanted {
                let (stored, wanted) = (stored.clone(), wanted.clone());
                return Err(Error::Incompatible { path: options.path.clone(), setting, stored, wanted });
            }
        }
        Ok(())
    }

    /// Replaces the manifest of a directory.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Error> {
        let (path, temporary) = (path(directory), directory.join("manifest.json.new"));
        let replace = || {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, self).map_err(io::Error::other)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(directory)?.sync_all()
        };
        replace().map_err(Error::file("write the manifest", &path))
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("manifest.json")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    fn options(path: &Path) -> OpenOptions {
        OpenOptions::new(path, 4, "model-a")
    }

    #[test]
    fn manifest_survives_a_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), None);
        let mut manifest = Manifest::new(&options(directory.path()));
        manifest.points = 7;
        manifest.write(directory.path()).unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), Some(manifest));
    }

    #[test]
    fn cut_manifest_is_damage_and_a_later_layout_is_not() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(path(directory.path()), "{\"format\": 1, \"dim").unwrap();
        assert!(matches!(Manifest::read(directory.path()), Err(Error::Damaged { .. })));
        fs::write(path(directory.path()), "{\"format\": 2}").unwrap();
        let message = Manifest::read(directory.path()).unwrap_err().to_string();
        assert!(message.contains("layout version 2"), "{message}");
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = Manifest::new(&options(directory.path()));
        assert!(manifest.check(&options(directory.path())).is_ok());
        let message = manifest.check(&OpenOptions::new(directory.path(), 5, "model-a")).unwrap_err().to_string();
        assert!(message.contains("dimensions 4") && message.contains("says 5"), "{message}");
        let message = manifest.check(&OpenOptions::new(directory.path(), 4, "model-b")).unwrap_err().to_string();
        assert!(message.contains("model-a") && message.contains("model-b"), "{message}");
    }
}
