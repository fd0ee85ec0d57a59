//! The image of a Qdrant for the suite of managed nodes: a program of this machine, the shell that starts it, and the libraries that both
//! are linked to. It is not a product, and nothing of it is kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{CERTIFICATES, oci::Image};
use crate::cluster::ClusterArgs;
use crate::command;
use crate::paths::Home;

/// Names the program of a real Qdrant.
pub const VARIABLE: &str = "CONTEXT_MANAGER_TEST_QDRANT_PROGRAM";
/// What the suite looks for.
const NAME: &str = "context-manager-test-managed-qdrant";
const USER: &str = "1000:1000";
const SHELL: &str = "/bin/sh";

/// Writes the archive of an image of the program that [`VARIABLE`] names; nothing where it names none.
pub fn build(args: &ClusterArgs, architecture: &'static str) -> Result<Option<PathBuf>> {
    let Some(program) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Ok(None) };
    let mut image = Image::new(&args.image(NAME), architecture, USER)
        .file("/qdrant/qdrant", &program)?
        .file(SHELL, Path::new(SHELL))?
        .entrypoint("/qdrant/qdrant");
    for library in libraries(&program)?.into_iter().chain(libraries(Path::new(SHELL))?).collect::<BTreeSet<_>>() {
        image = image.file(&library, Path::new(&library))?;
    }
    // It does not start without authorities to trust, though it calls nobody.
    if Path::new(CERTIFICATES).is_file() {
        image = image.data(CERTIFICATES, Path::new(CERTIFICATES))?;
    }
    let archive = Home::find()?.images().join(format!("{NAME}.tar"));
    let identity = image.write(&archive)?;
    eprintln!("{} is {}", identity.reference, identity.digest);
    Ok(Some(archive))
}

fn libraries(program: &Path) -> Result<BTreeSet<String>> {
    Ok(linked(&command::output(Command::new("ldd").arg(program))?))
}

/// The files in what `ldd` prints; the kernel's own library is none.
fn linked(printed: &str) -> BTreeSet<String> {
    let files = printed.lines().filter_map(|line| {
        let found = line.split_once("=>").map_or(line, |(_, found)| found);
        found.split_whitespace().next().filter(|file| file.starts_with('/'))
    });
    files.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(linked(printed), expected.map(str::to_owned).into());
        assert!(linked("\tstatically linked\n").is_empty());
    }
}
