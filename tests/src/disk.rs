//! A small file system that can be full: in memory, or an ext4 in a file. Mounting needs root.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};

/// The file of something else that takes the room.
const OTHER: &str = "of something else";
const MIB: u64 = 1 << 20;

/// A mounted file system; it is unmounted when dropped.
pub struct Disk {
    path: PathBuf,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory: holes of files are filled as soon as they are mapped.
    Tmpfs,
    /// On a loop device: holes stay holes.
    Ext4,
}

impl Disk {
    /// Mounts one of so many MiB on `path`, which is made.
    ///
    /// # Errors
    /// When this user must not mount.
    pub fn mount(kind: Kind, path: &Path, mebibytes: u64) -> Result<Self> {
        fs::create_dir_all(path)?;
        match kind {
            Kind::Tmpfs => {
                let size = format!("size={mebibytes}m");
                mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
                    .with_context(|| format!("failed to mount on {}; this suite needs root", path.display()))?;
            }
            Kind::Ext4 => {
                let image = path.with_extension("ext4");
                fs::File::create(&image)?.set_len(mebibytes * MIB)?;
                // Without room that only root may use: the sidecar of this suite is root.
                run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))
                    .context("this suite needs mkfs.ext4, which is in the package e2fsprogs")?;
                run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path))
                    .context("this suite needs root and loop devices")?;
            }
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Makes one in memory larger or smaller.
    ///
    /// # Errors
    /// When more is on it.
    pub fn resize(&self, mebibytes: u64) -> Result<()> {
        let size = format!("size={mebibytes}m");
        mount(None::<&str>, &self.path, Some("tmpfs"), MsFlags::MS_REMOUNT, Some(size.as_str()))
            .context("failed to resize the file system")
    }

    /// Lets something else take all but `free` bytes.
    ///
    /// # Errors
    /// When fewer are free already.
    pub fn fill_up_to(&self, free: u64) -> Result<()> {
        let surplus = self.free()?.checked_sub(free).context("fewer bytes are free already")?;
        let written = self.take(surplus)?;
        ensure!(written == surplus, "the disk was full after {written} of {surplus} bytes");
        Ok(())
    }

    /// Lets something else take the very last byte.
    ///
    /// # Errors
    /// When the disk fails in another way.
    pub fn fill(&self) -> Result<()> {
        self.take(u64::MAX)?;
        Ok(())
    }

    /// Gives the room back that something else took.
    ///
    /// # Errors
    /// When it took none.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.path.join(OTHER))?)
    }

    /// Free bytes.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn free(&self) -> Result<u64> {
        let room = statvfs(&self.path)?;
        Ok(room.blocks_available() * room.fragment_size())
    }

    /// Appends so many bytes to the file of something else, or as many as there is room for; how many.
    fn take(&self, bytes: u64) -> io::Result<u64> {
        let mut file = fs::File::options().create(true).append(true).open(self.path.join(OTHER))?;
        let (mut taken, mut piece) = (0, vec![7; 64 << 10]);
        while taken < bytes && !piece.is_empty() {
            let wanted = usize::try_from(bytes - taken).unwrap_or(usize::MAX).min(piece.len());
            match file.write(&piece[..wanted]) {
                Ok(written) => taken += written as u64,
                // Smaller pieces may still fit.
                Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(wanted / 2),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("{} cannot be unmounted: {error}", self.path.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("failed to start {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
