//! What decides the memory type of an access besides the page tables: the MTRRs and the PAT. All CPUs must have the same.
//!
//! Source: Intel SDM volume 3, "Memory Type Range Registers (MTRRs)" and "MTRR Considerations in MP Systems". Firmware sets the
//! MTRRs of all CPUs, or is meant to: what it left different is taken over from the boot CPU.

use super::msr;
use alloc::vec::Vec;
use core::arch::asm;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3};

const MTRRCAP: u32 = 0xfe;
const MTRRCAP_FIXED: u64 = 1 << 8;
const DEF_TYPE: u32 = 0x2ff;
const DEF_TYPE_ENABLE: u64 = 1 << 11;
const PHYSBASE0: u32 = 0x200;
/// IA32_MTRR_FIX64K_00000, FIX16K_80000 and A0000, FIX4K_C0000 to F8000.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// The MTRRs, as (MSR, value) in the order of their numbers, the PAT and IA32_MTRR_DEF_TYPE apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MemoryTypes {
    pat: u64,
    capabilities: u64,
    def_type: u64,
    ranges: Vec<(u32, u64)>,
}

/// What came of giving a CPU another one's memory types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// They were the same.
    Same,
    /// They were not, and now are.
    Changed,
    /// The CPUs have different sets of MTRRs.
    Impossible,
}

impl MemoryTypes {
    /// Those of the CPU that calls.
    pub(crate) fn read() -> Self {
        let has_mtrr = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|features| features.has_mtrr());
        if !has_mtrr {
            return Self { pat: msr::read(msr::PAT), capabilities: 0, def_type: 0, ranges: Vec::new() };
        }
        let capabilities = msr::read(MTRRCAP);
        let variable = 2 * (capabilities & 0xff) as u32;
        let fixed: &[u32] = if capabilities & MTRRCAP_FIXED != 0 { &FIXED } else { &[] };
        let numbers = (PHYSBASE0..PHYSBASE0 + variable).chain(fixed.iter().copied());
        let ranges = numbers.map(|number| (number, msr::read(number))).collect();
        Self { pat: msr::read(msr::PAT), capabilities, def_type: msr::read(DEF_TYPE), ranges }
    }

    /// Gives them to the CPU that calls, which another one read them from.
    pub(crate) fn take(&self) -> Taken {
        let own = Self::read();
        if own == *self {
            return Taken::Same;
        }
        let numbers = |types: &Self| types.ranges.iter().map(|&(number, _)| number).collect::<Vec<_>>();
        if own.capabilities != self.capabilities || numbers(&own) != numbers(self) {
            return Taken::Impossible;
        }
        let cr0 = Cr0::read();
        // SAFETY: the steps of "MemTypeSet" for one CPU: caching off and flushed, MTRRs off, written, on again, flushed, caching
        // on. Memory keeps its content throughout, and the values are those that the boot CPU runs with: the registers are
        // the same ones, with the same capabilities.
        unsafe {
            Cr0::write((cr0 | Cr0Flags::CACHE_DISABLE) - Cr0Flags::NOT_WRITE_THROUGH);
            flush();
            if self.capabilities != 0 {
                msr::write(DEF_TYPE, self.def_type & !DEF_TYPE_ENABLE);
                for &(number, value) in &self.ranges {
                    msr::write(number, value);
                }
                msr::write(DEF_TYPE, self.def_type);
            }
            msr::write(msr::PAT, self.pat);
            flush();
            Cr0::write(cr0);
        }
        Taken::Changed
    }
}

/// Writes the caches back and drops the cached translations.
fn flush() {
    // SAFETY: WBINVD and the same CR3 again change no memory.
    unsafe {
        asm!("wbinvd", options(nostack));
        let (root, flags) = Cr3::read_raw();
        Cr3::write_raw(root, flags);
    }
}
