//! `cargo xtask doctor`: what is there, what is missing, and which machines can run here.

use std::process::ExitCode;

use anyhow::Result;

use crate::assets;
use crate::machine::{NestedVmx, nested_vmx};
use crate::packages;
use crate::process;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// Options of `cargo xtask doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask doctor")]
pub struct Options {}

/// Looks at everything and changes nothing; fails where the default machine cannot run.
pub fn execute(workspace: &Workspace, _options: &Options) -> Result<ExitCode> {
    let missing = packages::missing(workspace);
    let mut able = missing.is_empty();
    let mut toolchain = |what: &str, found: Result<Toolchain>| match found {
        Ok(toolchain) => line(true, what, &toolchain.describe()),
        Err(error) => {
            able = false;
            line(false, what, &format!("{error:#}"));
        }
    };
    println!("Building");
    toolchain("kernel and guest images", Toolchain::for_kernel(workspace));
    toolchain("boot stages", Toolchain::for_boot_stages(workspace));
    let linux = assets::linux_is_ready(workspace);
    line(linux, "Linux guest", if linux { "kernel and initramfs are made" } else { "`cargo xtask setup` makes it" });

    println!("Debian packages");
    if missing.is_empty() {
        line(true, "packages", "all that are needed here");
    }
    for package in &missing {
        line(false, package.name, package.why);
    }

    println!("Machines");
    let bochs = !missing.iter().any(|package| package.name.contains("boch") || package.name == "vgabios");
    line(bochs, "--machine bochs", if bochs { "VT-x in software" } else { "`cargo xtask setup` installs it" });
    let qemu = process::find_program("qemu-system-x86_64").is_some();
    let nested = nested_vmx();
    let describe = |there: &'static str| if qemu { there } else { "qemu-system-x86_64 is missing" };
    line(qemu && nested == NestedVmx::On, "--machine qemu", describe(nested.describe()));
    line(qemu, "--machine qemu-tcg", describe("no VT-x: Lamina refuses it, as it shall"));

    if !able {
        println!("next: cargo xtask setup");
    }
    Ok(if able { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(good: bool, what: &str, detail: &str) {
    println!("  {:<4}{what:<25}{detail}", if good { "ok" } else { "--" });
}
