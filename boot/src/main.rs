//! `lamina-boot`: joins the kernel and a ramdisk with the `bootloader` crate's stages into disk images.
//!
//! A program of its own, not a part of `xtask`: building the boot stages asks for a compiler with its library source,
//! which `xtask` finds and hands to this crate alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bootloader::{BootConfig, DiskImageBuilder};
use bootloader_boot_config::LevelFilter;
use lexopt::prelude::*;

const USAGE: &str = "\
Writes disk images that boot Lamina.

usage: lamina-boot --kernel ELF [--ramdisk TAR] [--bios IMAGE] [--uefi IMAGE]

example: lamina-boot --kernel lamina --ramdisk ramdisk.tar --bios lamina-bios.img";

/// The largest sum of file sizes that a BIOS image takes.
///
/// The second stage of `bootloader` 0.11.15 computes the FAT type wrongly from 65,536 sectors on and stops with a
/// panic. The volume is rounded up to a whole MiB, gets one more on top, and holds the last two stages as well.
const BIOS_PAYLOAD_LIMIT: u64 = 30 << 20;

struct Arguments {
    kernel: PathBuf,
    ramdisk: Option<PathBuf>,
    bios: Option<PathBuf>,
    uefi: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Some(arguments) = parse()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut builder = DiskImageBuilder::new(arguments.kernel.clone());
    if let Some(ramdisk) = &arguments.ramdisk {
        builder.set_ramdisk(ramdisk.clone());
    }
    builder.set_boot_config(&boot_config());
    if let Some(image) = &arguments.bios {
        check_bios_payload(&arguments)?;
        builder.create_bios_image(image).with_context(|| format!("cannot write the BIOS image {}", image.display()))?;
    }
    if let Some(image) = &arguments.uefi {
        builder.create_uefi_image(image).with_context(|| format!("cannot write the UEFI image {}", image.display()))?;
    }
    Ok(())
}

fn parse() -> Result<Option<Arguments>> {
    let (mut kernel, mut ramdisk, mut bios, mut uefi) = (None, None, None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let target = match argument {
            Long("kernel") => &mut kernel,
            Long("ramdisk") => &mut ramdisk,
            Long("bios") => &mut bios,
            Long("uefi") => &mut uefi,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        };
        *target = Some(PathBuf::from(parser.value()?));
    }
    let kernel = kernel.with_context(|| format!("--kernel is missing\n\n{USAGE}"))?;
    if bios.is_none() && uefi.is_none() {
        bail!("nothing to write: give --bios, --uefi or both\n\n{USAGE}");
    }
    Ok(Some(Arguments { kernel, ramdisk, bios, uefi }))
}

/// The boot loader reports errors only: the first line on the serial port is Lamina's own.
fn boot_config() -> BootConfig {
    let mut config = BootConfig::default();
    config.log_level = LevelFilter::Error;
    config
}

fn check_bios_payload(arguments: &Arguments) -> Result<()> {
    let mut total = size(&arguments.kernel)?;
    if let Some(ramdisk) = &arguments.ramdisk {
        total += size(ramdisk)?;
    }
    ensure!(
        total <= BIOS_PAYLOAD_LIMIT,
        "kernel and ramdisk hold {:.1} MiB, but a BIOS image takes at most {} MiB (the boot loader reads no FAT volume \
         of 32 MiB or more): use UEFI, or name fewer or smaller guest images",
        total as f64 / f64::from(1 << 20),
        BIOS_PAYLOAD_LIMIT >> 20,
    );
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len())
}
