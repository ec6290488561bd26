//! CPUID.

use super::{Context, Outcome};
use crate::x86::control::cr4;
use crate::x86::cpuid::CpuidDynamic;
use crate::x86::{CpuState, Gprs, VcpuState};

/// IA32_APIC_BASE: global enable.
const APIC_GLOBAL_ENABLE: u64 = 1 << 11;

/// Answers from the vCPU's table; "on Intel 64 processors, CPUID clears the high 32 bits of the RAX/RBX/RCX/RDX
/// registers in all modes".
pub(super) fn handle(ctx: &mut Context<'_>) -> Outcome {
    answer(ctx.gprs, ctx.cpu, ctx.state, ctx.apic.base_msr());
    Outcome::Advance
}

/// The same of a processor by itself.
#[inline]
pub(super) fn answer(gprs: &mut Gprs, cpu: &CpuState, state: &dyn VcpuState, apic_base: u64) {
    let [leaf, subleaf] = [gprs.rax, gprs.rcx].map(low_half);
    let registers = cpu.cpuid.lookup(leaf, subleaf, || CpuidDynamic {
        osxsave: state.cr4() & cr4::OSXSAVE != 0,
        xcr0: cpu.xcr0(),
        apic_enabled: apic_base & APIC_GLOBAL_ENABLE != 0,
    });
    [gprs.rax, gprs.rbx, gprs.rcx, gprs.rdx] = registers.map(u64::from);
}

/// Bits 31:0 of a register.
#[expect(clippy::cast_possible_truncation, reason = "the instruction uses EAX and ECX, the low half of RAX and RCX")]
pub(super) const fn low_half(register: u64) -> u32 {
    register as u32
}
