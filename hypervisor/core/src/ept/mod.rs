//! Extended page tables: from guest-physical to host-physical addresses.
//!
//! [`Ept`] knows the format and the rules; the tables themselves are host frames, reached through [`TableMemory`], which
//! on the machine is the physical memory and in a test a map. Every change says which [`Invalidation`] it asks for.
//! Tables are freed by [`Ept::destroy`] alone, when no CPU uses them any more: a table freed earlier could still be
//! in a CPU's paging-structure caches. Who populates pages, and with which frames, is decided elsewhere.

mod change;
mod entry;
mod tables;
#[cfg(test)]
mod tests;

pub use change::{AccessedDirty, Invalidation, MapError, Unmapped};
pub use entry::{Access, ENTRIES_PER_TABLE, MemoryType, PageSize, Translation};
pub use tables::TableMemory;

use crate::memory::{Frame, GuestPhysAddr, HostPhysAddr, OutOfFrames, PAGE_SIZE};
use entry::EptEntry;
use tables::NewTables;

/// What the CPU's EPT can do, as IA32_VMX_EPT_VPID_CAP says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EptFeatures {
    /// Bit 16: an EPT PDE can map a 2 MiB page.
    pub pages_2m: bool,
    /// Bit 17: an EPT PDPTE can map a 1 GiB page.
    pub pages_1g: bool,
    /// Bit 21: accessed and dirty flags.
    pub accessed_dirty: bool,
}

/// A hierarchy of EPT paging structures, of four levels.
#[derive(Debug)]
pub struct Ept {
    root: Frame,
    features: EptFeatures,
}

/// The level of the root structure, the EPT PML4.
const ROOT_LEVEL: u32 = 4;

/// The place where a walk ended: an entry that is not present, maps a page, or is at the level asked for.
struct Place {
    table: Frame,
    index: usize,
    level: u32,
    entry: EptEntry,
}

impl Ept {
    /// An EPT that maps nothing.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for the root.
    pub fn new(memory: &mut impl TableMemory, features: EptFeatures) -> Result<Self, OutOfFrames> {
        Ok(Self { root: memory.alloc_table()?, features })
    }

    /// The frame of the root structure.
    #[must_use]
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// What the CPU's EPT can do.
    #[must_use]
    pub const fn features(&self) -> EptFeatures {
        self.features
    }

    /// The extended-page-table pointer (SDM volume 3, "Extended-Page-Table Pointer (EPTP)"): structures in WB memory,
    /// page-walk length 4, accessed and dirty flags where the CPU has them.
    #[must_use]
    pub const fn eptp(&self) -> u64 {
        let accessed_dirty = if self.features.accessed_dirty { 1 << 6 } else { 0 };
        let walk_length_minus_1 = (ROOT_LEVEL as u64 - 1) << 3;
        self.root.base().0 | accessed_dirty | walk_length_minus_1 | MemoryType::WriteBack as u64
    }

    /// The largest page size that the CPU has, not above `size`.
    #[must_use]
    pub const fn supported_size(&self, size: PageSize) -> PageSize {
        match size {
            PageSize::Size1G if self.features.pages_1g => PageSize::Size1G,
            PageSize::Size1G | PageSize::Size2M if self.features.pages_2m => PageSize::Size2M,
            _ => PageSize::Size4K,
        }
    }

