//! `cargo xtask image`: the disk images `lamina-bios.img` and `lamina-uefi.img`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{self, Built};
use crate::machine::Firmware;
use crate::process;
use crate::ramdisk::{self, Config, Files};
use crate::setup;
use crate::workspace::Workspace;

/// Options of `cargo xtask image`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask image --config my-vms.toml --out /tmp\n\
                        Then:    cargo xtask flash --device /dev/sdX, or `dd` the image to a USB stick")]
pub struct Options {
    /// Which virtual machines: a configuration file [default: boot/demo.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder for the two images [default: target/image]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    setup: setup::Options,
}

/// Builds both images from one configuration.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<()> {
    let config = Config::read(options.config.as_deref().unwrap_or(&workspace.demo_config()))?;
    config.check()?;
    setup::ensure(workspace, options.setup)?;
    let built = build::all(workspace)?;
    let files = Files::new(workspace, built.guests.clone());
    let out = options.out.clone().unwrap_or_else(|| workspace.target().join("image"));
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let image = out.join(format!("lamina-{firmware}.img"));
        write(&built, &Payload::Ramdisk(ramdisk::pack(&config, &files, true)?), firmware, &image)?;
        println!("{} ({:.1} MiB)", image.display(), mebibytes(&image)?);
    }
    Ok(())
}

/// What the boot loader hands to the kernel.
#[derive(Debug, Clone)]
pub enum Payload {
    /// An archive made by [`ramdisk::pack`].
    Ramdisk(Vec<u8>),
    /// Nothing at all, to see the kernel refuse it.
    Nothing,
}

/// Writes one disk image.
pub fn write(built: &Built, payload: &Payload, firmware: Firmware, image: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let kernel = scratch.path().join("lamina");
    strip(&built.kernel, &kernel)?;
    let mut command = Command::new(&built.boot_tool);
    command.arg("--kernel").arg(&kernel);
    if let Payload::Ramdisk(archive) = payload {
        let ramdisk = scratch.path().join("ramdisk");
        fs::write(&ramdisk, archive)?;
        command.arg("--ramdisk").arg(ramdisk);
    }
    command.arg(format!("--{firmware}")).arg(image);
    process::run(&mut command)
}

/// Copies the kernel without its line tables: a BIOS spends about 128 instructions on each byte that it loads.
fn strip(kernel: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("objcopy").arg("--strip-debug").arg(kernel).arg(to))
        .context("objcopy is part of the Debian package binutils")
}

fn mebibytes(file: &Path) -> Result<f64> {
    let bytes = fs::metadata(file)?.len();
    Ok(f64::from(u32::try_from(bytes >> 10)?) / 1024.0)
}
