//! `cargo xtask build`: the kernel, the guest images and the program that writes disk images.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::process;
use crate::toolchain::{BARE_TARGET, Toolchain};
use crate::workspace::Workspace;

/// Options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask build")]
pub struct Options {}

/// Everything that goes into a disk image, built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The kernel as linked: an ELF file with line tables.
    pub kernel: PathBuf,
    /// The tiny guest kernels by name.
    pub guests: BTreeMap<String, PathBuf>,
    /// The program that writes disk images.
    pub boot_tool: PathBuf,
}

/// Builds everything and says where it lies.
pub fn execute(workspace: &Workspace, _options: &Options) -> Result<()> {
    let built = all(workspace)?;
    println!("kernel      {}", built.kernel.display());
    for (name, path) in &built.guests {
        println!("guest       {name}: {}", path.display());
    }
    println!("boot stages {}", built.boot_tool.display());
    Ok(())
}

/// Builds the kernel, the guest images and the image writer; what is up to date costs a fraction of a second.
pub fn all(workspace: &Workspace) -> Result<Built> {
    Ok(Built { kernel: kernel(workspace)?, guests: guests(workspace)?, boot_tool: boot_tool(workspace)? })
}

/// Builds the kernel.
pub fn kernel(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = Toolchain::for_kernel(workspace)?;
    let target_dir = workspace.target().join("bare");
    process::run(
        toolchain
            .cargo(workspace)
            .args(["build", "--release", "--package", "lamina"])
            // The epitaph of a panic follows the frame pointers.
            .args(["--config", &format!("target.{BARE_TARGET}.rustflags=['-Cforce-frame-pointers=yes']")])
            .args(toolchain.bare_arguments())
            .arg("--target-dir")
            .arg(&target_dir),
    )
    .context("the kernel does not build")?;
    Ok(target_dir.join(BARE_TARGET).join("release/lamina"))
}

/// Builds every tiny guest kernel of `guest-images/`.
pub fn guests(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let manifest = workspace.root().join("guest-images/Cargo.toml");
    if !manifest.is_file() {
        return Ok(BTreeMap::new());
    }
    let toolchain = Toolchain::for_kernel(workspace)?;
    let target_dir = workspace.target().join("guest-images");
    process::run(
        toolchain
            .cargo(workspace)
            .args(["build", "--release", "--bins"])
            .args(toolchain.bare_arguments())
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target_dir),
    )
    .context("the guest images do not build")?;
    let metadata = process::output(
        toolchain
            .cargo(workspace)
            .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
            .arg(&manifest),
    )?;
    let release = target_dir.join(BARE_TARGET).join("release");
    Ok(binary_names(&metadata)?.into_iter().map(|name| (name.clone(), release.join(name))).collect())
}

/// The names of all binary targets in the answer of `cargo metadata`.
fn binary_names(metadata: &str) -> Result<Vec<String>> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).context("`cargo metadata` wrote no JSON")?;
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    Ok(list(&metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "bin"))
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

/// Builds the image writer with its boot stages: minutes at the first time, then kept in `.cache`.
pub fn boot_tool(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = Toolchain::for_boot_stages(workspace)?;
    let target_dir = workspace.cache().join("boot");
    let tool = target_dir.join("release/lamina-boot");
    if !tool.exists() {
        eprintln!("building the boot stages with {}: 3 to 5 minutes, this once", toolchain.describe());
    }
    process::run(
        toolchain
            .cargo(workspace)
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(workspace.root().join("boot/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_dir)
            .env("RUSTC_BOOTSTRAP", "1")
            .stdin(Stdio::null()),
    )
    .context("the boot stages do not build")?;
    Ok(tool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binaries_are_guest_images() {
        let metadata = r#"{"packages":[{"targets":[
            {"kind":["bin"],"name":"hello"},
            {"kind":["custom-build"],"name":"build-script-build"},
            {"kind":["lib"],"name":"guest-images"},
            {"kind":["bin"],"name":"spin"}]}]}"#;
        assert_eq!(binary_names(metadata).unwrap(), ["hello", "spin"]);
    }

    #[test]
    fn metadata_that_is_no_json_is_an_error() {
        assert!(binary_names("error: no manifest").is_err());
    }
}
