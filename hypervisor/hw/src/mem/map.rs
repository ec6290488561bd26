//! The hypervisor's own linear address space: what the boot loader made of it, and what is added to it.
//!
//! The boot loader maps the kernel's segments by their ELF flags and everything else no-execute; `seal` checks and tightens
//! that once the hypervisor runs.

use super::frames::alloc_zeroed;
use super::window::window;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use lamina_core::memory::{Frame, HostPhysAddr, OutOfFrames, Owner, PAGE_SIZE};
use spin::Mutex;
use thiserror::Error;
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::{
    Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// First linear address of what is added at run time: stacks with guard pages, device registers.
/// The boot loader's dynamic range ends below it (see `boot::CONFIG`).
pub(crate) const RUN_TIME_BASE: u64 = 0xffff_ff00_0000_0000;

static NEXT_PAGE: AtomicU64 = AtomicU64::new(RUN_TIME_BASE);

/// Why something could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MapError {
    /// No frame for a page or a page table.
    #[error("too little memory for the hypervisor's own page tables and stacks: {0}")]
    OutOfFrames(OutOfFrames),
    /// The linear address is taken.
    #[error("linear address {0:#x} is already mapped; the boot loader must leave this range free")]
    Taken(u64),
}

struct TableFrames;

// SAFETY: the frames come from the allocator's table of owners, so each is unused and ours alone; they are zeroed.
unsafe impl x86_64::structures::paging::FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let frame = alloc_zeroed(1, Owner::HOST).ok()?;
        Some(PhysFrame::containing_address(PhysAddr::new(frame.base().0)))
    }
}

/// Who changes the hypervisor's page tables, or walks them, does so alone. Taken before the lock of the frames, never after.
static TABLES: Mutex<()> = Mutex::new(());

/// Runs `f` on the hypervisor's page tables.
pub(super) fn with_tables<T>(f: impl FnOnce(&mut OffsetPageTable<'static>) -> T) -> T {
    let _alone = TABLES.lock();
    let offset = VirtAddr::new(window().offset);
    let (root, _) = Cr3::read();
    let table = (offset + root.start_address().as_u64()).as_mut_ptr::<PageTable>();
    // SAFETY: CR3, the same on all CPUs, points to the kernel's level-4 table, all of physical memory is mapped at the window's
    // offset, and the hypervisor touches its tables through this function alone, under its lock.
    let mut mapper = unsafe { OffsetPageTable::new(&mut *table, offset) };
    f(&mut mapper)
}

/// The entries of the hypervisor's level-4 table.
pub(crate) fn root_entries() -> [u64; 512] {
    with_tables(|tables| {
        let root = tables.level_4_table();
        core::array::from_fn(|index| root[index].addr().as_u64() | root[index].flags().bits())
    })
}

fn map_page(linear: u64, frame: Frame, flags: PageTableFlags) -> Result<(), MapError> {
    let page = Page::<Size4KiB>::containing_address(VirtAddr::new(linear));
    let target = PhysFrame::containing_address(PhysAddr::new(frame.base().0));
    // SAFETY: the linear range is reserved for run-time mappings and handed out once; the frame is the caller's own or a
    // device's registers. What was not present is cached by no CPU, so the others need not be told.
    match with_tables(|tables| unsafe { tables.map_to(page, target, flags, &mut TableFrames) }) {
        Ok(flush) => {
            flush.flush();
            Ok(())
        }
        Err(x86_64::structures::paging::mapper::MapToError::FrameAllocationFailed) => {
            Err(MapError::OutOfFrames(OutOfFrames { requested_frames: 1, free_frames: 0 }))
        }
        Err(_) => Err(MapError::Taken(linear)),
    }
}

/// The guard pages of the stacks that were made, so far.
static GUARDS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// What protects the hypervisor's stacks from growing into something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guards {
    /// The boot CPU's stack, and those that were made since: for the other CPUs, and for NMI, #DF and #MC on each.
    pub stacks: usize,
    /// Those of them below which a page is mapped.
    pub unguarded: usize,
}

