//! A guest's RAM: its EPT and the frames behind it.
//!
//! Pages are backed on the first touch, with scrubbed frames. Where a page goes is decided in `lamina-core` ([`Ept`]); before
//! an entry is written here, the table of owners must say that the table and every frame that it would show to the guest
//! belong to this VM. So no error of the core can give a guest a frame that is not its own.

use super::frames::{alloc_zeroed, free, with_frames};
use super::window::{copy_words, ptr_to};
use super::{HostFrame, OutOfFrames, Owner};
use crate::vmx::invalidate_ept;
use core::sync::atomic::{AtomicU64, Ordering};
use lamina_core::ept::{Access, Ept, EptFeatures, MapError, MemoryType, PageSize, TableMemory};
use lamina_core::loader::RamLayout;
use lamina_core::memory::{
    Frame, FrameAllocator, FrameKind, GuestMemory, GuestPhysAddr, HostPhysAddr, MemoryError, PAGE_SIZE,
};
use thiserror::Error;

/// Guest-physical address of the local APIC's registers.
const LOCAL_APIC_BASE: GuestPhysAddr = GuestPhysAddr(0xfee0_0000);

/// Why a page was not backed with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PopulateError {
    /// The address is not RAM of this guest.
    #[error("guest-physical {0} is not RAM of this VM")]
    OutsideRam(GuestPhysAddr),
    /// The host's memory is used up.
    #[error("host memory is used up: {0}")]
    OutOfFrames(OutOfFrames),
}

/// Tells a [`GuestRam`] from every other one, past ones too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RamId(u64);

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The RAM of one VM. Dropping it takes the EPT down and gives every frame back.
#[derive(Debug)]
pub struct GuestRam {
    id: RamId,
    /// What the CPU takes for the local APIC's registers where it virtualises accesses to them. The guest never reaches its
    /// content.
    apic_access: HostFrame,
    tables: Tables,
    layout: RamLayout,
    ept: Option<Ept>,
    largest_page: PageSize,
}

/// The VM's EPT paging structures in host memory.
#[derive(Clone, Copy, Debug)]
struct Tables {
    slot: u16,
    apic_access: Frame,
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

impl GuestRam {
    /// RAM of this layout for the VM in `slot`, with nothing backed yet. `largest_page` is what a first touch backs at most.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for the EPT's root.
    pub fn new(
        slot: u16,
        layout: RamLayout,
        features: EptFeatures,
        largest_page: PageSize,
    ) -> Result<Self, OutOfFrames> {
        let apic_access = HostFrame::new(Owner::vm(slot, FrameKind::Vcpu))?;
        let mut tables = Tables { slot, apic_access: Frame::containing(apic_access.address()) };
        let ept = Ept::new(&mut tables, features)?;
        let largest_page = ept.supported_size(largest_page);
        let id = RamId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Ok(Self { id, apic_access, tables, layout, ept: Some(ept), largest_page })
    }

    /// Tells this RAM from every other one.
    pub(crate) const fn id(&self) -> RamId {
        self.id
    }

    /// The APIC-access page's address, for the VMCS.
    pub(crate) fn apic_access_page(&self) -> HostPhysAddr {
        self.apic_access.address()
    }

    /// Which guest-physical addresses are RAM.
    #[must_use]
    pub const fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// The extended-page-table pointer of this RAM.
    #[must_use]
    pub fn eptp(&self) -> u64 {
        self.ept.as_ref().map_or(0, Ept::eptp)
    }

