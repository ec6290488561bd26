//! The MSR policy: which MSRs a guest reaches without an exit, which Lamina keeps, and which do not exist.
//!
//! [`PASS_THROUGH`] and [`build_bitmap`] are the first kind, [`MsrState`] (with [`CpuState`]) the second; the local
//! APIC's MSRs are in `crate::device::lapic`. [`StealTime`] is KVM's, for guests that can use it. Every other MSR answers #GP, as on a CPU that does not have it: CPUID
//! hides what would promise it.

mod bitmap;
mod mtrr;
pub mod spec;
mod steal_time;
#[cfg(test)]
mod tests;

pub use bitmap::{MSR_BITMAP_LEN, PASS_THROUGH, PassThrough, build_bitmap};
pub use steal_time::StealTime;

use super::{CpuState, VcpuState};
use crate::vmx::GuestField;
use mtrr::Mtrrs;
use spec::*;

/// Why an RDMSR or WRMSR does not complete. The guest gets #GP(0) for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrFault {
    /// No such MSR in this machine.
    Unknown,
    /// The MSR is there, but not for this access: read-only, or a value with reserved bits.
    Refused,
}

/// The MSRs that are neither in the VMCS nor in the local APIC, nor swapped with the vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsrState {
    mtrrs: Mtrrs,
    misc_enable: u64,
    microcode: u32,
    platform_info: u64,
    /// What the guest is told of the time that its vCPU was kept from running.
    pub steal_time: StealTime,
}

impl MsrState {
    /// The MSRs of a vCPU with a TSC of `tsc_hz`, `physical_bits` of physical address and microcode of that revision.
    #[must_use]
    pub(super) fn new(tsc_hz: u64, microcode: u32, physical_bits: u8) -> Self {
        let ratio = (tsc_hz / 100_000_000).min(0xff);
        Self {
            mtrrs: Mtrrs::new(physical_bits),
            misc_enable: 0,
            microcode,
            platform_info: ratio << 8,
            steal_time: StealTime::default(),
        }
        .with_reset()
    }

    fn with_reset(mut self) -> Self {
        self.reset();
        self
    }

    /// As firmware leaves them after power-up.
    pub(super) fn reset(&mut self) {
        self.mtrrs.reset();
        self.steal_time.reset();
        self.misc_enable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_NO_BTS_NO_PEBS;
    }
}

/// RDMSR of an MSR outside the local APIC. `now` is the guest's clock.
///
/// # Errors
/// [`MsrFault`], for #GP(0).
pub fn read(cpu: &CpuState, state: &dyn VcpuState, msr: u32, now: u64) -> Result<u64, MsrFault> {
    Ok(match msr {
        IA32_TSC => now.wrapping_add(cpu.tsc_adjust()),
        IA32_TSC_ADJUST => cpu.tsc_adjust(),
        IA32_EFER => state.read(GuestField::Ia32Efer),
        IA32_PAT => state.read(GuestField::Ia32Pat),
        IA32_MISC_ENABLE => cpu.msrs.misc_enable,
        IA32_BIOS_SIGN_ID => u64::from(cpu.msrs.microcode) << 32,
        IA32_FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
        IA32_PLATFORM_ID => 0,
        MSR_PLATFORM_INFO => cpu.msrs.platform_info,
        IA32_MTRRCAP => MTRRCAP,
        // Machine-check architecture with no bank: there is nothing to report.
        IA32_MCG_CAP | IA32_MCG_STATUS => 0,
        IA32_DEBUGCTL => state.read(GuestField::Ia32Debugctl),
        IA32_TSC_AUX if cpu.cpuid.has_rdtscp() => u64::from(cpu.tsc_aux()),
        MSR_KVM_STEAL_TIME if cpu.cpuid.has_steal_time() => cpu.msrs.steal_time.msr(),
        // KVM's clock, which is not offered: it is always off.
        MSR_KVM_SYSTEM_TIME if cpu.cpuid.has_steal_time() => 0,
        _ => return cpu.msrs.mtrrs.read(msr).ok_or(MsrFault::Unknown),
    })
}

