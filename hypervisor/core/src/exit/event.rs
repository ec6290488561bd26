//! Events whose delivery an exit cut short, and what becomes of two that meet.

use super::raw::{Event, EventKind, RawExit};
use crate::vmx::ExitReason;

/// #DF, with its error code of 0.
const DOUBLE_FAULT: Event = Event::exception_with_code(8, 0);

/// What to do with an exception that arose while another event was being delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merged {
    /// Deliver this event.
    Inject(Event),
    /// The CPU would shut down.
    TripleFault,
}

impl Event {
    /// The event that an interruption-information field describes (VM-exit interruption information or IDT-vectoring
    /// information: "the format is the same"), or `None` if the field is not valid.
    pub(super) fn from_information(info: u32, error_code: u32, instruction_len: u32) -> Option<Self> {
        const VALID: u32 = 1 << 31;
        const HAS_ERROR_CODE: u32 = 1 << 11;
        if info & VALID == 0 {
            return None;
        }
        let kind = match info >> 8 & 7 {
            0 => EventKind::ExternalInterrupt,
            2 => EventKind::Nmi,
            3 => EventKind::HardwareException,
            4 => EventKind::SoftwareInterrupt,
            5 => EventKind::PrivilegedSoftwareException,
            6 => EventKind::SoftwareException,
            _ => return None,
        };
        let software = matches!(
            kind,
            EventKind::SoftwareInterrupt | EventKind::PrivilegedSoftwareException | EventKind::SoftwareException
        );
        let [vector, ..] = info.to_le_bytes();
        let [len, ..] = instruction_len.to_le_bytes();
        Some(Self {
            kind,
            vector,
            error_code: (info & HAS_ERROR_CODE != 0).then_some(error_code),
            instruction_len: if software { len } else { 0 },
        })
    }
}

/// The event that was being delivered when the exit happened: it is to be delivered again at the next VM entry, unless
/// the exit's outcome is another event (then [`merge`] says which).
#[must_use]
pub fn interrupted_event(exit: &RawExit) -> Option<Event> {
    Event::from_information(exit.idt_vectoring_info, exit.idt_vectoring_error, exit.instruction_len)
}

/// Whether an IRET had ended the blocking of NMIs before its own fault caused this exit. "The VMM should set bit 3 (blocking by
/// NMI)" of the interruptibility state then, before the guest executes the IRET again (SDM volume 3, "Resuming Guest Software after
/// Handling an Exception").
#[must_use]
pub fn nmi_unblocked_by_iret(exit: &RawExit) -> bool {
    const VALID: u32 = 1 << 31;
    const BIT_12: u32 = 1 << 12;
    const DOUBLE_FAULT: u32 = 8;
    // Bit 12 is undefined where the exit cut an event's delivery short, and for a double fault.
    exit.idt_vectoring_info & VALID == 0
        && match ExitReason::of(exit.reason) {
            Some(ExitReason::ExceptionOrNmi) => {
                exit.interruption_info & BIT_12 != 0 && exit.interruption_info & 0xff != DOUBLE_FAULT
            }
            Some(ExitReason::EptViolation) => exit.qualification & u64::from(BIT_12) != 0,
            _ => false,
        }
}

/// What happens when `new` arises during the delivery of `interrupted`.
///
/// Intel SDM volume 3, "Interrupt 8—Double Fault Exception (#DF)", table "Conditions for Generating a Double Fault". An
/// interrupted external interrupt or NMI is not lost when `new` goes first ("handle exceptions serially"): the caller
/// delivers it afterwards.
#[must_use]
pub fn merge(interrupted: Event, new: Event) -> Merged {
    if new.kind != EventKind::HardwareException {
        return Merged::Inject(new);
    }
    let second = Class::of(new);
    match (Class::of(interrupted), second) {
        (_, Class::Benign) | (Class::Benign, _) | (Class::Contributory, Class::PageFault) => Merged::Inject(new),
        (Class::DoubleFault, _) => Merged::TripleFault,
        (Class::Contributory | Class::PageFault, _) => Merged::Inject(DOUBLE_FAULT),
    }
}

/// The classes of the manual's table "Interrupt and Exception Classes".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(event: Event) -> Self {
        match (event.kind, event.vector) {
            // #DE, #TS, #NP, #SS, #GP, #CP.
            (EventKind::HardwareException, 0 | 10..=13 | 21) => Self::Contributory,
            // #PF, and #VE, which counts as one.
            (EventKind::HardwareException, 14 | 20) => Self::PageFault,
            (EventKind::HardwareException, 8) => Self::DoubleFault,
            _ => Self::Benign,
        }
    }
}
