//! Exits that concern the processor alone: no device, no interrupt controller, no memory, no other CPU. They can be answered
//! between the exit and the next entry, with no lock and no look around: what anybody else sees is a guest that went on.

use super::ExitCounters;
use super::cpuid::{self, low_half};
use super::hypercall;
use crate::vmx::ExitReason;
use crate::x86::msr::spec::{IA32_APIC_BASE, IA32_TSC_DEADLINE, X2APIC_FIRST, X2APIC_RESERVED_LAST};
use crate::x86::{CpuState, Gprs, VcpuState, msr};

/// What the answers are made of.
pub struct Processor<'a> {
    /// The vCPU's VMCS.
    pub state: &'a mut dyn VcpuState,
    /// The general-purpose registers.
    pub gprs: &'a mut Gprs,
    /// The rest of the vCPU's processor.
    pub cpu: &'a CpuState,
    /// IA32_APIC_BASE, as it was when the vCPU last looked around.
    pub apic_base: u64,
    /// The guest's clock, in ticks.
    pub now: u64,
}

/// Answers an exit with this exit-reason field, if it is one that can be answered here; else nothing was changed. RIP is yet to
/// be moved behind the instruction.
#[inline]
pub fn answer(exit_reason: u32, processor: &mut Processor<'_>) -> bool {
    const CPUID: u32 = ExitReason::Cpuid as u32;
    const VMCALL: u32 = ExitReason::Vmcall as u32;
    const RDMSR: u32 = ExitReason::Rdmsr as u32;
    const WBINVD: u32 = ExitReason::Wbinvd as u32;
    let Processor { state, gprs, cpu, apic_base, now } = processor;
    match exit_reason {
        CPUID => {
            cpuid::answer(gprs, cpu, *state, *apic_base);
            true
        }
        RDMSR => {
            let value = match low_half(gprs.rcx) {
                IA32_APIC_BASE => Ok(*apic_base),
                IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_RESERVED_LAST => return false,
                number => msr::read(cpu, *state, number, *now),
            };
            value.map(|value| gprs.set_edx_eax(value)).is_ok()
        }
        VMCALL => hypercall::answer_undefined(gprs, *state),
        WBINVD => true,
        _ => false,
    }
}

/// How many exits were answered so, until the vCPU's [`ExitCounters`] are at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExits {
    reason: u32,
    count: u64,
}

impl LocalExits {
    /// Whether one with this exit-reason field can be counted: those with another one must be handed on first.
    #[inline]
    #[must_use]
    pub const fn can_count(&self, exit_reason: u32) -> bool {
        self.count == 0 || self.reason == exit_reason
    }

    /// Counts one more that can be counted.
    #[inline]
    pub const fn count(&mut self, exit_reason: u32) {
        self.reason = exit_reason;
        self.count += 1;
    }

    /// Hands them on.
    #[inline]
    pub fn hand_on(&mut self, counters: &mut ExitCounters) {
        if self.count != 0 {
            counters.count_exits(self.reason, core::mem::take(&mut self.count));
            counters.missed.progress();
        }
    }
}
