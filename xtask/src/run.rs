//! `cargo xtask run`: boots Lamina in an emulator, with the terminal as its serial console or unattended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build;
use crate::disk_image::{self, Payload};
use crate::machine::{DEFAULT_CPU_MODEL, Firmware, Kind, Machine, Session, attach};
use crate::ramdisk::{self, Config, Files};
use crate::setup;
use crate::verdicts::Verdicts;
use crate::workspace::Workspace;

/// How long an unattended run may take where `--timeout` does not say.
const DEFAULT_TIMEOUT_S: u64 = 900;

/// How long the machine may take to switch itself off after the last verdict.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);

/// Options of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        cargo xtask run                                   the demo, on this terminal\n  \
        cargo xtask run --headless --timeout 600          the demo, unattended; the exit code says how it went\n  \
        cargo xtask run --config my-vms.toml --cpus 2\n  \
        cargo xtask run --kernel bzImage --initrd initrd.gz --cmdline 'console=ttyS0'")]
pub struct Options {
    /// The emulator
    #[arg(long, value_enum, default_value_t = Kind::Bochs)]
    machine: Kind,
    /// The firmware that the machine starts with
    #[arg(long, value_enum, default_value_t = Firmware::Uefi)]
    firmware: Firmware,
    /// The processor that Bochs emulates; `bochs --help cpu` lists them
    #[arg(long, default_value = DEFAULT_CPU_MODEL, value_name = "NAME")]
    cpu_model: String,
    /// How many processors the machine has
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// How much memory the machine has, in MiB
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..=2048))]
    memory: u32,
    /// Which virtual machines: a configuration file [default: boot/demo.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    config: Option<PathBuf>,
    /// One virtual machine with this Linux kernel instead of a configuration
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk of that Linux
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The command line of that Linux
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "console=ttyS0")]
    cmdline: String,
    /// Nobody at the terminal: print everything, end when every guest has given its verdict
    #[arg(long)]
    headless: bool,
    /// With --headless: give up after this many seconds of wall-clock time
    #[arg(long, value_name = "SECONDS", requires = "headless", default_value_t = DEFAULT_TIMEOUT_S)]
    timeout: u64,
    /// How much Lamina itself says: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log_level: Option<String>,
    #[command(flatten)]
    setup: setup::Options,
}

/// Builds what is missing, boots it, and stays until the machine ends or the user leaves.
pub fn execute(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.machine == Kind::Qemu {
        crate::machine::require_nested_vmx()?;
    }
    setup::ensure(workspace, options.setup)?;
    let built = build::all(workspace)?;
    let mut files = Files::new(workspace, built.guests.clone());
    let mut config = configuration(workspace, options, &mut files)?;
    if let Some(level) = &options.log_level {
        config.set_host("log_level", level.as_str());
    }
    if options.headless {
        config.set_host("tee_serial", true);
    }
    let started = config.check()?.boot_order()?.into_iter().map(|vm| vm.name).collect();
    let run_dir = fresh_run_dir(workspace, &format!("run-{}", std::process::id()))?;
    let image = run_dir.join("lamina.img");
    let archive = ramdisk::pack(&config, &files, options.firmware == Firmware::Bios)?;
    disk_image::write(&built, &Payload::Ramdisk(archive), options.firmware, &image)?;
    let machine = Machine {
        kind: options.machine,
        firmware: options.firmware,
        cpus: options.cpus,
        cpu_model: options.cpu_model.clone(),
        memory_mib: options.memory,
        trace_marks: false,
        image: image.clone(),
        run_dir,
    };
    let code = if options.headless {
        unattended(&machine, started, Duration::from_secs(options.timeout))?
    } else {
        attach::to_terminal(&machine)?;
        ExitCode::SUCCESS
    };
    // The logs stay for whoever wants to look; the image is large and made anew each time.
    fs::remove_file(&image).with_context(|| format!("cannot remove {}", image.display()))?;
    Ok(code)
}

fn configuration(workspace: &Workspace, options: &Options, files: &mut Files) -> Result<Config> {
    let Some(kernel) = &options.kernel else {
        return Config::read(options.config.as_deref().unwrap_or(&workspace.demo_config()));
    };
    let mut vm = toml_edit::Table::new();
    vm["name"] = toml_edit::value("linux");
    vm["image"] = toml_edit::value("kernel");
    vm["cmdline"] = toml_edit::value(options.cmdline.as_str());
    vm["memory"] = toml_edit::value("256M");
    files.give("kernel", kernel.clone());
    if let Some(initrd) = &options.initrd {
        vm["initrd"] = toml_edit::value("initrd");
        files.give("initrd", initrd.clone());
    }
    Config::parse(&format!("[[vm]]\n{vm}"), "the configuration made from --kernel".to_owned(), PathBuf::new())
}

/// The folder of the run with this name, emptied.
pub(crate) fn fresh_run_dir(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.run_dir(name);
    remove_if_there(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Prints what the machine says until every guest has given its verdict, then switches it off.
fn unattended(machine: &Machine, names: Vec<String>, limit: Duration) -> Result<ExitCode> {
    let mut verdicts = Verdicts::new(names);
    let mut session = Session::start(machine, limit, Some(Box::new(std::io::stdout())))?;
    let mut read = 0;
    while !verdicts.complete() {
        let Some(text) = session.more_than(read) else { break };
        let fresh = text.get(read..).unwrap_or_default();
        let complete = fresh.rfind('\n').map_or(0, |end| end + 1);
        fresh.get(..complete).unwrap_or_default().lines().for_each(|line| verdicts.hear(line));
        read += complete;
        if complete == 0 && session.more_than(text.len()).is_none() {
            break;
        }
    }
    let ended_early = session.has_ended();
    let done = verdicts.complete();
    println!("\n{}", verdicts.summary());
    if !done {
        let why = if ended_early { "the machine ended" } else { "the time is up" };
        println!("{why} before every guest had given its verdict; logs: {}", machine.run_dir.display());
    }
    if done && !ended_early {
        session.extend(POWER_OFF_LIMIT);
        session.power_off()?;
    }
    Ok(if verdicts.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