/// WRMSR of an MSR outside the local APIC.
///
/// # Errors
/// [`MsrFault`], for #GP(0), with nothing changed.
pub fn write(cpu: &mut CpuState, state: &mut dyn VcpuState, msr: u32, value: u64, now: u64) -> Result<(), MsrFault> {
    match msr {
        // "If an execution of WRMSR to the IA32_TIME_STAMP_COUNTER MSR adds (or subtracts) value X from the TSC, the
        // logical processor also adds (or subtracts) value X from the IA32_TSC_ADJUST MSR."
        IA32_TSC => cpu.set_tsc_adjust(value.wrapping_sub(now)),
        IA32_TSC_ADJUST => cpu.set_tsc_adjust(value),
        IA32_EFER => write_efer(state, value)?,
        IA32_PAT => {
            permit(value.to_le_bytes().into_iter().all(is_pat_type))?;
            state.write(GuestField::Ia32Pat, value);
        }
        IA32_MISC_ENABLE => {
            let known = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_NO_BTS_NO_PEBS | MISC_ENABLE_IGNORED;
            permit(value & !known == 0)?;
            cpu.msrs.misc_enable = value & MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_NO_BTS_NO_PEBS;
        }
        // A guest writes 0 before it asks for the revision by CPUID; updates are the host's business.
        IA32_BIOS_SIGN_ID | IA32_BIOS_UPDT_TRIG => {}
        // "Writing values other than 0 to IA32_MCG_STATUS causes a general-protection exception": software clears it.
        IA32_MCG_STATUS => permit(value == 0)?,
        IA32_DEBUGCTL => {
            permit(value & !(DEBUGCTL_LBR | DEBUGCTL_BTF) == 0)?;
            // There are no last-branch records, so recording cannot be switched on.
            state.write(GuestField::Ia32Debugctl, value & DEBUGCTL_BTF);
        }
        IA32_TSC_AUX if cpu.cpuid.has_rdtscp() => {
            cpu.set_tsc_aux(u32::try_from(value).map_err(|_| MsrFault::Refused)?);
        }
        MSR_KVM_STEAL_TIME if cpu.cpuid.has_steal_time() => cpu.msrs.steal_time.set_msr(value)?,
        // Linux before 6.8 switches KVM's clock off when it ends or takes a CPU offline, whether it was offered or not.
        MSR_KVM_SYSTEM_TIME if cpu.cpuid.has_steal_time() => permit(value == 0)?,
        IA32_PLATFORM_ID | IA32_FEATURE_CONTROL | MSR_PLATFORM_INFO | IA32_MTRRCAP | IA32_MCG_CAP => {
            return Err(MsrFault::Refused);
        }
        _ => return cpu.msrs.mtrrs.write(msr, value),
    }
    Ok(())
}

fn write_efer(state: &mut dyn VcpuState, value: u64) -> Result<(), MsrFault> {
    use crate::x86::control::cr0;
    let old = state.read(GuestField::Ia32Efer);
    permit(value & !(efer::SCE | efer::LME | efer::LMA | efer::NXE) == 0)?;
    // "Attempts to change IA32_EFER.LME while paging is enabled cause #GP."
    permit((old ^ value) & efer::LME == 0 || state.cr0() & cr0::PG == 0)?;
    state.write(GuestField::Ia32Efer, value & !efer::LMA | old & efer::LMA);
    Ok(())
}

/// Memory types a PAT entry may hold: UC, WC, WT, WP, WB, UC-.
const fn is_pat_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4..=7)
}

const fn permit(allowed: bool) -> Result<(), MsrFault> {
    if allowed { Ok(()) } else { Err(MsrFault::Refused) }
}
