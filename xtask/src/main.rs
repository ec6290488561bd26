//! `cargo xtask`: everything one does with Lamina from a clone of its repository.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::workspace::Workspace;
use xtask::{
    bench, build, ci, disk_image, doctor, extract_vmlinux, flash, fuzz, gdb, lint, run, setup, symbolize, test,
};

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
    /// Say what is there, what is missing, and which machines can run
    Doctor(doctor::Options),
    /// Build the kernel, the guest images and the boot stages
    Build(build::Options),
    /// Write the disk images lamina-bios.img and lamina-uefi.img
    Image(disk_image::Options),
    /// Boot Lamina in an emulator
    Run(run::Options),
    /// Run the tests: on the host, and whole machines
    Test(test::Options),
    /// Measure what operations cost, beside other hypervisors
    Bench(bench::Options),
    /// Build and run the fuzz targets
    Fuzz(fuzz::Options),
    /// Check formatting and clippy's findings
    Lint(lint::Options),
    /// Everything that must hold before a change is taken
    Ci(ci::Options),
    /// Write a disk image to a USB stick
    Flash(flash::Options),
    /// Debug the boot with gdb
    Gdb(gdb::Options),
    /// Name the functions and lines of an epitaph's backtrace
    Symbolize(symbolize::Options),
    /// Take the ELF kernel out of a bzImage
    ExtractVmlinux(extract_vmlinux::Options),
}

fn main() -> ExitCode {
    let workspace = Workspace::find();
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let result = match Arguments::parse().verb {
        Verb::Setup(options) => done(setup::execute(&workspace, options)),
        Verb::Doctor(options) => doctor::execute(&workspace, &options),
        Verb::Build(options) => done(build::execute(&workspace, &options)),
        Verb::Image(options) => done(disk_image::execute(&workspace, &options)),
        Verb::Run(options) => run::execute(&workspace, &options),
        Verb::Test(options) => test::execute(&workspace, &options),
        Verb::Bench(options) => bench::execute(&workspace, &options),
        Verb::Fuzz(options) => fuzz::execute(&workspace, &options),
        Verb::Lint(options) => done(lint::execute(&workspace, &options)),
        Verb::Ci(options) => ci::execute(&workspace, &options),
        Verb::Flash(options) => done(flash::execute(&workspace, &options)),
        Verb::Gdb(options) => done(gdb::execute(&workspace, &options)),
        Verb::Symbolize(options) => done(symbolize::execute(&workspace, &options)),
        Verb::ExtractVmlinux(options) => done(extract_vmlinux::execute(&options)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
