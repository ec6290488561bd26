//! Which Rust toolchain builds what runs on the bare machine.
//!
//! Three kinds can do it, tried in this order: one with the prebuilt `x86_64-unknown-none` target, one with the
//! library source to build that target's `core` and `alloc` from, and Debian's packages (which are of the second kind,
//! but lack the linker and the two LLVM tools under the names that cargo looks for). See [`Toolchain`].

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The target triple of the kernel and of the guest images.
pub const BARE_TARGET: &str = "x86_64-unknown-none";

const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The LLVM major version of the Debian packages that lend their tools to Debian's Rust.
const DEBIAN_LLVM: &str = "19";

/// What Debian's Rust lacks: the name under which it is looked for, and the program that stands in.
const DEBIAN_TOOLS: [(&str, &str); 3] =
    [("rust-lld", "lld"), ("llvm-objdump", "llvm-objdump"), ("llvm-objcopy", "llvm-objcopy")];

/// A toolchain that can build for the bare machine.
#[derive(Debug, Clone)]
pub struct Toolchain {
    source: Source,
    sysroot: PathBuf,
    version: String,
    build_std: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Whatever `cargo` and `rustc` in `PATH` are.
    Active,
    /// Debian's packages, wherever `PATH` leads.
    Debian,
}

impl Toolchain {
    /// A toolchain for the kernel and the guest images.
    pub fn for_kernel(workspace: &Workspace) -> Result<Self> {
        let active = Active::find(workspace);
        match active.as_ref().and_then(Active::for_kernel) {
            Some(toolchain) => Ok(toolchain),
            None => debian(workspace).map_err(|reason| no_toolchain(active.as_ref(), &reason)),
        }
    }

    /// A toolchain for the boot stages, which always build their own `core` and want the LLVM tools.
    pub fn for_boot_stages(workspace: &Workspace) -> Result<Self> {
        let active = Active::find(workspace);
        match active.as_ref().and_then(Active::for_boot_stages) {
            Some(toolchain) => Ok(toolchain),
            None => debian(workspace).map_err(|reason| no_toolchain(active.as_ref(), &reason)),
        }
    }

    /// Whether the active toolchain needs no other beside it.
    #[must_use]
    pub fn active_builds_everything(workspace: &Workspace) -> bool {
        Active::find(workspace)
            .is_some_and(|active| active.for_kernel().is_some() && active.for_boot_stages().is_some())
    }

    /// One line for people: the version and where the target's library comes from.
    #[must_use]
    pub fn describe(&self) -> String {
        let library = if self.build_std { "library built from source" } else { "prebuilt target" };
        let source = match self.source {
            Source::Active => "active toolchain",
            Source::Debian => "Debian's packages",
        };
        format!("{} ({source}, {library})", self.version)
    }

    /// `cargo` of this toolchain, with the environment that makes it use its own `rustc`.
    #[must_use]
    pub fn cargo(&self, workspace: &Workspace) -> Command {
        let mut command = match self.source {
            Source::Active => Command::new("cargo"),
            Source::Debian => Command::new("/usr/bin/cargo"),
        };
        clear_cargo_environment(&mut command, self.source);
        if self.source == Source::Debian {
            let mut path = OsString::from(self.sysroot.join("bin"));
            path.push(":/usr/bin:/bin:");
            path.push(std::env::var_os("PATH").unwrap_or_default());
            command.env("PATH", path);
        }
        if self.build_std {
            // The kernel uses stable features only; building its `core` from source is the one thing that is not.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command.current_dir(workspace.root());
        command
    }

    /// What to tell `cargo build` or `cargo clippy` to compile for the bare machine.
    #[must_use]
    pub fn bare_arguments(&self) -> Vec<&'static str> {
        let mut arguments = vec!["--target", BARE_TARGET];
        if self.build_std {
            arguments.push("-Zbuild-std=core,alloc,compiler_builtins");
            arguments.push("-Zbuild-std-features=compiler-builtins-mem");
        }
        arguments
    }

    /// Whether `cargo clippy` works with this toolchain.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        match self.source {
            Source::Active => process::find_program("cargo-clippy").is_some(),
            Source::Debian => Path::new("/usr/bin/cargo-clippy").is_file(),
        }
    }
}

/// A variable that `cargo` or `rustup` set for us says which toolchain *we* were built with: not the callee's business.
fn clear_cargo_environment(command: &mut Command, source: Source) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let about_us = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || matches!(&*text, "CARGO" | "CARGO_TARGET_DIR" | "RUSTC_BOOTSTRAP" | "LD_LIBRARY_PATH");
        let about_toolchain = text.starts_with("RUSTC")
            || matches!(&*text, "RUSTUP_TOOLCHAIN" | "RUSTDOC" | "RUSTFLAGS" | "CARGO_ENCODED_RUSTFLAGS");
        if about_us || (source == Source::Debian && about_toolchain) {
            command.env_remove(&name);
        }
    }
}