    /// Backs the page at `gpa` with scrubbed memory: a large page where the whole of it is RAM, none of it is backed yet
    /// and the host has such a run of frames. Does nothing where it is backed already.
    ///
    /// # Errors
    /// [`PopulateError`]; nothing was changed.
    pub fn populate(&mut self, gpa: GuestPhysAddr) -> Result<(), PopulateError> {
        let Some(ept) = self.ept.as_mut().filter(|_| self.layout.is_ram(gpa)) else {
            return Err(PopulateError::OutsideRam(gpa));
        };
        if ept.translate(&self.tables, gpa).is_some() {
            return Ok(());
        }
        let owner = Owner::vm(self.tables.slot, FrameKind::Ram);
        let sizes = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K];
        for size in sizes.into_iter().filter(|size| size.bytes() <= self.largest_page.bytes()) {
            let base = GuestPhysAddr(gpa.0 & !(size.bytes() - 1));
            let smallest = size == PageSize::Size4K;
            if !smallest && !self.layout.contains(base, size.bytes()) {
                continue;
            }
            let frame_count = size.frames() as usize;
            let frame = match alloc_zeroed(frame_count, owner) {
                Ok(frame) => frame,
                Err(error) if smallest => return Err(PopulateError::OutOfFrames(error)),
                Err(_) => continue,
            };
            let rights = (Access::ReadWriteExecute, MemoryType::WriteBack);
            let mapped = ept.map(&mut self.tables, base, frame, size, rights);
            match mapped {
                Ok(_) => return Ok(()),
                Err(error) => {
                    free(frame, frame_count, owner);
                    if let (true, MapError::OutOfFrames(error)) = (smallest, error) {
                        return Err(PopulateError::OutOfFrames(error));
                    }
                }
            }
        }
        Err(PopulateError::OutsideRam(gpa))
    }

    /// Shows the APIC-access page at the local APIC's address, or takes it away: with it, the CPU virtualises accesses there.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for a table.
    pub(crate) fn show_apic_access_page(&mut self, show: bool) -> Result<(), OutOfFrames> {
        let Some(ept) = self.ept.as_mut() else { return Ok(()) };
        let shown = ept.translate(&self.tables, LOCAL_APIC_BASE).is_some();
        if show && !shown {
            let rights = (Access::ReadWrite, MemoryType::WriteBack);
            let frame = self.tables.apic_access;
            let mapped = ept.map(&mut self.tables, LOCAL_APIC_BASE, frame, PageSize::Size4K, rights);
            if let Err(MapError::OutOfFrames(error)) = mapped {
                return Err(error);
            }
        } else if !show && ept.unmap(&mut self.tables, LOCAL_APIC_BASE, PageSize::Size4K)?.is_some() {
            invalidate_ept(ept.eptp());
        }
        Ok(())
    }

    /// The window pointer behind `gpa`, if it is backed.
    fn backing(&self, gpa: GuestPhysAddr) -> Option<*mut u8> {
        let translation = self.ept.as_ref()?.translate(&self.tables, gpa)?;
        ptr_to(translation.hpa, PAGE_SIZE - gpa.page_offset())
    }

    /// Splits `len` bytes from `gpa` on at page boundaries: (start of the part, its offset in the whole, its length).
    fn parts(gpa: GuestPhysAddr, len: usize) -> impl Iterator<Item = (GuestPhysAddr, usize, usize)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let at = GuestPhysAddr(gpa.0 + done as u64);
            let part = ((PAGE_SIZE - at.page_offset()) as usize).min(len - done);
            let offset = done;
            done += part;
            (part > 0).then_some((at, offset, part))
        })
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.layout.contains(gpa, len_bytes) {
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, offset, part) in Self::parts(gpa, bytes.len()) {
            let target = &mut bytes[offset..offset + part];
            match self.backing(at) {
                // SAFETY: the page is this VM's and lies in the window to its end; `target` is ordinary memory of `part` bytes.
                Some(source) => unsafe { copy_words(source, target.as_mut_ptr(), part) },
                None => target.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        let len_bytes = bytes.len() as u64;
        if !self.layout.contains(gpa, len_bytes) {
            return Err(MemoryError::OutsideRam { gpa, len_bytes });
        }
        for (at, _, _) in Self::parts(gpa, bytes.len()) {
            self.populate(at).map_err(|_| MemoryError::OutOfFrames { gpa: at })?;
        }
        for (at, offset, part) in Self::parts(gpa, bytes.len()) {
            if let Some(target) = self.backing(at) {
                // SAFETY: as in `read`, the other way round.
                unsafe { copy_words(bytes[offset..].as_ptr(), target, part) };
            }
        }
        Ok(())
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        let Some(ept) = self.ept.take() else { return };
        // Before any of these frames serves another purpose, no CPU may remember a translation to it.
        invalidate_ept(ept.eptp());
        let owner = Owner::vm(self.tables.slot, FrameKind::Ram);
        ept.destroy(&mut self.tables, |_, frame, size| {
            // The APIC-access page is a `HostFrame`, which frees itself.
            let is_ram = with_frames(|frames| frames.owner_of(frame)) == Some(owner);
            if is_ram {
                free(frame, size.frames() as usize, owner);
            }
        });
    }
}
