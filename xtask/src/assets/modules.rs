//! Kernel modules out of Debian's kernel package, in the order in which they can be loaded.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the guest needs to find virtio devices in memory, and to drive the memory balloon.
pub(super) const WANTED: [&str; 2] = ["virtio_mmio", "virtio_balloon"];

/// What is there for those who ask for it: the drivers of the pvpanic port and of the watchdog.
pub(super) const ON_DEMAND: [&str; 2] = ["pvpanic_mmio", "wdat_wdt"];

/// A module as the kernel takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Module {
    /// Its name, with `_` for every `-`.
    pub(super) name: String,
    /// The file, not compressed.
    pub(super) bytes: Vec<u8>,
}

/// The wanted modules of the kernel package unpacked in `package`, each behind those that it needs. One that the package does
/// not have is left out: it is built in, or this kernel does without.
pub(super) fn collect(package: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = Vec::new();
    for folder in ["lib/modules", "usr/lib/modules"] {
        find(&package.join(folder), &mut files)?;
    }
    let mut found = Vec::new();
    wanted.iter().try_for_each(|name| add(name, &files, &mut Vec::new(), &mut found))?;
    Ok(found)
}

/// All files below `folder`, which need not be there.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        // Not through links: a package's `build` and `source` lead out of it.
        match entry.file_type()? {
            kind if kind.is_dir() => find(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Adds a module behind those that it depends on. `open` are those being added, so that a circle ends.
fn add(name: &str, files: &[PathBuf], open: &mut Vec<String>, found: &mut Vec<Module>) -> Result<()> {
    if open.iter().any(|other| other == name) || found.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| module_name(file).as_deref() == Some(name)) else { return Ok(()) };
    let bytes = read(file)?;
    open.push(name.to_owned());
    for dependency in dependencies(&bytes) {
        add(&dependency, files, open, found)?;
    }
    found.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// The module in a file, if the file is one.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let stem = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    lzma_rust2::XzReader::new(bytes.as_slice(), false)
        .read_to_end(&mut unpacked)
        .with_context(|| format!("cannot unpack {}", file.display()))?;
    Ok(unpacked)
}

/// The modules that a module names as those it needs: `depends=a,b` among the strings of its `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let list = strings.filter_map(|string| string.strip_prefix(b"depends=")).next().unwrap_or_default();
    let names = list.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0retpoline=Y\0name=x\0").into_bytes()
    }

    /// A package with these files.
    fn package(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join("lib/modules/6.1.0-1-cloud-amd64/kernel").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn names(package: &Path, wanted: &[&str]) -> Vec<String> {
        collect(package, wanted).unwrap().into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn modules_come_behind_those_that_they_need_and_once() {
        let package = package(&[
            ("drivers/virtio/virtio_balloon.ko", module("virtio,virtio_ring")),
            ("drivers/virtio/virtio-mmio.ko", module("virtio_ring,virtio")),
            ("drivers/virtio/virtio_ring.ko", module("virtio")),
            ("drivers/virtio/virtio.ko", module("")),
            ("drivers/net/virtio_net.ko", module("virtio")),
        ]);
        assert_eq!(names(package.path(), &WANTED), ["virtio", "virtio_ring", "virtio_mmio", "virtio_balloon"]);
    }

    #[test]
    fn what_the_package_does_not_have_is_left_out() {
        let package = package(&[("a.ko", module("builtin,b")), ("b.ko", module("")), ("b.txt", module("c"))]);
        assert_eq!(names(package.path(), &["a", "none"]), ["b", "a"]);
        assert_eq!(names(&package.path().join("nowhere"), &WANTED), [""; 0]);
    }

    #[test]
    fn a_circle_of_modules_ends() {
        let package = package(&[("a.ko", module("b")), ("b.ko", module("a"))]);
        assert_eq!(names(package.path(), &["a"]), ["b", "a"]);
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        encoder.write_all(&module("b")).unwrap();
        let package = package(&[("a.ko.xz", encoder.finish().unwrap()), ("b.ko", module(""))]);
        let found = collect(package.path(), &["a"]).unwrap();
        assert_eq!(
            found,
            [Module { name: "b".to_owned(), bytes: module("") }, Module { name: "a".to_owned(), bytes: module("b") },]
        );
    }
}
