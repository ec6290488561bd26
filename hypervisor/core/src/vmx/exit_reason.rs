//! The basic exit reasons, their names, and which VM-exit information fields each of them defines.
//!
//! Source: Intel SDM volume 3, appendix "VMX Basic Exit Reasons" and chapter "VM Exits", "Recording VM-Exit
//! Information and Updating VM-entry Control Fields". One table says it all; a VMREAD costs tens of cycles, so the
//! hardware layer reads [`ExitReason::needed_fields`] and then, for the few exits that have more to say,
//! [`ExitReason::further_fields`].

use crate::exit::RawExit;
use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// VM-exit information fields, each a field (or pair of fields) of [`RawExit`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FieldSet: u16 {
        /// Exit qualification.
        const QUALIFICATION = 1 << 0;
        /// Guest-linear address.
        const GUEST_LINEAR = 1 << 1;
        /// Guest-physical address.
        const GUEST_PHYSICAL = 1 << 2;
        /// VM-exit interruption information.
        const INTERRUPTION_INFO = 1 << 3;
        /// VM-exit interruption error code.
        const INTERRUPTION_ERROR = 1 << 4;
        /// IDT-vectoring information.
        const IDT_VECTORING_INFO = 1 << 5;
        /// IDT-vectoring error code.
        const IDT_VECTORING_ERROR = 1 << 6;
        /// VM-exit instruction length.
        const INSTRUCTION_LEN = 1 << 7;
        /// VM-exit instruction information.
        const INSTRUCTION_INFO = 1 << 8;
    }
}

const NONE: FieldSet = FieldSet::empty();
const QUALIFICATION: FieldSet = FieldSet::QUALIFICATION;
const LENGTH: FieldSet = FieldSet::INSTRUCTION_LEN;
/// An instruction whose operand the qualification describes.
const OPERAND: FieldSet = LENGTH.union(QUALIFICATION);
/// An instruction with a memory operand: its displacement is the qualification, the rest the instruction information.
const MEMORY_OPERAND: FieldSet = OPERAND.union(FieldSet::INSTRUCTION_INFO);
/// An exit that may cut the delivery of an event short.
const IN_DELIVERY: FieldSet = FieldSet::IDT_VECTORING_INFO;

macro_rules! exit_reasons {
    ($($number:literal $reason:ident $name:literal $fields:expr;)+) => {
        /// A basic exit reason: bits 15:0 of the exit-reason field.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        #[expect(missing_docs, reason = "the table gives each variant its name in the manual's words")]
        pub enum ExitReason { $($reason = $number,)+ }

        impl ExitReason {
            /// Every exit reason, in the order of the manual's table.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// The reason numbered `basic`, or `None` for a number the manual does not define.
            #[must_use]
            pub const fn from_basic(basic: u16) -> Option<Self> {
                Some(match basic {
                    $($number => Self::$reason,)+
                    _ => return None,
                })
            }

            /// The reason's name, in the manual's words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)+ }
            }

            /// The fields to read on every exit for this reason.
            #[must_use]
            pub const fn needed_fields(self) -> FieldSet {
                match self { $(Self::$reason => $fields,)+ }
            }
        }
    };
}

