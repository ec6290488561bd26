//! The Debian packages that Lamina's tools use, each with its reason and a file that tells whether it is there.

use std::path::Path;

use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// A Debian package that something here needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name for apt.
    pub name: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// A file it brings.
    file: &'static str,
}

const fn package(name: &'static str, file: &'static str, why: &'static str) -> Package {
    Package { name, why, file }
}

/// The machines and the firmware in them.
const MACHINES: [Package; 6] = [
    package("bochs", "/usr/bin/bochs", "the emulator with VT-x in software"),
    package("bochs-sdl", "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_sdl2_gui.so", "Bochs's display, unseen"),
    package("bochsbios", "/usr/share/bochs/BIOS-bochs-latest", "the BIOS of the Bochs machine"),
    package("vgabios", "/usr/share/bochs/VGABIOS-lgpl-latest", "the VGA BIOS of the Bochs machine"),
    package("ovmf", "/usr/share/ovmf/OVMF.fd", "the UEFI firmware of every machine"),
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "the machine without VT-x, and the one with nested VT-x"),
];

/// What packs a disk image.
const TOOLS: [Package; 1] = [package("binutils", "/usr/bin/objcopy", "strips the kernel for the disk image")];

/// A Rust that builds for the bare machine, where the active toolchain cannot.
const BARE_RUST: [Package; 7] = [
    package("rustc-web", "/usr/bin/rustc", "a compiler whose library source is packaged"),
    package("cargo-web", "/usr/bin/cargo", "the same, for whole projects"),
    package(
        "rust-web-src",
        "/usr/lib/rustlib/src/rust/library/core/src/lib.rs",
        "the library source, to build `core` from",
    ),
    package("libstd-rust-web-dev", "/usr/lib/rustlib/x86_64-unknown-linux-gnu/lib", "the library for build scripts"),
    package("rust-web-clippy", "/usr/bin/cargo-clippy", "checks the kernel's code"),
    package("lld-19", "/usr/bin/lld-19", "links the kernel and the boot stages"),
    package("llvm-19", "/usr/bin/llvm-objcopy-19", "converts the boot stages to flat binaries"),
];

/// The packages that are not installed but needed here.
#[must_use]
pub fn missing(workspace: &Workspace) -> Vec<Package> {
    let mut wanted: Vec<Package> = MACHINES.iter().chain(&TOOLS).copied().collect();
    if !Toolchain::active_builds_everything(workspace) {
        wanted.extend(BARE_RUST);
    }
    wanted.into_iter().filter(|package| !package.is_there()).collect()
}

impl Package {
    fn is_there(self) -> bool {
        Path::new(self.file).exists()
    }
}
