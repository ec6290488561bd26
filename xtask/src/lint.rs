//! `cargo xtask lint`: formatting, and clippy with warnings as errors, for every crate on its own target.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// The crates that are checked for the host, tests included.
const HOST_CRATES: [&str; 3] = ["lamina-core", "xtask", "lamina-tests"];

/// The crates that only exist on the bare machine.
const BARE_CRATES: [&str; 2] = ["lamina-hw", "lamina"];

/// The crates outside the workspace.
const OUTSIDE: [&str; 3] = ["boot", "guest-images", "fuzz"];

/// Options of `cargo xtask lint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask lint")]
pub struct Options {}

/// Checks everything; the first finding ends it.
pub fn execute(workspace: &Workspace, _options: &Options) -> Result<()> {
    format(workspace)?;
    clippy(workspace)
}

/// `cargo fmt --check` of the workspace and of what lies outside.
fn format(workspace: &Workspace) -> Result<()> {
    let cargo = || {
        let mut command = Command::new("cargo");
        command.current_dir(workspace.root()).arg("fmt");
        command
    };
    process::run(cargo().args(["--all", "--check"])).context("`cargo fmt` mends this")?;
    for folder in OUTSIDE {
        let manifest = format!("{folder}/Cargo.toml");
        process::run(cargo().args(["--manifest-path", &manifest, "--check"]))
            .with_context(|| format!("`cargo fmt --manifest-path {manifest}` mends this"))?;
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut host = Command::new("cargo");
    host.current_dir(workspace.root()).args(["clippy", "--quiet", "--all-targets"]);
    for name in HOST_CRATES {
        host.args(["--package", name]);
    }
    process::run(host.args(["--", "-D", "warnings"]))?;
    let mut fuzz = Command::new("cargo");
    fuzz.current_dir(workspace.root()).args(["clippy", "--quiet", "--tests", "--manifest-path", "fuzz/Cargo.toml"]);
    fuzz.arg("--target-dir").arg(workspace.target().join("fuzz/build"));
    process::run(fuzz.args(["--", "-D", "warnings"]))?;
    bare_clippy(workspace)
}

/// The kernel and the guest images, with the toolchain that builds them; where that has no clippy, with the host's and for
/// the host's target, which finds all but what hangs on the target. Neither has a test harness, so only libraries and
/// programs are checked, and as in a release, since they have no unwinding.
fn bare_clippy(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::for_kernel(workspace)?;
    let has_clippy = toolchain.has_clippy();
    if !has_clippy {
        println!("{} has no clippy: the kernel is checked for the host's target", toolchain.describe());
    }
    let clippy = |target_dir: &str| {
        let mut command = if has_clippy { toolchain.cargo(workspace) } else { Command::new("cargo") };
        command.current_dir(workspace.root()).args(["clippy", "--quiet", "--release"]);
        if has_clippy {
            command.args(toolchain.bare_arguments());
        }
        command.arg("--target-dir").arg(workspace.target().join(target_dir));
        command
    };
    let mut kernel = clippy(if has_clippy { "bare" } else { "clippy" });
    for name in BARE_CRATES {
        kernel.args(["--package", name]);
    }
    process::run(kernel.args(["--", "-D", "warnings"]))?;
    let mut guests = clippy("guest-images");
    process::run(guests.args(["--manifest-path", "guest-images/Cargo.toml", "--", "-D", "warnings"]))
}
