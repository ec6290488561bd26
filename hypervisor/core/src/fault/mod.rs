//! What happens when a guest cannot go on: the kinds of fault, the report of each, and what the VM's policy makes of it.
//!
//! A [`Fault`] is found on the CPU that has the vCPU, or by the host from outside. [`Capture`] is the vCPU's state at that
//! moment, as far as it can be told: all that a guest says is checked and bounded, for a guest that faulted is one not to be
//! trusted. [`FaultReport`] is what the operator reads, kept in a [`FaultLog`] that outlasts the VM's restarts.
//! [`Recovery`] decides what follows. docs/FAULTS.md is the operator's page about all of it.

mod capture;
mod policy;
mod report;
#[cfg(test)]
mod tests;
mod trail;

pub use capture::{Capture, PageWalk, Registers, Subject, WalkStep};
pub use policy::{Action, EARLY_US, FIRST_BACKOFF_US, OnFault, Recovery, Restart, RestartLimit};
pub use report::{FaultLog, FaultReport, KEPT_REPORTS};
pub use trail::{ExitMark, ExitTrail, TRAIL_LEN};

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

/// What a guest came to grief by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultKind {
    /// The processor shut down.
    TripleFault,
    /// VM entry refused the guest's registers.
    InvalidGuestState,
    /// VMLAUNCH or VMRESUME itself failed.
    EntryFailure,
    /// A VM exit that there is no answer to.
    UnhandledExit,
    /// A task switch by hardware.
    TaskSwitch,
    /// The hypervisor's own EPT is wrong.
    EptMisconfiguration,
    /// Code, a page table, or a table or stack of an event's delivery where there is no memory.
    OutsideMemory,
    /// Nothing but accesses to memory that is not there.
    AccessLoop,
    /// An instruction on a device's registers that is not emulated.
    UnsupportedInstruction,
    /// The hardware reported an error while the guest ran.
    MachineCheck,
    /// The host failed the guest.
    Host,
    /// Resets, one soon after the other.
    ResetLoop,
    /// The guest says that it panicked.
    GuestPanic,
    /// The guest stopped feeding its watchdog.
    Watchdog,
    /// The guest shows no sign of life.
    Heartbeat,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::TripleFault,
        Self::InvalidGuestState,
        Self::EntryFailure,
        Self::UnhandledExit,
        Self::TaskSwitch,
        Self::EptMisconfiguration,
        Self::OutsideMemory,
        Self::AccessLoop,
        Self::UnsupportedInstruction,
        Self::MachineCheck,
        Self::Host,
        Self::ResetLoop,
        Self::GuestPanic,
        Self::Watchdog,
        Self::Heartbeat,
    ];

    /// The kinds that are the hardware's or the hypervisor's doing: no guest can bring them about, so the operator can.
    pub const INJECTED: [Self; 6] = [
        Self::InvalidGuestState,
        Self::EntryFailure,
        Self::UnhandledExit,
        Self::EptMisconfiguration,
        Self::MachineCheck,
        Self::Host,
    ];

    /// The kind as one word, for machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TripleFault => "triple-fault",
            Self::InvalidGuestState => "invalid-guest-state",
            Self::EntryFailure => "entry-failure",
            Self::UnhandledExit => "unhandled-exit",
            Self::TaskSwitch => "task-switch",
            Self::EptMisconfiguration => "ept-misconfiguration",
            Self::OutsideMemory => "outside-memory",
            Self::AccessLoop => "access-loop",
            Self::UnsupportedInstruction => "unsupported-instruction",
            Self::MachineCheck => "machine-check",
            Self::Host => "host",
            Self::ResetLoop => "reset-loop",
            Self::GuestPanic => "guest-panic",
            Self::Watchdog => "watchdog",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// The kind in a sentence, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::TripleFault => "an exception could not be delivered, nor the double fault that came of it",
            Self::InvalidGuestState => "VM entry refused the guest's registers",
            Self::EntryFailure => "the VM-entry instruction failed, which is a bug of the hypervisor's",
            Self::UnhandledExit => "the guest did something that the hypervisor has no answer to",
            Self::TaskSwitch => "the guest switched tasks by hardware, which is not supported",
            Self::EptMisconfiguration => "the hypervisor's page tables for the guest are wrong",
            Self::OutsideMemory => {
                "the guest has code, a page table, a stack or a descriptor table where it has no memory"
            }
            Self::AccessLoop => "the guest does nothing but access memory that is not there",
            Self::UnsupportedInstruction => "the guest used an instruction on device registers that is not emulated",
            Self::MachineCheck => "the hardware reported an error while the guest ran",
            Self::Host => "the host could not give the guest what it needs to go on",
            Self::ResetLoop => "the guest reset itself again and again, soon after each start",
            Self::GuestPanic => "the guest says that it panicked",
            Self::Watchdog => "the guest stopped feeding its watchdog",
            Self::Heartbeat => "the guest shows no sign of life",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// What happened this time, in one line.
    pub detail: String,
    /// The vCPU that it happened to, at that moment. `None` until somebody has looked, or where the host's memory is short.
    pub capture: Option<Capture>,
}

impl Fault {
    /// A fault that nobody has looked at yet.
    #[must_use]
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, detail: detail.into(), capture: None })
    }
}