exit_reasons! {
    0 ExceptionOrNmi "exception or NMI"
        QUALIFICATION.union(FieldSet::INTERRUPTION_INFO).union(IN_DELIVERY);
    1 ExternalInterrupt "external interrupt" FieldSet::INTERRUPTION_INFO;
    2 TripleFault "triple fault" NONE;
    3 InitSignal "INIT signal" NONE;
    4 StartupIpi "start-up IPI (SIPI)" QUALIFICATION;
    5 IoSmi "I/O system-management interrupt" NONE;
    6 OtherSmi "other SMI" NONE;
    7 InterruptWindow "interrupt window" NONE;
    8 NmiWindow "NMI window" NONE;
    9 TaskSwitch "task switch" OPERAND.union(IN_DELIVERY);
    10 Cpuid "CPUID" LENGTH;
    11 Getsec "GETSEC" LENGTH;
    12 Hlt "HLT" LENGTH;
    13 Invd "INVD" LENGTH;
    14 Invlpg "INVLPG" OPERAND;
    15 Rdpmc "RDPMC" LENGTH;
    16 Rdtsc "RDTSC" LENGTH;
    17 Rsm "RSM" LENGTH;
    18 Vmcall "VMCALL" LENGTH;
    19 Vmclear "VMCLEAR" MEMORY_OPERAND;
    20 Vmlaunch "VMLAUNCH" LENGTH;
    21 Vmptrld "VMPTRLD" MEMORY_OPERAND;
    22 Vmptrst "VMPTRST" MEMORY_OPERAND;
    23 Vmread "VMREAD" MEMORY_OPERAND;
    24 Vmresume "VMRESUME" LENGTH;
    25 Vmwrite "VMWRITE" MEMORY_OPERAND;
    26 Vmxoff "VMXOFF" LENGTH;
    27 Vmxon "VMXON" MEMORY_OPERAND;
    28 ControlRegisterAccess "control-register access" OPERAND;
    29 MovDr "MOV DR" OPERAND;
    30 IoInstruction "I/O instruction" OPERAND;
    31 Rdmsr "RDMSR" LENGTH;
    32 Wrmsr "WRMSR" LENGTH;
    33 InvalidGuestState "VM-entry failure due to invalid guest state" QUALIFICATION;
    34 MsrLoading "VM-entry failure due to MSR loading" QUALIFICATION;
    36 Mwait "MWAIT" OPERAND;
    37 MonitorTrapFlag "monitor trap flag" NONE;
    39 Monitor "MONITOR" LENGTH;
    40 Pause "PAUSE" LENGTH;
    41 MachineCheckOnEntry "VM-entry failure due to machine-check event" NONE;
    43 TprBelowThreshold "TPR below threshold" NONE;
    44 ApicAccess "APIC access" QUALIFICATION.union(IN_DELIVERY);
    45 VirtualizedEoi "virtualized EOI" QUALIFICATION;
    46 GdtrOrIdtrAccess "access to GDTR or IDTR" MEMORY_OPERAND;
    47 LdtrOrTrAccess "access to LDTR or TR" MEMORY_OPERAND;
    48 EptViolation "EPT violation" QUALIFICATION.union(FieldSet::GUEST_PHYSICAL).union(IN_DELIVERY);
    49 EptMisconfiguration "EPT misconfiguration" FieldSet::GUEST_PHYSICAL.union(IN_DELIVERY);
    50 Invept "INVEPT" MEMORY_OPERAND;
    51 Rdtscp "RDTSCP" LENGTH;
    52 PreemptionTimer "VMX-preemption timer expired" NONE;
    53 Invvpid "INVVPID" MEMORY_OPERAND;
    54 Wbinvd "WBINVD or WBNOINVD" LENGTH;
    55 Xsetbv "XSETBV" LENGTH;
    56 ApicWrite "APIC write" QUALIFICATION;
    57 Rdrand "RDRAND" LENGTH.union(FieldSet::INSTRUCTION_INFO);
    58 Invpcid "INVPCID" MEMORY_OPERAND;
    59 Vmfunc "VMFUNC" LENGTH;
    60 Encls "ENCLS" LENGTH;
    61 Rdseed "RDSEED" LENGTH.union(FieldSet::INSTRUCTION_INFO);
    62 PageModificationLogFull "page-modification log full" QUALIFICATION.union(IN_DELIVERY);
    63 Xsaves "XSAVES" MEMORY_OPERAND;
    64 Xrstors "XRSTORS" MEMORY_OPERAND;
    65 Pconfig "PCONFIG" LENGTH;
    66 SppEvent "SPP-related event"
        QUALIFICATION.union(FieldSet::GUEST_PHYSICAL).union(FieldSet::GUEST_LINEAR).union(IN_DELIVERY);
    67 Umwait "UMWAIT" LENGTH.union(FieldSet::INSTRUCTION_INFO);
    68 Tpause "TPAUSE" LENGTH.union(FieldSet::INSTRUCTION_INFO);
    69 Loadiwkey "LOADIWKEY" LENGTH.union(FieldSet::INSTRUCTION_INFO);
    70 Enclv "ENCLV" LENGTH;
    72 EnqcmdPasid "ENQCMD PASID translation failure" LENGTH;
    73 EnqcmdsPasid "ENQCMDS PASID translation failure" LENGTH;
    74 BusLock "bus lock" NONE;
    75 InstructionTimeout "instruction timeout" QUALIFICATION;
    76 Seamcall "SEAMCALL" LENGTH;
    77 Tdcall "TDCALL" LENGTH;
    78 Rdmsrlist "RDMSRLIST" OPERAND;
    79 Wrmsrlist "WRMSRLIST" OPERAND;
}

/// Exit-reason field, bit 31: "VM-entry failure"; the guest never ran.
const ENTRY_FAILURE: u32 = 1 << 31;
/// Interruption information and IDT-vectoring information, bit 31: the field is valid.
const INTERRUPTION_VALID: u32 = 1 << 31;
/// The same, bit 11: an error code goes with the event.
const INTERRUPTION_ERROR_CODE: u32 = 1 << 11;
/// Exit qualification for I/O instructions, bit 4: INS or OUTS.
const IO_STRING: u64 = 1 << 4;
/// Exit qualification for EPT violations, bit 7: the guest-linear-address field is valid.
const EPT_LINEAR_VALID: u64 = 1 << 7;

impl ExitReason {
    /// The basic reason in an exit-reason field, or `None` where the manual defines none.
    #[must_use]
    pub const fn of(exit_reason: u32) -> Option<Self> {
        // Bits 15:0, as two bytes: no cast that could lose any.
        let [low, high, ..] = exit_reason.to_le_bytes();
        Self::from_basic(u16::from_le_bytes([low, high]))
    }

