//! `cargo xtask extract-vmlinux`: the ELF kernel inside a bzImage, for a fast boot by PVH.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::assets;

/// Options of `cargo xtask extract-vmlinux`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask extract-vmlinux /boot/vmlinuz-6.1.0-56-cloud-amd64 vmlinux")]
pub struct Options {
    /// The bzImage (its payload may be gzip, XZ, zstd or LZ4)
    input: PathBuf,
    /// Where the ELF file goes
    output: PathBuf,
}

/// Extracts one kernel.
pub fn execute(options: &Options) -> Result<()> {
    let bzimage = fs::read(&options.input).with_context(|| format!("cannot read {}", options.input.display()))?;
    let vmlinux =
        assets::extract_vmlinux(&bzimage).with_context(|| format!("{} holds no vmlinux", options.input.display()))?;
    fs::write(&options.output, &vmlinux).with_context(|| format!("cannot write {}", options.output.display()))?;
    println!("{} ({} bytes)", options.output.display(), vmlinux.len());
    Ok(())
}
