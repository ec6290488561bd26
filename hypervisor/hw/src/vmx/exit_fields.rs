//! Reading what a VM exit left in the VMCS.

use super::instructions::vmread;
use lamina_core::exit::RawExit;
use lamina_core::vmx::{ExitReason, FieldSet, ReadOnlyField};

pub(super) fn read_only(field: ReadOnlyField) -> u64 {
    vmread(field.encoding()).unwrap_or(0)
}

/// Reads the fields of an exit with this reason: those that it defines, and no others.
#[inline]
pub(super) fn read_exit(reason: u32) -> RawExit {
    let mut exit = RawExit { reason, ..RawExit::default() };
    if let Some(reason) = ExitReason::from_basic(exit.reason as u16) {
        read_fields(&mut exit, reason.needed_fields());
        let further = reason.further_fields(&exit);
        if !further.is_empty() {
            read_fields(&mut exit, further);
        }
    }
    exit
}

#[inline]
fn read_fields(exit: &mut RawExit, fields: FieldSet) {
    use ReadOnlyField as F;
    if fields.contains(FieldSet::INSTRUCTION_LEN) {
        exit.instruction_len = read_only(F::ExitInstructionLength) as u32;
    }
    if fields.contains(FieldSet::QUALIFICATION) {
        exit.qualification = read_only(F::ExitQualification);
    }
    if fields.contains(FieldSet::GUEST_PHYSICAL) {
        exit.guest_physical = read_only(F::GuestPhysicalAddress);
    }
    if fields.contains(FieldSet::GUEST_LINEAR) {
        exit.guest_linear = read_only(F::GuestLinearAddress);
    }
    if fields.contains(FieldSet::INTERRUPTION_INFO) {
        exit.interruption_info = read_only(F::ExitInterruptionInformation) as u32;
    }
    if fields.contains(FieldSet::INTERRUPTION_ERROR) {
        exit.interruption_error = read_only(F::ExitInterruptionErrorCode) as u32;
    }
    if fields.contains(FieldSet::IDT_VECTORING_INFO) {
        exit.idt_vectoring_info = read_only(F::IdtVectoringInformation) as u32;
    }
    if fields.contains(FieldSet::IDT_VECTORING_ERROR) {
        exit.idt_vectoring_error = read_only(F::IdtVectoringErrorCode) as u32;
    }
    if fields.contains(FieldSet::INSTRUCTION_INFO) {
        exit.instruction_info = read_only(F::ExitInstructionInformation) as u32;
    }
}