    /// Maps one page. All tables it takes are allocated before the first entry is written.
    ///
    /// # Errors
    /// [`MapError`]; the EPT is unchanged then.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: GuestPhysAddr,
        frame: Frame,
        size: PageSize,
        (access, memory_type): (Access, MemoryType),
    ) -> Result<Invalidation, MapError> {
        let aligned = gpa.0.is_multiple_of(size.bytes()) && frame.0.is_multiple_of(size.frames());
        if !aligned || gpa.0 >> entry::GPA_BITS != 0 || !entry::frame_fits(frame) {
            return Err(MapError::BadAddress { gpa, frame, size });
        }
        if self.supported_size(size) != size {
            return Err(MapError::UnsupportedSize { size });
        }
        let place = self.walk(memory, gpa, size.level());
        if place.entry.is_present() {
            return Err(MapError::AlreadyMapped { gpa });
        }
        let tables = NewTables::alloc(memory, place.level - size.level())?;
        let mut child = EptEntry::leaf(frame, size, access, memory_type);
        for (table, level) in tables.iter().zip(size.level()..) {
            memory.write_entry(table, index_at(gpa, level), child.into_bits());
            child = EptEntry::table(table);
        }
        memory.write_entry(place.table, place.index, child.into_bits());
        Ok(Invalidation::None)
    }

    /// Unmaps the page at `gpa`, or, when it is larger than `size`, the part of it of that size that holds `gpa`.
    /// `None` where nothing is mapped.
    ///
    /// # Errors
    /// [`OutOfFrames`] when a page must be split and there is no memory for the tables; nothing was changed.
    pub fn unmap(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: GuestPhysAddr,
        size: PageSize,
    ) -> Result<Option<Unmapped>, OutOfFrames> {
        let _covered_below = self.split(memory, gpa, size)?;
        let Some(place) = self.leaf(memory, gpa) else { return Ok(None) };
        memory.write_entry(place.table, place.index, 0);
        let size = PageSize::of_level(place.level);
        Ok(Some(Unmapped {
            gpa: GuestPhysAddr(gpa.0 & !(size.bytes() - 1)),
            frame: place.entry.frame(),
            size,
            invalidation: Invalidation::SingleContext,
        }))
    }

    /// Splits the page at `gpa` until it is no larger than `size`. Every address translates as before.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no memory for the tables; nothing was changed.
    pub fn split(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: GuestPhysAddr,
        size: PageSize,
    ) -> Result<Invalidation, OutOfFrames> {
        let Some(mut place) = self.leaf(memory, gpa).filter(|place| place.level > size.level()) else {
            return Ok(Invalidation::None);
        };
        // From the top down, so that each new table is whole before it is linked in.
        let tables = NewTables::alloc(memory, place.level - size.level())?;
        for table in tables.iter() {
            let level = place.level - 1;
            let part_size = PageSize::of_level(level);
            for index in 0..ENTRIES_PER_TABLE {
                let frame = Frame(place.entry.frame().0 + index as u64 * part_size.frames());
                let part = EptEntry::leaf(frame, part_size, place.entry.access(), place.entry.memory_type())
                    .with_accessed(place.entry.accessed())
                    .with_dirty(place.entry.dirty());
                memory.write_entry(table, index, part.into_bits());
            }
            memory.write_entry(place.table, place.index, EptEntry::table(table).into_bits());
            place = place_in(memory, table, gpa, level);
        }
        // Without it, the CPU would go on setting no dirty flags in the parts of a page it knows as dirty.
        Ok(Invalidation::SingleContext)
    }

    /// Where `gpa` leads, or `None` where nothing is mapped.
    #[must_use]
    pub fn translate(&self, memory: &impl TableMemory, gpa: GuestPhysAddr) -> Option<Translation> {
        self.leaf(memory, gpa).map(|place| translation(&place, gpa))
    }

    /// Changes what the guest may do with the page at `gpa` (all of it). `None` where nothing is mapped.
    pub fn protect(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: GuestPhysAddr,
        access: Access,
    ) -> Option<Invalidation> {
        let place = self.leaf(memory, gpa)?;
        memory.write_entry(place.table, place.index, place.entry.with_access(access).into_bits());
        Some(if access.includes(place.entry.access()) { Invalidation::None } else { Invalidation::SingleContext })
    }

    /// Reads and clears the accessed and dirty flags of the page at `gpa`. No vCPU of the VM may be running: the CPU could
    /// set a flag between the read and the write. `None` where nothing is mapped.
    pub fn take_accessed_dirty(&mut self, memory: &mut impl TableMemory, gpa: GuestPhysAddr) -> Option<AccessedDirty> {
        let place = self.leaf(memory, gpa)?;
        let (accessed, dirty) = (place.entry.accessed(), place.entry.dirty());
        let invalidation = if accessed || dirty {
            let cleared = place.entry.with_accessed(false).with_dirty(false);
            memory.write_entry(place.table, place.index, cleared.into_bits());
            Invalidation::SingleContext
        } else {
            Invalidation::None
        };
        Some(AccessedDirty { accessed, dirty, invalidation })
    }

    /// Clears the accessed flag of every page; answers how many frames were accessed. vCPUs may run meanwhile: a flag that the CPU
    /// sets between the read and the write is lost, which is one page that is counted later. The CPUs must forget their
    /// translations for the flags to be set again.
    pub fn take_accessed(&mut self, memory: &mut impl TableMemory) -> u64 {
        take_accessed_in(memory, self.root, ROOT_LEVEL)
    }

    /// Calls `visit` with every mapped page, by rising guest-physical address.
    pub fn for_each_leaf(&self, memory: &impl TableMemory, mut visit: impl FnMut(GuestPhysAddr, Translation)) {
        visit_leaves(memory, self.root, ROOT_LEVEL, GuestPhysAddr(0), &mut visit);
    }

    /// Takes everything down: calls `release` with every page that was mapped, and frees every table. The caller has
    /// invalidated every CPU's translations of this EPT, or does so before it uses any of the frames again.
    pub fn destroy<M: TableMemory>(self, memory: &mut M, mut release: impl FnMut(&mut M, Frame, PageSize)) {
        destroy_table(memory, self.root, ROOT_LEVEL, &mut release);
    }

    /// Walks towards `gpa`, at most down to `level`.
    fn walk(&self, memory: &impl TableMemory, gpa: GuestPhysAddr, level: u32) -> Place {
        let mut place = place_in(memory, self.root, gpa, ROOT_LEVEL);
        while place.level > level && place.entry.is_present() && !place.entry.is_leaf(place.level) {
            place = place_in(memory, place.entry.frame(), gpa, place.level - 1);
        }
        place
    }

    /// The entry that maps `gpa`.
    fn leaf(&self, memory: &impl TableMemory, gpa: GuestPhysAddr) -> Option<Place> {
        if gpa.0 >> entry::GPA_BITS != 0 {
            return None;
        }
        let place = self.walk(memory, gpa, PageSize::Size4K.level());
        place.entry.is_present().then_some(place)
    }
}