/// The `rustc` that `PATH` leads to.
#[derive(Debug)]
struct Active {
    sysroot: PathBuf,
    version: String,
}

impl Active {
    fn find(workspace: &Workspace) -> Option<Self> {
        let ask = |arguments: &[&str]| {
            process::ask(Command::new("rustc").args(arguments).current_dir(workspace.root()))
                .map(|answer| answer.trim().to_owned())
        };
        Some(Self { sysroot: PathBuf::from(ask(&["--print", "sysroot"])?), version: ask(&["--version"])? })
    }

    fn for_kernel(&self) -> Option<Toolchain> {
        let prebuilt = self.sysroot.join("lib/rustlib").join(BARE_TARGET).is_dir();
        let able = prebuilt || (has_source(&self.sysroot) && has_tool(&self.sysroot, "rust-lld"));
        able.then(|| self.toolchain(!prebuilt))
    }

    fn for_boot_stages(&self) -> Option<Toolchain> {
        let tools = DEBIAN_TOOLS.iter().all(|(name, _)| has_tool(&self.sysroot, name));
        (has_source(&self.sysroot) && tools).then(|| self.toolchain(true))
    }

    fn toolchain(&self, build_std: bool) -> Toolchain {
        Toolchain { source: Source::Active, sysroot: self.sysroot.clone(), version: self.version.clone(), build_std }
    }
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

fn has_tool(sysroot: &Path, name: &str) -> bool {
    sysroot.join("lib/rustlib").join(HOST_TARGET).join("bin").join(name).is_file()
}

/// Debian's Rust, through a sysroot of our own that adds the tools which its packages leave out.
fn debian(workspace: &Workspace) -> Result<Toolchain, String> {
    let rustc = Path::new("/usr/bin/rustc");
    if !rustc.is_file() || !Path::new("/usr/bin/cargo").is_file() {
        return Err("Debian's Rust packages are not installed".to_owned());
    }
    let version =
        process::ask(Command::new(rustc).arg("--version")).ok_or_else(|| "/usr/bin/rustc does not run".to_owned())?;
    let sysroot = process::ask(Command::new(rustc).args(["--print", "sysroot"])).unwrap_or_default();
    let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
    if !has_source(Path::new(sysroot.trim())) {
        return Err(format!("{} in /usr/bin has no library source", version.trim()));
    }
    let shim = lend_tools(workspace, &rustlib).map_err(|error| format!("{error:#}"))?;
    Ok(Toolchain { source: Source::Debian, sysroot: shim, version: version.trim().to_owned(), build_std: true })
}

/// Makes the sysroot `.cache/sysroot`: links to Debian's libraries and source, the LLVM tools under the names that
/// are looked for, and a `rustc` that names this sysroot. Nothing outside the repository is changed.
fn lend_tools(workspace: &Workspace, rustlib: &Path) -> Result<PathBuf> {
    let shim = workspace.cache().join("sysroot");
    let tools = shim.join("lib/rustlib").join(HOST_TARGET).join("bin");
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    fs::create_dir_all(shim.join("bin"))?;
    link(&rustlib.join("src"), &shim.join("lib/rustlib/src"))?;
    link(&rustlib.join(HOST_TARGET).join("lib"), &shim.join("lib/rustlib").join(HOST_TARGET).join("lib"))?;
    for (name, program) in DEBIAN_TOOLS {
        let tool = PathBuf::from(format!("/usr/bin/{program}-{DEBIAN_LLVM}"));
        if !tool.is_file() {
            bail!("{} is missing (Debian package {program}-{DEBIAN_LLVM})", tool.display());
        }
        link(&tool, &tools.join(name))?;
    }
    let wrapper = shim.join("bin/rustc");
    let script = format!("#!/bin/sh\nexec /usr/bin/rustc --sysroot '{}' \"$@\"\n", shim.display());
    if fs::read_to_string(&wrapper).ok().as_deref() != Some(&script) {
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    Ok(shim)
}

fn link(original: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).ok().as_deref() == Some(original) {
        return Ok(());
    }
    match fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", link.display()));
        }
        _ => {}
    }
    symlink(original, link).with_context(|| format!("cannot link {}", link.display()))
}

fn no_toolchain(active: Option<&Active>, debian: &str) -> anyhow::Error {
    let active = active.map_or_else(
        || "there is no `rustc` in PATH".to_owned(),
        |Active { version, .. }| {
            format!(
                "{version} lacks the {BARE_TARGET} target or the parts to build it (`rustup component add rust-src \
                 llvm-tools` and `rustup target add {BARE_TARGET}` add them)"
            )
        },
    );
    anyhow::anyhow!(
        "no Rust toolchain here can build for the bare machine: {active}; {debian} (`cargo xtask setup` installs them \
         on Debian)"
    )
}
