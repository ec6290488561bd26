//! Segment and descriptor-table registers with their hidden parts, as the VMCS keeps them.

/// A segment register: selector, and the descriptor cache behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, after scaling by the granularity bit.
    pub limit: u32,
    /// Access rights in the VMCS's format: Intel SDM, "Guest Register State", table "Format of Access Rights".
    pub access_rights: u32,
}

/// "Segment unusable" (bit 16 of the access rights).
const UNUSABLE: u32 = 1 << 16;
/// G, D/B, P, S and type "execute/read, accessed": a 32-bit code segment in 4 KiB units.
const CODE32: u32 = 0xc09b;
/// G, L, P, S and type "execute/read, accessed".
const CODE64: u32 = 0xa09b;
/// G, D/B, P, S and type "read/write, accessed".
const DATA32: u32 = 0xc093;
/// P, S and type "execute/read, accessed", byte units, 16-bit.
const CODE16: u32 = 0x009b;
/// P, S and type "read/write, accessed", byte units, 16-bit.
const DATA16: u32 = 0x0093;
/// P and type "LDT".
const LDT: u32 = 0x0082;
/// P and type "32-bit busy TSS", which in IA-32e mode is the 64-bit busy TSS. VM entry allows no other for TR there.
const BUSY_TSS: u32 = 0x008b;
/// The limit of a 32- or 64-bit TSS without an I/O permission bitmap.
const TSS_LIMIT: u32 = 0x67;

impl SegmentState {
    /// Code for real-address mode: base is the selector times 16, limit 64 KiB.
    #[must_use]
    pub const fn code16(selector: u16) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, access_rights: CODE16 }
    }

    /// Data for real-address mode: base is the selector times 16, limit 64 KiB.
    #[must_use]
    pub const fn data16(selector: u16) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, access_rights: DATA16 }
    }

    /// Flat 32-bit code: base 0, limit 4 GiB.
    #[must_use]
    pub const fn code32(selector: u16) -> Self {
        Self { selector, base: 0, limit: u32::MAX, access_rights: CODE32 }
    }

    /// Flat 64-bit code.
    #[must_use]
    pub const fn code64(selector: u16) -> Self {
        Self { selector, base: 0, limit: u32::MAX, access_rights: CODE64 }
    }

    /// Flat data for 32-bit and 64-bit code: base 0, limit 4 GiB.
    #[must_use]
    pub const fn data32(selector: u16) -> Self {
        Self { selector, base: 0, limit: u32::MAX, access_rights: DATA32 }
    }

    /// A busy TSS at `base`, as TR must always hold one for a VM entry.
    #[must_use]
    pub const fn tss(selector: u16, base: u64) -> Self {
        Self { selector, base, limit: TSS_LIMIT, access_rights: BUSY_TSS }
    }

    /// A register loaded with a null selector: any use of it faults.
    #[must_use]
    pub const fn unusable() -> Self {
        Self { selector: 0, base: 0, limit: 0, access_rights: UNUSABLE }
    }
}

/// The eight segment registers of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the manual's register names")]
pub struct Segments {
    pub es: SegmentState,
    pub cs: SegmentState,
    pub ss: SegmentState,
    pub ds: SegmentState,
    pub fs: SegmentState,
    pub gs: SegmentState,
    pub ldtr: SegmentState,
    pub tr: SegmentState,
}

impl Segments {
    /// `code` in CS, `data` in the five data registers, no LDT, `tr` in TR.
    #[must_use]
    pub const fn new(code: SegmentState, data: SegmentState, tr: SegmentState) -> Self {
        let ldtr = SegmentState::unusable();
        Self { es: data, cs: code, ss: data, ds: data, fs: data, gs: data, ldtr, tr }
    }

    /// The registers after power-up: Intel SDM, "Processor State After Reset". CS has type "execute/read" where the
    /// manual's table says read/write: every setting of the VM-execution controls accepts it, and no code can tell.
    #[must_use]
    pub const fn after_reset() -> Self {
        let system = SegmentState { selector: 0, base: 0, limit: 0xffff, access_rights: LDT };
        let data = SegmentState::data16(0);
        Self {
            es: data,
            cs: SegmentState { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access_rights: CODE16 },
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ldtr: system,
            tr: SegmentState { access_rights: BUSY_TSS, ..system },
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Its last valid byte, counted from `base`.
    pub limit: u16,
}
