//! [`EntryState`]: every register of a vCPU at its first instruction.

use crate::memory::GuestPhysAddr;
use crate::x86::{DescriptorTable, Gprs, SegmentState, Segments};

/// Selector of the flat code segment in the boot GDT; the number is Linux's `__BOOT_CS`.
pub(super) const BOOT_CS: u16 = 0x10;
/// Selector of the flat data segment in the boot GDT; the number is Linux's `__BOOT_DS`.
pub(super) const BOOT_DS: u16 = 0x18;
/// Selector of the TSS in the boot GDT.
pub(super) const BOOT_TSS: u16 = 0x20;

/// CR0.PE.
const CR0_PE: u64 = 1 << 0;
/// CR0.ET: fixed to 1 in every processor of today.
const CR0_ET: u64 = 1 << 4;
/// CR0.PG.
const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
const CR4_PAE: u64 = 1 << 5;
/// IA32_EFER.LME and IA32_EFER.LMA.
const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);
/// RFLAGS bit 1 is always 1; IF, DF, TF and VM are clear.
const RFLAGS_FIXED: u64 = 1 << 1;

/// The complete architectural state of a vCPU before its first instruction, as plain values. DR7 is 0x400 and every
/// MSR has its reset value in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub struct EntryState {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub gprs: Gprs,
    pub segments: Segments,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
}

impl EntryState {
    /// The state after power-up or RESET: Intel SDM, "Processor State After Reset". EDX has the family of a P6 and no
    /// model: who wants the real signature there sets `gprs.rdx` to CPUID.01H:EAX.
    #[must_use]
    pub fn reset() -> Self {
        Self {
            cr0: 0x6000_0010,
            cr3: 0,
            cr4: 0,
            efer: 0,
            rip: 0xfff0,
            rsp: 0,
            rflags: RFLAGS_FIXED,
            gprs: Gprs { rdx: 0x600, ..Gprs::default() },
            segments: Segments::after_reset(),
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
        }
    }

    /// The state in which an application processor starts at a start-up IPI with `vector`: after INIT, at
    /// CS:IP = `vector` * 0x100 : 0. INIT leaves CR0.CD and CR0.NW as they are; firmware has cleared them by then.
    #[must_use]
    pub fn startup_ipi(vector: u8) -> Self {
        let mut state = Self::reset();
        state.cr0 = CR0_ET;
        state.rip = 0;
        state.segments.cs = SegmentState::code16(u16::from(vector) << 8);
        state
    }

    /// Real-address mode at `selector`:`offset`, with all data segments at `selector` too and the interrupt vector
    /// table at 0.
    #[must_use]
    pub fn real_mode(selector: u16, offset: u16) -> Self {
        let mut state = Self::reset();
        state.cr0 = CR0_ET;
        state.rip = u64::from(offset);
        let data = SegmentState::data16(selector);
        let Segments { ldtr, tr, .. } = state.segments;
        state.segments = Segments { ldtr, ..Segments::new(SegmentState::code16(selector), data, tr) };
        state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        state
    }

    /// 32-bit protected mode, paging off, flat segments of 4 GiB, interrupts off, at `entry`; `gdtr` is the boot GDT.
    #[must_use]
    pub fn protected_mode(entry: u32, gdtr: DescriptorTable) -> Self {
        Self {
            cr0: CR0_ET | CR0_PE,
            rip: u64::from(entry),
            gprs: Gprs::default(),
            segments: Segments::new(
                SegmentState::code32(BOOT_CS),
                SegmentState::data32(BOOT_DS),
                SegmentState::tss(BOOT_TSS, 0),
            ),
            gdtr,
            idtr: DescriptorTable { base: 0, limit: 0 },
            ..Self::reset()
        }
    }

    /// 64-bit mode, flat segments, interrupts off, at `entry`, with the page tables at `cr3`; `gdtr` is the boot GDT.
    #[must_use]
    pub fn long_mode(entry: u64, cr3: GuestPhysAddr, gdtr: DescriptorTable) -> Self {
        let mut state = Self::protected_mode(0, gdtr);
        state.cr0 |= CR0_PG;
        state.cr3 = cr3.0;
        state.cr4 = CR4_PAE;
        state.efer = EFER_LME_LMA;
        state.rip = entry;
        state.segments.cs = SegmentState::code64(BOOT_CS);
        state
    }
}
