//! Container images as OCI archives, written without a container engine.
//!
//! One layer, one image per archive. The same input gives the same bytes: entries are sorted, times are zero and owners
//! are root. A `manifest.json` stands beside the OCI index, so `docker load` and `kind load image-archive` accept it too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read as _, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image to be written: files on an empty base.
pub struct Image {
    reference: String,
    architecture: &'static str,
    user: &'static str,
    entrypoint: String,
    files: BTreeMap<String, Content>,
}

enum Content {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
}

/// What an archive holds, read back from its index.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The image's full reference, as containerd is to name it.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
}

impl Image {
    /// An image with nothing in it but `/tmp`.
    pub fn new(reference: &str, architecture: &'static str, user: &'static str) -> Self {
        let files = BTreeMap::from([("tmp".to_owned(), Content::Folder { mode: 0o1777 })]);
        Self { reference: reference.to_owned(), architecture, user, entrypoint: String::new(), files }
    }

    /// Adds a program, executable by everybody.
    pub fn file(self, at: &str, from: &Path) -> Result<Self> {
        self.add(at, from, 0o755)
    }

    /// Adds a file that is only read.
    pub fn data(self, at: &str, from: &Path) -> Result<Self> {
        self.add(at, from, 0o644)
    }

    /// Sets the program to start.
    pub fn entrypoint(mut self, path: &str) -> Self {
        path.clone_into(&mut self.entrypoint);
        self
    }

    /// Writes the archive (under another name first, so that a reader never sees half of it) and returns its identity.
    pub fn write(&self, to: &Path) -> Result<Identity> {
        let unfinished = to.with_extension("unfinished");
        let file = File::create(&unfinished).with_context(|| format!("failed to write {}", unfinished.display()))?;
        let mut out = BufWriter::new(file);
        let identity = self.write_to(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&unfinished, to)?;
        Ok(identity)
    }

    fn add(mut self, at: &str, from: &Path, mode: u32) -> Result<Self> {
        let bytes = fs::read(from).with_context(|| format!("failed to read {} for the image", from.display()))?;
        let path = at.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.files.entry(path[..end].to_owned()).or_insert(Content::Folder { mode: 0o755 });
        }
        self.files.insert(path.to_owned(), Content::File { mode, bytes });
        Ok(self)
    }

    fn write_to(&self, out: &mut impl Write) -> Result<Identity> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": { "User": self.user, "Entrypoint": [self.entrypoint], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }))?;
        let mut entry = descriptor(MANIFEST, &manifest);
        let tag = self.reference.rsplit(':').next().unwrap_or_default();
        entry["annotations"] =
            json!({ "io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let docker = json!([{
            "Config": blob_path(&digest(&config)),
            "RepoTags": [self.reference],
            "Layers": [blob_path(&layer_digest)],
        }]);
        let mut archive = Builder::new(out);
        append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
        append(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&docker)?)?;
        for blob in [&manifest, &config, &layer] {
            append(&mut archive, &blob_path(&digest(blob)), 0o644, blob)?;
        }
        archive.finish()?;
        Ok(Identity { reference: self.reference.clone(), digest: digest(&manifest) })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        // A map is sorted by path, so a folder always comes before what it holds.
        for (path, content) in &self.files {
            match content {
                Content::File { mode, bytes } => append(&mut layer, path, *mode, bytes)?,
                Content::Folder { mode } => {
                    let mut header = header(*mode, 0, EntryType::Directory);
                    layer.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

/// Reads which image an archive holds.
pub fn identify(archive: &Path) -> Result<Identity> {
    let file =
        File::open(archive).with_context(|| format!("failed to open the image archive {}", archive.display()))?;
    let mut tar = Archive::new(BufReader::new(file));
    for entry in tar.entries()? {
        let mut entry = entry?;
        if entry.path()?.as_os_str() == "index.json" {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            return parse_index(&text).with_context(|| format!("{} names no image in its index", archive.display()));
        }
    }
    anyhow::bail!("{} is not an OCI archive: it has no index.json", archive.display())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_index(text: &str) -> Option<Identity> {
    let index: Value = serde_json::from_str(text).ok()?;
    let entry = index["manifests"].get(0)?;
    Some(Identity {
        reference: entry["annotations"]["io.containerd.image.name"].as_str()?.to_owned(),
        digest: entry["digest"].as_str()?.to_owned(),
    })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

fn header(mode: u32, size: usize, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_entry_type(kind);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append<W: Write>(archive: &mut Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    archive.append_data(&mut header(mode, bytes.len(), EntryType::Regular), path, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, program: &[u8]) -> Image {
        let file = folder.join("program");
        fs::write(&file, program).expect("write");
        Image::new("localhost/thing:1.2.3", "amd64", "65532:65532")
            .file("/bin/deep/thing", &file)
            .expect("the file is there")
            .entrypoint("/bin/deep/thing")
    }

    #[test]
    fn same_input_gives_the_same_bytes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut first, mut second) = (Vec::new(), Vec::new());
        image(folder.path(), b"one").write_to(&mut first).expect("write");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        image(folder.path(), b"one").write_to(&mut second).expect("write");
        assert_eq!(first, second);
    }

    #[test]
    fn other_content_gives_another_digest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let one = image(folder.path(), b"one").write_to(&mut Vec::new()).expect("write");
        let two = image(folder.path(), b"two").write_to(&mut Vec::new()).expect("write");
        assert_ne!(one.digest, two.digest);
    }

    #[test]
    fn archive_tells_which_image_it_holds() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = folder.path().join("thing.tar");
        let written = image(folder.path(), b"one").write(&archive).expect("write");
        assert_eq!(written.reference, "localhost/thing:1.2.3");
        assert_eq!(identify(&archive).expect("identify"), written);
    }

    #[test]
    fn every_digest_is_the_digest_of_its_blob() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bytes = Vec::new();
        let identity = image(folder.path(), b"one").write_to(&mut bytes).expect("write");
        let mut blobs = 0;
        for entry in Archive::new(bytes.as_slice()).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").to_string_lossy().into_owned();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                let mut blob = Vec::new();
                entry.read_to_end(&mut blob).expect("blob");
                assert_eq!(digest(&blob), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "a manifest, a config and one layer");
        assert!(identity.digest.starts_with("sha256:"));
    }

    #[test]
    fn layer_holds_folders_before_files_and_a_sticky_tmp() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let layer = image(folder.path(), b"one").layer().expect("layer");
        let entries: Vec<(String, u32)> = Archive::new(layer.as_slice())
            .entries()
            .expect("entries")
            .map(|entry| {
                let entry = entry.expect("entry");
                (entry.path().expect("path").to_string_lossy().into_owned(), entry.header().mode().expect("mode"))
            })
            .collect();
        let expected = [("bin/", 0o755), ("bin/deep/", 0o755), ("bin/deep/thing", 0o755), ("tmp/", 0o1777)];
        assert_eq!(entries, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn file_that_is_no_archive_is_refused_with_its_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("notes.txt");
        fs::write(&file, "x".repeat(2048)).expect("write");
        let error = format!("{:#}", identify(&file).expect_err("not an archive"));
        assert!(!error.is_empty());
    }
}
