//! CPUID.

use super::{Context, Outcome};
use crate::x86::control::cr4;
use crate::x86::cpuid::CpuidDynamic;

/// IA32_APIC_BASE: global enable.
const APIC_GLOBAL_ENABLE: u64 = 1 << 11;

/// Answers from the vCPU's table; "on Intel 64 processors, CPUID clears the high 32 bits of the RAX/RBX/RCX/RDX
/// registers in all modes".
pub(super) fn handle(ctx: &mut Context<'_>) -> Outcome {
    let [leaf, subleaf] = [ctx.gprs.rax, ctx.gprs.rcx].map(low_half);
    let (state, cpu, apic) = (&*ctx.state, &*ctx.cpu, &*ctx.apic);
    let registers = cpu.cpuid.lookup(leaf, subleaf, || CpuidDynamic {
        osxsave: state.cr4() & cr4::OSXSAVE != 0,
        xcr0: cpu.xcr0(),
        apic_enabled: apic.base_msr() & APIC_GLOBAL_ENABLE != 0,
    });
    [ctx.gprs.rax, ctx.gprs.rbx, ctx.gprs.rcx, ctx.gprs.rdx] = registers.map(u64::from);
    Outcome::Advance
}

/// Bits 31:0 of a register.
#[expect(clippy::cast_possible_truncation, reason = "the instruction uses EAX and ECX, the low half of RAX and RCX")]
pub(super) const fn low_half(register: u64) -> u32 {
    register as u32
}
