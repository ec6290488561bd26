//! The emulated machines that Lamina boots on, and how to speak to one over its serial line.
//!
//! [`Machine`] describes one; [`Machine::start`] gives an [`Emulator`]; [`Session`] is the conversation with it.

pub mod attach;
mod bochs;
mod emulator;
mod qemu;
mod session;

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

pub use emulator::Emulator;
pub use qemu::{NestedVmx, nested_vmx, require_nested_vmx};
pub use session::{PROMPT, Pattern, Session};

/// Which program plays the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Bochs: emulates VT-x in software, runs anywhere.
    Bochs,
    /// QEMU with nested VT-x of the host's KVM: fast, where the host can.
    Qemu,
    /// QEMU's own emulation: has no VT-x, so Lamina says so and halts.
    QemuTcg,
}

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI (OVMF).
    Uefi,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        })
    }
}

/// The processor of a machine that nothing else is said of: it has all of VT-x that Lamina makes use of.
pub const DEFAULT_CPU_MODEL: &str = "corei7_skylake_x";

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Which program plays it.
    pub kind: Kind,
    /// Which firmware is in it.
    pub firmware: Firmware,
    /// The processor that Bochs emulates, by the name that `bochs --help cpu` lists; QEMU has its host's or its own.
    pub cpu_model: String,
    /// How many processors it has.
    pub cpus: u32,
    /// How much memory it has, in MiB.
    pub memory_mib: u32,
    /// Bochs alone: writes every instruction from each odd mark (`XCHG BX, BX`) to the next one into the emulator's log.
    pub trace_marks: bool,
    /// The disk image it boots from; written to by the emulator's locking, so each run has its own.
    pub image: PathBuf,
    /// An existing folder for settings and logs.
    pub run_dir: PathBuf,
}

impl Machine {
    /// Starts the emulator. The machine waits for nobody: whoever wants to see its first line reads at once.
    pub fn start(&self) -> Result<Emulator> {
        let serial = emulator::SerialListener::new()?;
        let command = match self.kind {
            Kind::Bochs => bochs::command(self, serial.port())?,
            Kind::Qemu => qemu::command(self, serial.port(), qemu::Acceleration::NestedKvm)?,
            Kind::QemuTcg => qemu::command(self, serial.port(), qemu::Acceleration::None)?,
        };
        Emulator::start(command, &serial, &self.run_dir)
    }
}
