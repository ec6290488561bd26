//! VMCALL: hypercalls.
//!
//! The interface, for guests: RAX holds the number, and the answer afterwards. A number that is not defined answers -1.
//! Only code at CPL 0 may ask; from elsewhere VMCALL is an invalid opcode.
//!
//! | RAX | name | what it does |
//! |---|---|---|
//! | 0x4c4d_0001 | panic | The guest has panicked: a fault that says the code in RBX, with what the VM's policy has follow. |
//!
//! Numbers of Lamina's begin with `LM`. KVM's count from 1, and a guest finds KVM's signature in CPUID: none of those is used.

use super::{Context, Event, Outcome, RawExit, advance, crash, rip};
use crate::fault::FaultKind;
use crate::insn;
use crate::x86::{Gprs, VcpuState};
use alloc::format;

/// The guest has panicked.
const PANIC: u64 = 0x4c4d_0001;
/// The answer to a number that is not defined.
const NOT_DEFINED: u64 = u64::MAX;

/// Answers a hypercall.
pub(super) fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    if answer_undefined(ctx.gprs, ctx.state) {
        return Outcome::Advance;
    }
    if ctx.gprs.rax == PANIC && insn::privilege_level(ctx.state) == 0 {
        let (code, rip) = (ctx.gprs.rbx, rip(ctx));
        let detail = format!("guest panic: told by the panic hypercall, code {code:#x}; RIP {rip:#x}");
        // Behind it, if the VM is looked at afterwards, or resumed.
        advance(ctx.state, exit.instruction_len);
        return crash(FaultKind::GuestPanic, detail);
    }
    Outcome::Inject(Event::INVALID_OPCODE)
}

/// Answers a number that is not defined, if it is one and the guest may ask.
#[inline]
pub(super) fn answer_undefined(gprs: &mut Gprs, state: &dyn VcpuState) -> bool {
    if gprs.rax == PANIC || insn::privilege_level(state) != 0 {
        return false;
    }
    gprs.rax = NOT_DEFINED;
    true
}
