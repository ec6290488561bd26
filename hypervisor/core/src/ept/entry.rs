//! An entry of an EPT paging structure, and the values that go into it.
//!
//! Source: Intel SDM volume 3, "The Extended Page Table Mechanism", "EPT Translation Mechanism".

use crate::memory::{Frame, HostPhysAddr, PAGE_SIZE};
use bitfield_struct::bitfield;
use core::fmt;

/// Entries in an EPT paging structure.
pub const ENTRIES_PER_TABLE: usize = 512;
/// Guest-physical address bits that a 4-level EPT translates.
pub(super) const GPA_BITS: u32 = 48;

/// One entry, of any level. Bits that the CPU ignores in all of them are left out.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct EptEntry {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
    /// Leaf only: the memory type, numbered as in the PAT.
    #[bits(3)]
    pub(super) memory_type_bits: u8,
    /// Leaf only: the memory type above holds whatever the guest's PAT says.
    pub(super) ignore_pat: bool,
    /// Levels 2 and 3: the entry maps a page. At level 1 every present entry does, and the bit is ignored.
    pub(super) maps_page: bool,
    pub(super) accessed: bool,
    /// Leaf only.
    pub(super) dirty: bool,
    #[bits(2)]
    __: u8,
    #[bits(40)]
    pub(super) frame_number: u64,
    #[bits(12)]
    __: u16,
}

impl EptEntry {
    /// "An EPT paging-structure entry is present if any of bits 2:0 is 1."
    pub(super) const fn is_present(self) -> bool {
        self.read() || self.write() || self.execute()
    }

    /// Whether this present entry of a structure at `level` maps a page, rather than naming the next structure.
    pub(super) const fn is_leaf(self, level: u32) -> bool {
        level == PageSize::Size4K.level() || self.maps_page()
    }

    pub(super) const fn frame(self) -> Frame {
        Frame(self.frame_number())
    }

    /// An entry that names the next structure. Rights are decided by the leaf alone.
    pub(super) const fn table(frame: Frame) -> Self {
        Self::new().with_read(true).with_write(true).with_execute(true).with_frame_number(frame.0 & FRAME_MASK)
    }

    pub(super) const fn leaf(frame: Frame, size: PageSize, access: Access, memory_type: MemoryType) -> Self {
        Self::new()
            .with_memory_type_bits(memory_type as u8)
            .with_maps_page(!matches!(size, PageSize::Size4K))
            .with_frame_number(frame.0 & FRAME_MASK)
            .with_access(access)
    }

    pub(super) const fn with_access(self, access: Access) -> Self {
        self.with_read(true).with_write(access.is_writable()).with_execute(access.is_executable())
    }

    /// The rights of a leaf made by [`EptEntry::leaf`], which is always readable.
    pub(super) const fn access(self) -> Access {
        match (self.write(), self.execute()) {
            (false, false) => Access::Read,
            (true, false) => Access::ReadWrite,
            (false, true) => Access::ReadExecute,
            (true, true) => Access::ReadWriteExecute,
        }
    }

    pub(super) const fn memory_type(self) -> MemoryType {
        match self.memory_type_bits() {
            1 => MemoryType::WriteCombining,
            4 => MemoryType::WriteThrough,
            5 => MemoryType::WriteProtected,
            6 => MemoryType::WriteBack,
            _ => MemoryType::Uncacheable,
        }
    }
}

const FRAME_MASK: u64 = (1 << 40) - 1;

/// Whether an entry can hold this frame's number (host-physical addresses have at most 52 bits).
pub(super) const fn frame_fits(frame: Frame) -> bool {
    frame.0 <= FRAME_MASK
}

/// What the guest may do with a page. Only what no CPU takes for an EPT misconfiguration: writable implies readable
/// ("bit 0 clear and bit 1 set" is one), and execute-only pages are optional.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    ReadWrite,
    ReadExecute,
    ReadWriteExecute,
}

impl Access {
    /// Whether data writes are allowed.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::ReadWrite | Self::ReadWriteExecute)
    }

    /// Whether instruction fetches are allowed.
    #[must_use]
    pub const fn is_executable(self) -> bool {
        matches!(self, Self::ReadExecute | Self::ReadWriteExecute)
    }

    /// Whether everything that `other` allows is allowed here too.
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        (self.is_writable() || !other.is_writable()) && (self.is_executable() || !other.is_executable())
    }
}

/// The memory type of a page, numbered as in IA32_PAT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB: RAM.
    WriteBack = 6,
}

/// The size of a page. Ordered by size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB, mapped by an EPT PTE.
    Size4K,
    /// 2 MiB, mapped by an EPT PDE.
    Size2M,
    /// 1 GiB, mapped by an EPT PDPTE.
    Size1G,
}

impl PageSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// The level of the structure whose entries map pages of this size: 1, 2 or 3.
    pub(super) const fn level(self) -> u32 {
        match self {
            Self::Size4K => 1,
            Self::Size2M => 2,
            Self::Size1G => 3,
        }
    }

    /// The size that an entry at `level` maps. Level 4 maps none; `map` writes no leaf there.
    pub(super) const fn of_level(level: u32) -> Self {
        match level {
            1 => Self::Size4K,
            2 => Self::Size2M,
            _ => Self::Size1G,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.frames() * PAGE_SIZE
    }

    /// Length in 4 KiB frames.
    #[must_use]
    pub const fn frames(self) -> u64 {
        match self {
            Self::Size4K => 1,
            Self::Size2M => 512,
            Self::Size1G => 512 * 512,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4 KiB",
            Self::Size2M => "2 MiB",
            Self::Size1G => "1 GiB",
        })
    }
}

/// Where a guest-physical address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The host-physical address behind the guest-physical one.
    pub hpa: HostPhysAddr,
    /// The first frame of the page.
    pub frame: Frame,
    /// The size of the page.
    pub size: PageSize,
    /// What the guest may do with it.
    pub access: Access,
    /// Its memory type.
    pub memory_type: MemoryType,
}
