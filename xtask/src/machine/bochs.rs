//! Bochs: the settings that make it a deterministic VT-x machine without a screen.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Firmware, Machine};
use crate::process;

/// MSRs that the strict mode must know for a stock Linux to boot.
const MSRS: &str = include_str!("../../data/bochs-msrs.txt");

/// How many pairs of marks are traced.
const TRACES_MAX: usize = 512;

const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

pub(super) fn command(machine: &Machine, serial_port: u16) -> Result<Command> {
    let Some(program) = process::find_program("bochs") else {
        bail!("bochs is not installed: `cargo xtask setup` installs it");
    };
    let firmware = match machine.firmware {
        Firmware::Bios => BIOS,
        Firmware::Uefi => OVMF,
    };
    for file in [firmware, VGA_BIOS] {
        if !Path::new(file).is_file() {
            bail!("{file} is missing: `cargo xtask setup` installs it");
        }
    }
    let folder = &machine.run_dir;
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name} in {}", folder.display()))
    };
    write("bochsrc", &settings(machine, serial_port))?;
    write("msrs", MSRS)?;
    // Debian's build starts in its debugger: one `continue` and it never asks again, but for marks.
    let between_marks = "trace on\nc\ntrace off\nc\n";
    write(
        "debugger",
        &format!("c\n{}", if machine.trace_marks { between_marks.repeat(TRACES_MAX) } else { String::new() }),
    )?;
    let mut command = Command::new(program);
    command.args(["-q", "-f", "bochsrc", "-rc", "debugger"]);
    command.current_dir(folder).env("SDL_VIDEODRIVER", "dummy").env("SDL_AUDIODRIVER", "dummy");
    Ok(command)
}

/// What the real-time clock shows at power-on (2026-01-01 00:00:00 UTC): the same in every run.
const RTC_START_UNIX_S: u64 = 1_767_225_600;

fn settings(machine: &Machine, serial_port: u16) -> String {
    let Machine { cpu_model, cpus, memory_mib, image, trace_marks, .. } = machine;
    let magic_break = u8::from(*trace_marks);
    let image = image.display();
    let firmware = match machine.firmware {
        Firmware::Bios => format!("romimage: file={BIOS}"),
        Firmware::Uefi => format!("romimage: file={OVMF}, address=0xffe00000"),
    };
    // `sync=none` ties the emulated time to the instruction count: two runs give the same figures.
    // `ignore_bad_msrs=0` makes an unknown MSR fault as it does on a real processor.
    // Every EPT violation is an "error" in Bochs's log; it is none.
    format!(
        "display_library: sdl2\n\
         cpu: model={cpu_model}, count={cpus}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0, msrs=\"msrs\"\n\
         clock: sync=none, time0={RTC_START_UNIX_S}\n\
         memory: guest={memory_mib}, host={memory_mib}\n\
         {firmware}\n\
         vgaromimage: file={VGA_BIOS}\n\
         boot: disk\n\
         ata0-master: type=disk, mode=flat, path=\"{image}\"\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{serial_port}\n\
         magic_break: enabled={magic_break}\n\
         sound: waveoutdrv=dummy\n\
         speaker: enabled=0\n\
         log: bochs.log\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n"
    )
}
