//! Programs that tests run, built once by Go from pinned sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::paths::{self, Home};

/// The program of a package, such as `github.com/yuin/gopher-lua/cmd/glua`, at a version.
pub fn built_by_go(package: &str, version: &str) -> Result<PathBuf> {
    let name = last_word(package);
    let home = Home::find()?;
    let folder = home.tools().join(format!("{name}-{}", version.trim_start_matches('v')));
    let program = folder.join(name);
    let _lock = home.lock("tools")?;
    if !program.is_file() {
        let mut go = Command::new("go");
        go.env("GOBIN", &folder).args(["install", &format!("{package}@{version}")]);
        command::output(&mut go).context("Go 1.26 or newer is needed for this test")?;
    }
    Ok(program)
}

/// A program that is a whole module. Some modules can be had at a version though nothing lists their versions, which `go install` asks
/// for; as what another module requires they can be built.
pub struct Module {
    /// Its path, whose last word is the program's name.
    pub path: &'static str,
    /// The version, with its `v`.
    pub version: &'static str,
    /// A folder of it that is wanted beside the program.
    pub folder: Option<&'static str>,
}

/// A folder with the program of a module and what is wanted beside it, by their last words.
pub fn built_from_module(module: &Module) -> Result<PathBuf> {
    let home = Home::find()?;
    let folder = folder(&home, module);
    let _lock = home.lock("tools")?;
    if !folder.join(last_word(module.path)).is_file() {
        build(module, &folder, module.path)?;
    }
    Ok(folder)
}

/// The same with a program of ours that uses the module, from a file of this repository: the module's own may be another module, that no
/// proxy hands out.
pub fn built_around_module(module: &Module, source: &Path) -> Result<PathBuf> {
    let home = Home::find()?;
    let (folder, source) = (folder(&home, module), paths::repository().join(source));
    let wanted = fs::read(&source).with_context(|| format!("failed to read {}", source.display()))?;
    let _lock = home.lock("tools")?;
    let (program, built) = (folder.join(last_word(module.path)), folder.join("main.go"));
    if !program.is_file() || fs::read(&built).ok().as_ref() != Some(&wanted) {
        fs::create_dir_all(&folder)?;
        let _ = fs::remove_file(&program);
        fs::write(&built, &wanted)?;
        build(module, &folder, ".")?;
    }
    Ok(folder)
}

fn folder(home: &Home, Module { path, version, .. }: &Module) -> PathBuf {
    home.tools().join(format!("{}-{}", last_word(path), version.trim_start_matches('v')))
}

fn build(Module { path, version, folder: beside }: &Module, folder: &Path, package: &str) -> Result<()> {
    eprintln!("building {path} {version}; this takes some minutes");
    fs::create_dir_all(folder)?;
    fs::write(folder.join("go.mod"), format!("module program\n\ngo 1.26\n\nrequire {path} {version}\n"))?;
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.current_dir(folder).args(arguments);
        command::output(&mut go).context("Go 1.26 or newer is needed for this")
    };
    if let Some(beside) = beside {
        go(&["mod", "download", path])?;
        let module = go(&["list", "-mod=mod", "-m", "-f", "{{.Dir}}", path])?;
        copy_files(&Path::new(module.trim()).join(beside), &folder.join(last_word(beside)))?;
    }
    // Only a program that is whole has its name.
    go(&["build", "-mod=mod", "-o", "unfinished", package])?;
    Ok(fs::rename(folder.join("unfinished"), folder.join(last_word(path)))?)
}

fn last_word(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))? {
        let entry = entry?;
        // Go's copies are read-only; these are written again when an earlier attempt was interrupted.
        fs::write(to.join(entry.file_name()), fs::read(entry.path())?)?;
    }
    Ok(())
}
