//! The bundle as a `tar.gz`.

use std::{fs::File, path::Path};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use super::Files;
use crate::error::Error;

/// Writes the files below a folder called `name`; how many bytes it became. A file that is there already is not written over.
pub(super) fn write(path: &Path, name: &str, files: &Files, now: Timestamp) -> Result<u64, Error> {
    let failed = |error: std::io::Error| Error::Input {
        file: path.display().to_string(),
        what: format!("it cannot be written ({error}); name another one by --file"),
    };
    let file = File::options().write(true).create_new(true).open(path).map_err(failed)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (inner, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{name}/{inner}"), text.as_bytes()).map_err(failed)?;
    }
    let file = archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
    Ok(file.metadata().map_err(failed)?.len())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_written_can_be_unpacked_and_is_not_written_over() {
        let path = std::env::temp_dir().join(format!("kubectl-context-{}.tar.gz", uuid::Uuid::new_v4()));
        let files: Files = [("a/b.txt".to_owned(), "hello".to_owned())].into();
        let bytes = write(&path, "report", &files, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!((entry.path().unwrap().to_str().unwrap(), text.as_str()), ("report/a/b.txt", "hello"));
        let again = write(&path, "report", &files, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(again.to_string().contains("--file"), "{again}");
        std::fs::remove_file(path).unwrap();
    }
}
