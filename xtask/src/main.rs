//! `cargo xtask`: everything one does with Lamina from a clone of its repository.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::workspace::Workspace;
use xtask::{build, disk_image, extract_vmlinux, run, setup};

/// Builds, boots and tests Lamina.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = "Start with: cargo xtask run")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what is missing and make the Linux guest's files
    Setup(setup::Options),
    /// Build the kernel, the guest images and the boot stages
    Build(build::Options),
    /// Write the disk images lamina-bios.img and lamina-uefi.img
    Image(disk_image::Options),
    /// Boot Lamina in an emulator
    Run(run::Options),
    /// Take the ELF kernel out of a bzImage
    ExtractVmlinux(extract_vmlinux::Options),
}

fn main() -> ExitCode {
    let workspace = Workspace::find();
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match Arguments::parse().verb {
        Verb::Setup(options) => done(setup::execute(&workspace, options)),
        Verb::Build(options) => done(build::execute(&workspace, &options)),
        Verb::Image(options) => done(disk_image::execute(&workspace, &options)),
        Verb::Run(options) => run::execute(&workspace, &options),
        Verb::ExtractVmlinux(options) => done(extract_vmlinux::execute(&options)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
