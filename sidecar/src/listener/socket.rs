//! A Unix socket: HTTP/1.1 for whoever may write to a file.
//!
//! The file appears at once with its permissions, takes the place of one that a dead process left, never of anything else, and
//! goes when the listener does.

use std::{
    fs::{self, Metadata, Permissions},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::{Accept, Version};

/// Longest path. The kernel takes 107 bytes (`unix(7)`), a few of which the name before the renaming needs.
pub const MAX_BYTES: usize = 100;
/// Owner and group read and write: the group is what an agent in another container shares.
const MODE: u32 = 0o660;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else has the name.
    #[error("{path:?} is there and is not a socket; remove it, or choose another protocol.socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A living process listens there.
    #[error("another process listens on {path:?}; end it, or choose another protocol.socket")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("failed to listen on the Unix socket {path:?}; its directory must exist and be writable")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A bound socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file, by which it is told from one that another process put in its place.
    file: (u64, u64),
}

impl Socket {
    /// Binds the socket at `path`.
    ///
    /// # Errors
    /// When another process listens there, another kind of file is there, or the system refuses.
    pub async fn bind(path: &Path) -> Result<Self, Error> {
        make_room(path).await?;
        let failed = |source| Error::Io { path: path.to_owned(), source };
        // Bound under another name and renamed, so that nobody can connect before the permissions are right, and nobody who
        // connects meanwhile finds nothing.
        let before = path.with_file_name(format!(".{:07x}", rand::random::<u32>() >> 4));
        let listener = UnixListener::bind(&before).map_err(failed)?;
        let placed = fs::set_permissions(&before, Permissions::from_mode(MODE))
            .and_then(|()| fs::symlink_metadata(&before))
            .and_then(|metadata| fs::rename(&before, path).map(|()| identity(&metadata)));
        match placed {
            Ok(file) => Ok(Self { listener, path: path.to_owned(), file }),
            Err(source) => {
                let _ = fs::remove_file(&before);
                Err(failed(source))
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a path at which there is anything else than what a dead process left.
async fn make_room(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(Error::NotASocket { path: path.to_owned() }),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => Err(Error::InUse { path: path.to_owned() }),
            // Nobody has it open any more; the new socket replaces it.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            // A full queue of connections.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Error::InUse { path: path.to_owned() }),
            Err(error) => Err(failed(error)),
        },
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Accept for Socket {
    type Stream = UnixStream;

    /// Whoever connects is on this machine, as who comes over loopback is.
    async fn accept(&self) -> io::Result<(UnixStream, IpAddr)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, Ipv4Addr::LOCALHOST.into()))
    }

    /// Always HTTP/1.1: a Unix socket cannot be peeked at.
    async fn version(_: &UnixStream) -> io::Result<Version> {
        Ok(Version::Http1)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "Failed to remove the Unix socket; the next start replaces it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as BlockingListener, UnixStream as BlockingStream};

    use tempfile::TempDir;

    use super::*;

    fn directory() -> (TempDir, PathBuf) {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("s");
        (directory, path)
    }

    #[tokio::test]
    async fn owner_and_group_may_use_it_and_it_goes_with_its_listener() {
        let (directory, path) = directory();
        let socket = Socket::bind(&path).await.expect("a free path");
        let mode = fs::symlink_metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        BlockingStream::connect(&path).expect("a listener");
        drop(socket);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0, "nothing is left");
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced() {
        let (_directory, path) = directory();
        drop(BlockingListener::bind(&path).expect("a free path"));
        assert!(path.exists());
        let _socket = Socket::bind(&path).await.expect("nobody listens");
        BlockingStream::connect(&path).expect("a listener");
    }

    #[tokio::test]
    async fn a_living_one_and_another_kind_of_file_are_left_alone() {
        let (directory, path) = directory();
        let living = Socket::bind(&path).await.expect("a free path");
        let error = Socket::bind(&path).await.expect_err("it is in use");
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        BlockingStream::connect(&path).expect("the first one still listens");
        drop(living);

        fs::write(&path, "a letter").expect("a file");
        let error = Socket::bind(&path).await.expect_err("a file is there");
        assert!(matches!(error, Error::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("the file"), b"a letter");
        let absent = directory.path().join("absent/s");
        assert!(matches!(Socket::bind(&absent).await, Err(Error::Io { .. })));
    }

    #[tokio::test]
    async fn the_longest_path_can_be_bound() {
        let directory = TempDir::new().expect("a directory");
        let room = MAX_BYTES - directory.path().as_os_str().len() - 3;
        let folder = directory.path().join("d".repeat(room));
        fs::create_dir(&folder).expect("a directory");
        let path = folder.join("s");
        assert_eq!(path.as_os_str().len(), MAX_BYTES);
        Socket::bind(&path).await.expect("a path that is not too long");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let (_directory, path) = directory();
        let first = Socket::bind(&path).await.expect("a free path");
        fs::remove_file(&path).expect("the first one's file");
        let _second = Socket::bind(&path).await.expect("a free path");
        drop(first);
        BlockingStream::connect(&path).expect("the second one still listens");
    }
}