    /// Whether an exit-reason field reports a VM entry that failed.
    #[must_use]
    pub const fn is_entry_failure(exit_reason: u32) -> bool {
        exit_reason & ENTRY_FAILURE != 0
    }

    /// The number in bits 15:0 of the exit-reason field.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What the fields read so far ([`ExitReason::needed_fields`]) say is worth reading as well: error codes where there
    /// are any, the linear address of an EPT violation or a string I/O instruction, and the length of the software
    /// interrupt whose delivery was cut short. Empty for nearly every exit.
    #[must_use]
    pub fn further_fields(self, exit: &RawExit) -> FieldSet {
        let mut further = NONE;
        if has_error_code(exit.interruption_info) {
            further |= FieldSet::INTERRUPTION_ERROR;
        }
        if has_error_code(exit.idt_vectoring_info) {
            further |= FieldSet::IDT_VECTORING_ERROR;
        }
        if is_software_event(exit.idt_vectoring_info) || is_software_event(exit.interruption_info) {
            further |= FieldSet::INSTRUCTION_LEN;
        }
        match self {
            Self::EptViolation if exit.qualification & EPT_LINEAR_VALID != 0 => further |= FieldSet::GUEST_LINEAR,
            Self::IoInstruction if exit.qualification & IO_STRING != 0 => {
                further |= FieldSet::GUEST_LINEAR | FieldSet::INSTRUCTION_INFO;
            }
            // LMSW is the one control-register access with a memory operand (access type 3, operand type 1).
            Self::ControlRegisterAccess if exit.qualification & 0x70 == 0x70 => further |= FieldSet::GUEST_LINEAR,
            _ => {}
        }
        further.difference(self.needed_fields())
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn has_error_code(info: u32) -> bool {
    info & INTERRUPTION_VALID != 0 && info & INTERRUPTION_ERROR_CODE != 0
}

/// Types 4, 5 and 6 of an interruption-information field: INT n, INT1, INT3 and INTO. Delivering them again takes the
/// length of the instruction.
const fn is_software_event(info: u32) -> bool {
    info & INTERRUPTION_VALID != 0 && matches!((info >> 8) & 7, 4..=6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (index, &reason) in ExitReason::ALL.iter().enumerate() {
            assert_eq!(ExitReason::from_basic(reason.number()), Some(reason));
            for &other in &ExitReason::ALL[index + 1..] {
                assert!(other.number() > reason.number());
                assert_ne!(other.name(), reason.name());
            }
        }
        for undefined in [35, 38, 42, 71, 80, u16::MAX] {
            assert_eq!(ExitReason::from_basic(undefined), None);
        }
    }

    #[test]
    fn entry_failure_bit_is_apart_from_the_basic_reason() {
        assert_eq!(ExitReason::of(0x8000_0021), Some(ExitReason::InvalidGuestState));
        assert!(ExitReason::is_entry_failure(0x8000_0021));
        assert!(!ExitReason::is_entry_failure(48));
        assert_eq!(ExitReason::of(0x0823_0030), Some(ExitReason::EptViolation));
    }

    #[test]
    fn the_frequent_exits_read_next_to_nothing() {
        assert_eq!(ExitReason::PreemptionTimer.needed_fields(), NONE);
        assert_eq!(ExitReason::ExternalInterrupt.needed_fields(), FieldSet::INTERRUPTION_INFO);
        assert_eq!(ExitReason::Cpuid.needed_fields(), FieldSet::INSTRUCTION_LEN);
        let plain_port_write = RawExit { qualification: 0x03f8_0000, ..RawExit::default() };
        assert_eq!(ExitReason::IoInstruction.further_fields(&plain_port_write), NONE);
    }

    #[test]
    fn further_fields_follow_the_first_ones() {
        let outs = RawExit { qualification: 0x03f8_0010, ..RawExit::default() };
        assert_eq!(
            ExitReason::IoInstruction.further_fields(&outs),
            FieldSet::GUEST_LINEAR | FieldSet::INSTRUCTION_INFO
        );
        let violation_in_page_fault_delivery =
            RawExit { qualification: 0x182, idt_vectoring_info: 0x8000_0b0e, ..RawExit::default() };
        assert_eq!(
            ExitReason::EptViolation.further_fields(&violation_in_page_fault_delivery),
            FieldSet::GUEST_LINEAR | FieldSet::IDT_VECTORING_ERROR
        );
        let violation_in_int_0x80 = RawExit { idt_vectoring_info: 0x8000_0480, ..RawExit::default() };
        assert_eq!(ExitReason::EptViolation.further_fields(&violation_in_int_0x80), FieldSet::INSTRUCTION_LEN);
        let stale = RawExit { idt_vectoring_info: 0x0000_0b0e, ..RawExit::default() };
        assert_eq!(ExitReason::EptViolation.further_fields(&stale), NONE);
    }
}
