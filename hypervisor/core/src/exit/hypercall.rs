//! VMCALL: hypercalls.
//!
//! The interface, for guests: RAX holds the number, and the answer afterwards. A number that is not defined answers -1.
//! None is defined yet. Only code at CPL 0 may ask; from elsewhere VMCALL is an invalid opcode.

use super::{Context, Event, Outcome};
use crate::insn;

/// The answer to a number that is not defined.
const NOT_DEFINED: u64 = u64::MAX;

/// Answers a hypercall.
pub(super) fn handle(ctx: &mut Context<'_>) -> Outcome {
    if insn::privilege_level(ctx.state) != 0 {
        return Outcome::Inject(Event::INVALID_OPCODE);
    }
    ctx.gprs.rax = NOT_DEFINED;
    Outcome::Advance
}
