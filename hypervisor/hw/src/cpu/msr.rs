//! Model-specific registers that the hypervisor itself uses (SDM volume 4).

use x86_64::registers::model_specific::Msr;

/// IA32_EFER.
pub(crate) const EFER: u32 = 0xc000_0080;
/// IA32_EFER.NXE.
pub(crate) const EFER_NXE: u64 = 1 << 11;
/// IA32_PAT.
pub(crate) const PAT: u32 = 0x277;
/// IA32_SYSENTER_CS.
pub(crate) const SYSENTER_CS: u32 = 0x174;
/// IA32_FS_BASE.
pub(crate) const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub(crate) const GS_BASE: u32 = 0xc000_0101;
/// IA32_FEATURE_CONTROL.
pub(crate) const FEATURE_CONTROL: u32 = 0x3a;
/// IA32_TSC_DEADLINE.
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// Reads an MSR. Only for MSRs that the CPU is known to have: an unknown one is a #GP, which is our bug.
pub(crate) fn read(msr: u32) -> u64 {
    // SAFETY: reading an MSR changes nothing in memory; the callers name architectural MSRs whose presence they checked.
    unsafe { Msr::new(msr).read() }
}

/// Writes an MSR.
///
/// # Safety
/// The value must keep the hypervisor's own memory, descriptor tables and control flow valid.
pub(crate) unsafe fn write(msr: u32, value: u64) {
    // SAFETY: forwarded to the caller.
    unsafe { Msr::new(msr).write(value) }
}

/// Sets IA32_EFER.NXE, without which the no-execute bits of the hypervisor's page tables are reserved bits.
pub(crate) fn write_efer_nxe() {
    let efer = read(EFER);
    // SAFETY: NXE only gives the XD bit of page-table entries its meaning; everything else stays as it was.
    unsafe { write(EFER, efer | EFER_NXE) };
}