/// Looks below every stack. `boot_stack`: an address in the boot CPU's, made by the boot loader with this many bytes.
pub(crate) fn audit_stacks(boot_stack: u64, boot_stack_bytes: u64) -> Guards {
    let mut guards = GUARDS.lock().clone();
    let is_mapped = |linear: u64| with_tables(|tables| tables.translate_addr(VirtAddr::new_truncate(linear)).is_some());
    let page = boot_stack & !(PAGE_SIZE - 1);
    let mut below = (1..=boot_stack_bytes / PAGE_SIZE).map(|pages| page.saturating_sub(pages * PAGE_SIZE));
    // Where none is found, the whole range below is mapped.
    guards.push(below.find(|linear| !is_mapped(*linear)).unwrap_or(page));
    Guards { stacks: guards.len(), unguarded: guards.into_iter().filter(|linear| is_mapped(*linear)).count() }
}

/// The 8 bytes at a linear address of the hypervisor's, if it is mapped to memory there. Takes no lock, for the epitaph of a panic:
/// the tables may be another CPU's to change, but every entry that it finds is one that is or was true.
pub(crate) fn peek(linear: u64) -> Option<u64> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let flag = |entry: u64, flag: PageTableFlags| entry & flag.bits() != 0;
    let linear = VirtAddr::try_new(linear).ok().filter(|linear| linear.is_aligned(8_u64))?.as_u64();
    let (root, _) = Cr3::read();
    let mut target = root.start_address().as_u64();
    for level in (1..=4).rev() {
        let index_shift = 12 + 9 * (level - 1);
        let entry = read_word(target + (linear >> index_shift & 0x1ff) * 8)?;
        if !flag(entry, PageTableFlags::PRESENT) || flag(entry, PageTableFlags::NO_CACHE) {
            return None;
        }
        target = entry & FRAME;
        if level == 1 || level < 4 && flag(entry, PageTableFlags::HUGE_PAGE) {
            let offset_mask = (1 << index_shift) - 1;
            return read_word(target & !offset_mask | linear & offset_mask);
        }
    }
    None
}

/// The 8 bytes at an aligned physical address in the window.
fn read_word(hpa: u64) -> Option<u64> {
    let inside = hpa.checked_add(8).is_some_and(|end| end <= window().len_bytes);
    // SAFETY: the window maps it, aligned; whatever it is, to read it changes nothing in memory.
    inside.then(|| unsafe { ((window().offset + hpa) as *const u64).read_volatile() })
}

/// A new stack of `pages` pages with an unmapped guard page below it; answers with its top.
pub(crate) fn map_stack(pages: usize) -> Result<VirtAddr, MapError> {
    let span = (pages as u64 + 1) * PAGE_SIZE;
    let guard = NEXT_PAGE.fetch_add(span, Ordering::Relaxed);
    for page in 1..=pages as u64 {
        let frame = alloc_zeroed(1, Owner::HOST).map_err(MapError::OutOfFrames)?;
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
        map_page(guard + page * PAGE_SIZE, frame, flags)?;
    }
    GUARDS.lock().push(guard);
    Ok(VirtAddr::new(guard + span))
}

/// Maps one page of device registers, uncacheable; answers with the linear address of `hpa`.
pub(crate) fn map_mmio(hpa: HostPhysAddr) -> Result<u64, MapError> {
    let linear = NEXT_PAGE.fetch_add(PAGE_SIZE, Ordering::Relaxed);
    let flags = PageTableFlags::PRESENT
        | PageTableFlags::WRITABLE
        | PageTableFlags::NO_EXECUTE
        | PageTableFlags::NO_CACHE
        | PageTableFlags::WRITE_THROUGH;
    map_page(linear, Frame::containing(hpa), flags)?;
    Ok(linear + hpa.page_offset())
}
