//! `cargo xtask gdb`: Lamina in QEMU, stopped before its first instruction, with gdb attached.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::disk_image::{self, Payload};
use crate::machine::Firmware;
use crate::process;
use crate::ramdisk::{self, Config, Files};
use crate::setup;
use crate::workspace::Workspace;

/// Where the boot loader puts the position-independent kernel.
const KERNEL_BASE: u64 = 0x80_0000_0000;

/// Options of `cargo xtask gdb`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask gdb\n\
                        Then, in gdb: hbreak lamina::init::start, continue. QEMU's own emulation has no VT-x, so this \
                        is for the way up to the first VMX instruction.")]
pub struct Options {
    /// Which virtual machines: a configuration file [default: boot/demo.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    setup: setup::Options,
}

/// Starts QEMU and gdb; QEMU ends when gdb does.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<()> {
    let Some(gdb) = process::find_program("gdb") else {
        bail!("gdb is not installed: `sudo apt-get install gdb`");
    };
    setup::ensure(workspace, options.setup)?;
    let built = build::all(workspace)?;
    let config = Config::read(options.config.as_deref().unwrap_or(&workspace.demo_config()))?;
    let files = Files::new(workspace, built.guests.clone());
    let run_dir = workspace.run_dir("gdb");
    fs::create_dir_all(&run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    let image = run_dir.join("lamina.img");
    let archive = ramdisk::pack(&config, &files, true)?;
    disk_image::write(&built, &Payload::Ramdisk(archive), Firmware::Bios, &image)?;
    let socket = run_dir.join("gdb.socket");
    let serial = run_dir.join("serial.log");
    println!("the serial line goes to {}", serial.display());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512", "-display", "none", "-no-reboot", "-S"]);
    qemu.arg("-drive").arg(format!("format=raw,file={}", image.display()));
    qemu.arg("-serial").arg(format!("file:{}", serial.display()));
    qemu.arg("-gdb").arg(format!("unix:{},server=on,wait=off", socket.display()));
    let mut qemu = qemu.stdin(Stdio::null()).spawn().context("cannot start qemu-system-x86_64")?;
    let result = process::run(
        Command::new(gdb)
            .arg("-ex")
            .arg(format!("add-symbol-file {} -o {KERNEL_BASE:#x}", built.kernel.display()))
            .arg("-ex")
            .arg(format!("target remote {}", socket.display())),
    );
    qemu.kill().context("cannot end QEMU")?;
    qemu.wait().context("cannot wait for QEMU")?;
    result
}
