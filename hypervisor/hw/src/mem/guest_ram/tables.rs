//! The tables of a VM's EPT in host memory, and what may be written into them.

use super::super::frames::{alloc_zeroed, free, with_frames};
use super::super::window::ptr_to;
use super::super::{OutOfFrames, Owner};
use lamina_core::ept::TableMemory;
use lamina_core::memory::{Frame, FrameAllocator, FrameKind, PAGE_SIZE};

/// The VM's EPT paging structures in host memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    pub(super) slot: u16,
    pub(super) apic_access: Frame,
}

impl Tables {
    fn entry_ptr(table: Frame, index: usize) -> Option<*mut u64> {
        let start = ptr_to(table.base(), PAGE_SIZE)?;
        // SAFETY: the index is reduced to the 512 entries of the frame, which lies in the window.
        Some(unsafe { start.cast::<u64>().add(index % 512) })
    }

    /// Whether this VM holds `frame_count` frames from `first` on as frames of this kind.
    fn holds(&self, kind: FrameKind, first: Frame, frame_count: u64) -> bool {
        let owner = Owner::vm(self.slot, kind);
        let all = |frames: &mut FrameAllocator| {
            (first.0..first.0 + frame_count).all(|number| frames.owner_of(Frame(number)) == owner)
        };
        with_frames(all).unwrap_or(false)
    }

    /// Whether the CPU may find this entry in a table.
    ///
    /// Bits 7:3 are reserved in an entry that names a table, and our leaves are never all zero there (write-back memory), so
    /// they tell one from the other at every level.
    fn allows(&self, entry: u64) -> bool {
        const PRESENT: u64 = 0b111;
        const FRAME: u64 = 0x000f_ffff_ffff_f000;
        const LEAF_ONLY: u64 = 0b1111_1000;
        const LARGE: u64 = 1 << 7;
        let target = Frame((entry & FRAME) >> 12);
        // The level is not known here, so neither is a large leaf's size beyond 2 MiB: the first 2 MiB are checked.
        // `populate` takes runs whole from the allocator, so they stand for the rest of a 1 GiB run.
        let frame_count = if entry & LARGE != 0 { 512 } else { 1 };
        if entry & PRESENT == 0 {
            true
        } else if entry & LEAF_ONLY == 0 {
            self.holds(FrameKind::Ept, target, 1)
        } else {
            self.holds(FrameKind::Ram, target, frame_count) || frame_count == 1 && target == self.apic_access
        }
    }
}

impl TableMemory for Tables {
    fn alloc_table(&mut self) -> Result<Frame, OutOfFrames> {
        alloc_zeroed(1, Owner::vm(self.slot, FrameKind::Ept))
    }

    fn free_table(&mut self, table: Frame) {
        free(table, 1, Owner::vm(self.slot, FrameKind::Ept));
    }

    fn read_entry(&self, table: Frame, index: usize) -> u64 {
        // SAFETY: the pointer is into the window; an EPT entry may be changed by the CPU (accessed and dirty flags), hence volatile.
        Self::entry_ptr(table, index).map_or(0, |entry| unsafe { entry.read_volatile() })
    }

    fn write_entry(&mut self, table: Frame, index: usize, value: u64) {
        let allowed = self.holds(FrameKind::Ept, table, 1) && self.allows(value);
        let Some(entry) = Self::entry_ptr(table, index).filter(|_| allowed) else {
            panic!("EPT entry {index} of table {table:?} := {value:#x} refused: not a frame of VM slot {}", self.slot);
        };
        // SAFETY: the entry is in a table of this VM, and what it shows to the guest is this VM's too.
        unsafe { entry.write_volatile(value) };
    }
}