fn place_in(memory: &impl TableMemory, table: Frame, gpa: GuestPhysAddr, level: u32) -> Place {
    let index = index_at(gpa, level);
    Place { table, index, level, entry: EptEntry::from_bits(memory.read_entry(table, index)) }
}

/// The 9 bits of the address that select an entry at this level (1 to 4).
#[expect(clippy::cast_possible_truncation, reason = "the value is below 512")]
fn index_at(gpa: GuestPhysAddr, level: u32) -> usize {
    ((gpa.0 >> shift_of(level)) % ENTRIES_PER_TABLE as u64) as usize
}

/// The number of address bits below the ones that select an entry at this level.
const fn shift_of(level: u32) -> u32 {
    PAGE_SIZE.ilog2() + 9 * (level - 1)
}

fn translation(place: &Place, gpa: GuestPhysAddr) -> Translation {
    let size = PageSize::of_level(place.level);
    let frame = place.entry.frame();
    Translation {
        hpa: HostPhysAddr(frame.base().0 | (gpa.0 & (size.bytes() - 1))),
        frame,
        size,
        access: place.entry.access(),
        memory_type: place.entry.memory_type(),
    }
}

/// Recursion as deep as the hierarchy: four levels.
fn visit_leaves<M: TableMemory>(
    memory: &M,
    table: Frame,
    level: u32,
    base: GuestPhysAddr,
    visit: &mut impl FnMut(GuestPhysAddr, Translation),
) {
    for index in 0..ENTRIES_PER_TABLE {
        let gpa = GuestPhysAddr(base.0 | (index as u64) << shift_of(level));
        let place = Place { table, index, level, entry: EptEntry::from_bits(memory.read_entry(table, index)) };
        if !place.entry.is_present() {
            continue;
        }
        if place.entry.is_leaf(level) {
            visit(gpa, translation(&place, gpa));
        } else {
            visit_leaves(memory, place.entry.frame(), level - 1, gpa, visit);
        }
    }
}

fn take_accessed_in(memory: &mut impl TableMemory, table: Frame, level: u32) -> u64 {
    let mut frames = 0;
    for index in 0..ENTRIES_PER_TABLE {
        let entry = EptEntry::from_bits(memory.read_entry(table, index));
        if !entry.is_present() {
            continue;
        }
        if !entry.is_leaf(level) {
            frames += take_accessed_in(memory, entry.frame(), level - 1);
        } else if entry.accessed() {
            memory.write_entry(table, index, entry.with_accessed(false).into_bits());
            frames += PageSize::of_level(level).frames();
        }
    }
    frames
}

fn destroy_table<M: TableMemory>(
    memory: &mut M,
    table: Frame,
    level: u32,
    release: &mut impl FnMut(&mut M, Frame, PageSize),
) {
    for index in 0..ENTRIES_PER_TABLE {
        let entry = EptEntry::from_bits(memory.read_entry(table, index));
        if !entry.is_present() {
            continue;
        }
        if entry.is_leaf(level) {
            release(memory, entry.frame(), PageSize::of_level(level));
        } else {
            destroy_table(memory, entry.frame(), level - 1, release);
        }
    }
    memory.free_table(table);
}
