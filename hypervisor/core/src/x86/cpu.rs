//! [`CpuState`]: what a vCPU's processor holds beside its general registers and its VMCS.

use super::cpuid::{CpuidConfig, CpuidPolicy, HostCpuid};
use super::msr::MsrState;
use bitflags::bitflags;

bitflags! {
    /// What an exit changed that the hardware must be told of before the next VM entry.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct CpuChanges: u8 {
        /// XCR0 is to be loaded with [`CpuState::xcr0`].
        const XCR0 = 1 << 0;
        /// IA32_TSC_AUX is to be loaded with [`CpuState::tsc_aux`].
        const TSC_AUX = 1 << 1;
        /// The VMCS's TSC offset is to become the VM's own offset plus [`CpuState::tsc_adjust`].
        const TSC_OFFSET = 1 << 2;
        /// The vCPU's cached linear translations are to be invalidated (INVVPID, single context).
        const FLUSH_TLB = 1 << 3;
        /// IA32_APIC_BASE changed: the APIC controls and the MSR bitmap may have to follow the APIC's mode.
        const APIC_MODE = 1 << 4;
    }
}

/// XCR0 after reset: x87 state only.
const XCR0_RESET: u64 = 1;

/// A vCPU's processor state that is neither in its VMCS nor among its general registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuState {
    /// What CPUID says.
    pub cpuid: CpuidPolicy,
    /// The MSRs that Lamina keeps.
    pub msrs: MsrState,
    xcr0: u64,
    tsc_adjust: u64,
    tsc_aux: u32,
    changes: CpuChanges,
}

impl CpuState {
    /// A vCPU as after power-up, on the host whose CPUID `host` answers. `microcode` is what the guest shall read as
    /// its microcode's revision (the host's, or 0).
    #[must_use]
    pub fn new(host: HostCpuid<'_>, config: CpuidConfig, microcode: u32) -> Self {
        let cpuid = CpuidPolicy::new(host, config);
        let msrs = MsrState::new(config.tsc_hz, microcode, cpuid.physical_bits());
        let mut cpu = Self { cpuid, msrs, xcr0: 0, tsc_adjust: 0, tsc_aux: 0, changes: CpuChanges::empty() };
        cpu.reset();
        cpu
    }

    /// Back to the state after power-up. All of it is to be loaded anew.
    pub fn reset(&mut self) {
        self.msrs.reset();
        self.xcr0 = XCR0_RESET;
        self.tsc_adjust = 0;
        self.tsc_aux = 0;
        self.changes = CpuChanges::all();
    }

    /// XCR0: to be in the CPU's XCR0 while the guest runs.
    #[must_use]
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// What the guest has added to its TSC, by writing IA32_TSC or IA32_TSC_ADJUST: the TSC it reads is `now` (the
    /// guest clock) plus this, wrapping.
    #[must_use]
    pub const fn tsc_adjust(&self) -> u64 {
        self.tsc_adjust
    }

    /// IA32_TSC_AUX: to be in the CPU's MSR while the guest runs, if the guest has RDTSCP.
    #[must_use]
    pub const fn tsc_aux(&self) -> u32 {
        self.tsc_aux
    }

    /// What changed since the last call. Asked after each exit.
    #[must_use]
    pub fn take_changes(&mut self) -> CpuChanges {
        core::mem::take(&mut self.changes)
    }

    /// XSETBV with ECX = 0.
    ///
    /// # Errors
    /// `None`, for #GP(0): "an attempt to set a bit that is reserved in XCR0, to clear bit 0, or to set XCR0[2:1] to
    /// 10b".
    pub fn set_xcr0(&mut self, value: u64) -> Option<()> {
        let x87 = value & 0b1 != 0;
        let avx_without_sse = value & 0b110 == 0b100;
        if !x87 || avx_without_sse || value & !self.cpuid.xcr0_allowed() != 0 {
            return None;
        }
        self.xcr0 = value;
        self.changes |= CpuChanges::XCR0;
        Some(())
    }

    /// Sets what the guest adds to its clock.
    pub fn set_tsc_adjust(&mut self, value: u64) {
        self.tsc_adjust = value;
        self.changes |= CpuChanges::TSC_OFFSET;
    }

    /// Sets IA32_TSC_AUX.
    pub fn set_tsc_aux(&mut self, value: u32) {
        self.tsc_aux = value;
        self.changes |= CpuChanges::TSC_AUX;
    }

    /// Notes that the vCPU's cached translations must go.
    pub fn flush_tlb(&mut self) {
        self.changes |= CpuChanges::FLUSH_TLB;
    }

    /// Notes that IA32_APIC_BASE changed.
    pub fn apic_mode_changed(&mut self) {
        self.changes |= CpuChanges::APIC_MODE;
    }
}
