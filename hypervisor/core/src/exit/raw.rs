//! The plain record of a VM exit, and what a handler answers.

use crate::fault::{Fault, FaultKind};
use crate::memory::GuestPhysAddr;
use alloc::boxed::Box;
use alloc::string::String;

/// The VM-exit information fields of one exit, as read from the VMCS. Fields that the exit reason does not define are 0
/// (they are not read). Plain data: it can be recorded on a machine and replayed in a test.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RawExit {
    /// Exit reason: basic reason in bits 15:0, bit 31 set for a VM-entry failure.
    pub reason: u32,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest-linear address.
    pub guest_linear: u64,
    /// Guest-physical address.
    pub guest_physical: u64,
    /// VM-exit interruption information.
    pub interruption_info: u32,
    /// VM-exit interruption error code.
    pub interruption_error: u32,
    /// IDT-vectoring information: an event whose delivery the exit cut short.
    pub idt_vectoring_info: u32,
    /// IDT-vectoring error code.
    pub idt_vectoring_error: u32,
    /// VM-exit instruction length in bytes.
    pub instruction_len: u32,
    /// VM-exit instruction information.
    pub instruction_info: u32,
}

/// The type of an [`Event`], numbered as in the VM-entry interruption-information field
/// (SDM volume 3, "VM-Entry Controls for Event Injection").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// An interrupt from the (virtual) interrupt controller.
    ExternalInterrupt = 0,
    /// A non-maskable interrupt.
    Nmi = 2,
    /// A fault, trap or abort of the processor.
    HardwareException = 3,
    /// INT n.
    SoftwareInterrupt = 4,
    /// INT1.
    PrivilegedSoftwareException = 5,
    /// INT3 or INTO.
    SoftwareException = 6,
}

/// An event to deliver to the guest at the next VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What kind of event.
    pub kind: EventKind,
    /// Its vector in the guest's IDT.
    pub vector: u8,
    /// The error code to push, for the exceptions that have one.
    pub error_code: Option<u32>,
    /// For software events, the length in bytes of the instruction that raised it.
    pub instruction_len: u8,
}

impl Event {
    /// A hardware exception without an error code.
    #[must_use]
    pub const fn exception(vector: u8) -> Self {
        Self { kind: EventKind::HardwareException, vector, error_code: None, instruction_len: 0 }
    }

    /// A hardware exception with an error code.
    #[must_use]
    pub const fn exception_with_code(vector: u8, error_code: u32) -> Self {
        Self { kind: EventKind::HardwareException, vector, error_code: Some(error_code), instruction_len: 0 }
    }

    /// #GP(0), the answer to most of what a guest may not do.
    pub const GENERAL_PROTECTION: Self = Self::exception_with_code(13, 0);
    /// #UD, the answer to an instruction that this CPU does not have.
    pub const INVALID_OPCODE: Self = Self::exception(6);
    /// An NMI.
    pub const NMI: Self = Self { kind: EventKind::Nmi, vector: 2, error_code: None, instruction_len: 0 };
}

/// What follows from a VM exit. Handlers decide, one place applies it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Go on at the same instruction (it is to be executed again, or the exit was no instruction's).
    Resume,
    /// Go on behind the instruction.
    Advance,
    /// Deliver this event to the guest; the instruction did not complete.
    Inject(Event),
    /// Back this guest-physical address with memory, then go on at the same instruction.
    Populate(GuestPhysAddr),
    /// Give the CPU away, then go on at the same instruction.
    Yield,
    /// HLT was executed: behind the instruction, wait for an interrupt.
    Halt,
    /// The VM is over, for this reason.
    Stop(StopReason),
}

/// Why a VM came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The guest powered itself off (ACPI S5).
    PowerOff,
    /// The guest wrote this code to the exit port.
    Exit(u32),
    /// The guest asked for a reset: the VM is to be started anew.
    Reset,
    /// The guest did what it cannot go on from.
    Fault(Box<Fault>),
}

impl StopReason {
    /// A fault, with what happened in one line.
    #[must_use]
    pub fn fault(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self::Fault(Fault::new(kind, detail))
    }
}
