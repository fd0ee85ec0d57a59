//! The manifest: what a directory must hold, written beside the engine's files.
//!
//! Owns `manifest.json`. It is replaced atomically and synced, so it is always whole; one that is not was tampered with.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use context_manager_memory::{
    ContextId,
    store::{Model, OnModelChange},
};
use serde::{Deserialize, Serialize};

use crate::{Error, OpenOptions};

/// Version of the directory's layout; another one is another arrangement of files, fields or indexes.
const FORMAT: u32 = 1;
/// The layout after a change of the model, which a program that knows [`FORMAT`] alone must not open.
const FORMAT_OF_MODELS: u32 = 2;
/// The folder of the engine's files, unless said otherwise.
const FILES: &str = "engine";

/// What a directory was made with, and the least that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    dimensions: usize,
    distance: String,
    model: String,
    /// Models whose vectors are there under names of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<Model>,
    /// The folder of the engine's files.
    #[serde(default = "files", skip_serializing_if = "is_files")]
    files: String,
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
            dimensions: options.model.dimensions,
            distance: "cosine".to_owned(),
            model: options.model.name.clone(),
            former: Vec::new(),
            files: files(),
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
        if ![FORMAT, FORMAT_OF_MODELS].contains(&format) {
            return Err(Error::Incompatible {
                path: directory.to_owned(),
                setting: "the layout version",
                stored: format.to_string(),
                wanted: FORMAT_OF_MODELS.to_string(),
            });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// The model whose vectors have the plain names.
    pub(crate) fn model(&self) -> Model {
        Model { name: self.model.clone(), dimensions: self.dimensions }
    }

    /// Models whose vectors are there under names of their own.
    pub(crate) fn former(&self) -> &[Model] {
        &self.former
    }

    /// The folder of the engine's files.
    pub(crate) fn files(&self) -> &str {
        &self.files
    }

    /// The same contexts in other files, with the vectors of these models.
    pub(crate) fn moved(&self, files: String, model: &Model, former: Vec<Model>) -> Self {
        Self {
            format: FORMAT_OF_MODELS,
            dimensions: model.dimensions,
            model: model.name.clone(),
            former,
            files,
            ..self.clone()
        }
    }

    /// Refuses a directory that was made with other settings.
    pub(crate) fn check(&self, options: &OpenOptions) -> Result<(), Error> {
        let Self { format: _, dimensions, distance, model, former: _, files: _, points: _, newest: _ } = self;
        let wanted = Self::new(options);
        let differs = |setting, stored: String, wanted: String| {
            Err(Error::Incompatible { path: options.path.clone(), setting, stored, wanted })
        };
        if *distance != wanted.distance {
            return differs("the distance", distance.clone(), wanted.distance);
        }
        if options.on_model_change == OnModelChange::ReEmbed || self.former.contains(&options.model) {
            return Ok(());
        }
        if *model != wanted.model {
            return differs("the embedding model", model.clone(), wanted.model);
        }
        if *dimensions != wanted.dimensions {
            return differs("dimensions", dimensions.to_string(), wanted.dimensions.to_string());
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

fn files() -> String {
    FILES.to_owned()
}

fn is_files(files: &str) -> bool {
    files == FILES
}

/// Whether a folder of this name is one of the engine's, whether or not a manifest says so.
pub(crate) fn are_files(name: &str) -> bool {
    name.strip_prefix(FILES).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// The name of the folder that follows this one.
pub(crate) fn next_files(files: &str) -> String {
    let number = files.strip_prefix(FILES).and_then(|rest| rest.strip_prefix('-')?.parse::<u32>().ok());
    format!("{FILES}-{}", number.map_or(2, |number| number.wrapping_add(1).max(2)))
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
        fs::write(path(directory.path()), "{\"format\": 3}").unwrap();
        let message = Manifest::read(directory.path()).unwrap_err().to_string();
        assert!(message.contains("layout version 3"), "{message}");
    }

    #[test]
    fn other_files_and_models_survive_a_round_trip_under_another_layout() {
        let directory = tempfile::tempdir().unwrap();
        let plain = Manifest::new(&options(directory.path()));
        plain.write(directory.path()).unwrap();
        let text = fs::read_to_string(path(directory.path())).unwrap();
        assert!(!text.contains("former") && !text.contains("files"), "as earlier programs know it: {text}");
        let model = Model { name: "model-b".to_owned(), dimensions: 8 };
        let moved = plain.moved(next_files(plain.files()), &model, vec![plain.model()]);
        moved.write(directory.path()).unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), Some(moved.clone()));
        assert_eq!((moved.files(), moved.model()), ("engine-2", model));
        assert!(moved.check(&options(directory.path())).is_ok(), "its former model's vectors are there");
        assert_eq!(next_files("engine-2"), "engine-3");
        assert!(["engine", "engine-2"].into_iter().all(are_files));
        assert!(!["engine.new", "engine-", "engine-x", "engines"].into_iter().any(are_files));
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
