//! The files that guests need and that are made rather than committed: a stock Debian kernel, as it is and unpacked,
//! and a small root file system for it.
//!
//! Debian's packages are fetched by `apt-get download` and unpacked into the cache; nothing is installed.

mod initramfs;
mod modules;
mod vmlinux;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

pub use vmlinux::extract as extract_vmlinux;

/// Debian's kernel for virtual machines, by the package that depends on the newest one.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The files made here, under [`Workspace::assets`].
pub const LINUX_FILES: [&str; 3] = ["linux/vmlinuz", "linux/vmlinux", "linux/initramfs.cpio.gz"];

/// Whether every file is there and newer than this program's own data.
#[must_use]
pub fn linux_is_ready(workspace: &Workspace) -> bool {
    LINUX_FILES.iter().all(|name| workspace.assets().join(name).is_file()) && is_current(workspace)
}

/// The content of the initramfs depends on this program; the stamp tells a change.
fn is_current(workspace: &Workspace) -> bool {
    fs::read_to_string(stamp(workspace)).is_ok_and(|text| text == stamp_text())
}

fn stamp(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("linux.stamp")
}

fn stamp_text() -> String {
    let modules = [modules::WANTED, modules::ON_DEMAND].concat().join(" ");
    format!("{}\n{modules}\n{}", env!("CARGO_PKG_VERSION"), include_str!("../../data/linux-init.sh"))
}

/// Makes what is missing of the Linux guest's files; the packages are kept, so only the first call downloads.
pub fn make_linux(workspace: &Workspace) -> Result<()> {
    if linux_is_ready(workspace) {
        return Ok(());
    }
    let kernel_package = unpacked(workspace, KERNEL_PACKAGE, "boot")?;
    let vmlinuz = kernel_in(&kernel_package.join("boot"))?;
    let busybox = unpacked(workspace, BUSYBOX_PACKAGE, "bin")?.join("bin/busybox");
    let assets = workspace.assets();
    println!("making {}", LINUX_FILES.join(", "));
    let bzimage = read(&vmlinuz)?;
    let vmlinux = extract_vmlinux(&bzimage).with_context(|| format!("in {}", vmlinuz.display()))?;
    let modules = modules::collect(&kernel_package, &modules::WANTED)?;
    let on_demand = modules::collect(&kernel_package, &modules::ON_DEMAND)?;
    let initramfs = initramfs::build(&read(&busybox)?, &modules, &on_demand)?;
    fs::create_dir_all(assets.join("linux"))?;
    for (name, content) in LINUX_FILES.iter().zip([bzimage, vmlinux, initramfs]) {
        let path = assets.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::write(stamp(workspace), stamp_text()).context("cannot write the stamp of the Linux files")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The kernel in a package's `boot` folder.
fn kernel_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("there is no vmlinuz in {}", folder.display()))
}

/// The folder with a package's files; `part` is a folder that the package brings.
fn unpacked(workspace: &Workspace, package: &str, part: &str) -> Result<PathBuf> {
    let folder = workspace.cache().join("packages").join(package);
    if folder.join(part).is_dir() {
        return Ok(folder);
    }
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if process::find_program(program).is_none() {
            bail!(
                "{program} is missing, so Debian's package {package} cannot be fetched: take a Debian system, or boot \
                 your own Linux with `cargo xtask run --kernel ... --initrd ...`"
            );
        }
    }
    let wanted = newest(package)?;
    println!("fetching Debian's package {wanted}");
    let download = workspace.cache().join("download");
    fs::create_dir_all(&download)?;
    process::run(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &wanted])
            .current_dir(&download),
    )
    .with_context(|| format!("`sudo apt-get update` may help: the package {wanted} cannot be fetched"))?;
    let archive = downloaded(&download, &wanted)?;
    // Complete or not there: an interrupted call leaves only the scratch folder.
    let scratch = folder.with_extension("unpacking");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    process::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&scratch))?;
    fs::rename(&scratch, &folder).with_context(|| format!("cannot rename {}", scratch.display()))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    Ok(folder)
}

/// The package itself, or the versioned kernel package that it stands for.
fn newest(package: &str) -> Result<String> {
    let known = process::ask(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .with_context(|| format!("apt does not know the package {package}: run `sudo apt-get update`"))?;
    Ok(kernel_dependency(&known).unwrap_or(package).to_owned())
}

/// The versioned kernel package in the `Depends` field.
fn kernel_dependency(description: &str) -> Option<&str> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let names = depends.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with("linux-image-"))
}

fn downloaded(folder: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .with_context(|| format!("apt-get left no {package} in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_a_dependency() {
        let description = "Package: linux-image-cloud-amd64\nVersion: 6.1.5-1\n\
                           Depends: linux-image-6.1.0-5-cloud-amd64 (= 6.1.5-1)\n";
        assert_eq!(kernel_dependency(description), Some("linux-image-6.1.0-5-cloud-amd64"));
        assert_eq!(kernel_dependency("Package: busybox-static\nDepends: libc6\n"), None);
        assert_eq!(kernel_dependency("Package: busybox-static\n"), None);
    }
}
