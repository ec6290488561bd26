//! Moving the guest behind an instruction that was carried out for it.

use crate::vmx::GuestField;
use crate::x86::VcpuState;

/// RFLAGS: trap flag.
const TF: u64 = 1 << 8;
/// Interruptibility state: blocking by STI, blocking by MOV SS. Both last for one instruction.
const BLOCKED_FOR_ONE_INSTRUCTION: u64 = 0b11;
/// Pending debug exceptions: a single-step trap (BS).
const SINGLE_STEP: u64 = 1 << 14;
/// IA32_DEBUGCTL: single-step on branches only.
const BTF: u64 = 1 << 1;
/// CS access rights: 64-bit mode.
const CS_LONG: u64 = 1 << 13;
/// EIP's width outside 64-bit mode.
const EIP: u64 = 0xffff_ffff;

/// Moves RIP behind an instruction of `instruction_len` bytes, with all that the end of an instruction means: the
/// shadow of STI or MOV SS ends, and a guest that single-steps gets its debug exception.
pub fn advance(state: &mut dyn VcpuState, instruction_len: u32) {
    let mut rip = state.read(GuestField::Rip).wrapping_add(u64::from(instruction_len));
    if rip > EIP && state.read(GuestField::CsAccessRights) & CS_LONG == 0 {
        rip &= EIP;
    }
    state.write(GuestField::Rip, rip);
    let blocking = state.read(GuestField::InterruptibilityState);
    if blocking & BLOCKED_FOR_ONE_INSTRUCTION != 0 {
        state.write(GuestField::InterruptibilityState, blocking & !BLOCKED_FOR_ONE_INSTRUCTION);
    }
    trap_single_step(state);
}

/// The debug exception of a guest that single-steps: after an instruction, and after each iteration of a repeated string
/// instruction, for which RIP stays.
pub fn trap_single_step(state: &mut dyn VcpuState) {
    if single_steps(state) {
        let pending = state.read(GuestField::PendingDebugExceptions);
        state.write(GuestField::PendingDebugExceptions, pending | SINGLE_STEP);
    }
}

/// Whether a debug exception follows the instruction that is being carried out.
pub fn single_steps(state: &dyn VcpuState) -> bool {
    state.read(GuestField::Rflags) & TF != 0 && state.read(GuestField::Ia32Debugctl) & BTF == 0
}
