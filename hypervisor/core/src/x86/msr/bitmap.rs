//! The MSR bitmap: which RDMSR and WRMSR cause no VM exit.
//!
//! Source: Intel SDM volume 3, "MSR-Bitmap Address": four bitmaps of 1 KiB each, for reads of low MSRs (0 to 0x1FFF),
//! reads of high MSRs (0xC000_0000 to 0xC000_1FFF), writes of low, writes of high. A set bit causes an exit.

use super::spec::*;
use crate::device::lapic::x2apic_read_is_plain;

/// Length of an MSR bitmap in bytes.
pub const MSR_BITMAP_LEN: usize = 4096;
/// Where the two bitmaps for reads begin.
const READS: usize = 0;
/// Where the two bitmaps for writes begin.
const WRITES: usize = MSR_BITMAP_LEN / 2;

/// An MSR that the guest reaches without an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassThrough {
    /// First MSR of the range.
    pub first: u32,
    /// Last MSR of the range.
    pub last: u32,
    /// RDMSR causes no exit.
    pub read: bool,
    /// WRMSR causes no exit.
    pub write: bool,
    /// Why that is safe.
    pub why: &'static str,
}

const fn both(first: u32, last: u32, why: &'static str) -> PassThrough {
    PassThrough { first, last, read: true, write: true, why }
}

const fn read_only(first: u32, last: u32, why: &'static str) -> PassThrough {
    PassThrough { first, last, read: true, write: false, why }
}

/// MSRs passed through in every mode. Those that are not in the VMCS (marked "swapped") must hold the vCPU's value
/// while it runs, and be saved when another vCPU takes the CPU.
pub const PASS_THROUGH: &[PassThrough] = &[
    both(IA32_FS_BASE, IA32_GS_BASE, "in the VMCS: loaded and saved at every entry and exit"),
    both(IA32_KERNEL_GS_BASE, IA32_KERNEL_GS_BASE, "swapped; the CPU refuses an address that is not canonical"),
    both(IA32_STAR, IA32_FMASK, "swapped; used by SYSCALL alone, which the host never executes"),
    both(IA32_SYSENTER_CS, IA32_SYSENTER_EIP, "in the VMCS: loaded and saved at every entry and exit"),
    read_only(IA32_TSC, IA32_TSC, "the CPU applies the TSC offset to RDMSR as to RDTSC"),
];

/// Builds the MSR bitmap. `x2apic_virtualized` is for the times when the guest's APIC is in x2APIC mode *and* the
/// CPU virtualises it.
///
/// Only then: without "virtualize x2APIC mode" an x2APIC MSR that does not exit is the **host's** own.
pub fn build_bitmap(bitmap: &mut [u8; MSR_BITMAP_LEN], x2apic_virtualized: bool) {
    bitmap.fill(0xff);
    for entry in PASS_THROUGH {
        for msr in entry.first..=entry.last {
            if entry.read {
                clear(bitmap, msr, READS);
            }
            if entry.write {
                clear(bitmap, msr, WRITES);
            }
        }
    }
    if x2apic_virtualized {
        for msr in (X2APIC_FIRST..=X2APIC_RESERVED_LAST).filter(|&msr| x2apic_read_is_plain(msr)) {
            clear(bitmap, msr, READS);
        }
        // TPR virtualization, EOI virtualization and self-IPI virtualization; what they leave to do is an exit of its own.
        for msr in [X2APIC_TPR, X2APIC_EOI, X2APIC_SELF_IPI] {
            clear(bitmap, msr, WRITES);
        }
    }
}

/// Clears the bit of `msr` in the half of the bitmap that starts at `half`. An MSR in neither range always exits.
fn clear(bitmap: &mut [u8; MSR_BITMAP_LEN], msr: u32, half: usize) {
    let (quarter, index) = match msr {
        0..=0x1fff => (0, msr),
        0xc000_0000..=0xc000_1fff => (MSR_BITMAP_LEN / 4, msr & 0x1fff),
        _ => return,
    };
    let Ok(byte) = usize::try_from(index / 8) else { return };
    if let Some(byte) = bitmap.get_mut(half + quarter + byte) {
        *byte &= !(1 << (index % 8));
    }
}
