//! Sealing the hypervisor's own mappings once it runs: nothing is writable and executable at once, under any address.
//!
//! The boot loader maps the kernel's segments by their ELF flags, but its window onto physical memory shows the same frames
//! writable once more. [`protect_image`] takes that right away; [`audit_mappings`] walks all that is mapped.

use super::frames::alloc_zeroed;
use super::map::{MapError, with_tables};
use super::window::window;
use alloc::vec::Vec;
use lamina_core::memory::{Owner, PAGE_SIZE};
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags};
use x86_64::{PhysAddr, VirtAddr};

/// A page of the hypervisor's that is writable and executable at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappingFault {
    /// Its linear address.
    pub linear: u64,
}

/// Drops what the boot loader identity-mapped for its hand-over (its context switch and its GDT, in the first level-4
/// entry). To be called once the hypervisor runs on its own descriptor tables.
pub(crate) fn drop_low_half() {
    with_tables(|tables| tables.level_4_table_mut()[0].set_unused());
    x86_64::instructions::tlb::flush_all();
}

/// Makes the window read-only where it shows a page of the kernel's image that is mapped read-only there: code and constants.
///
/// # Errors
/// [`MapError`] when there is no memory to split a large page of the window; what was done until then stands.
pub(crate) fn protect_image() -> Result<(), MapError> {
    let mut protected = Vec::new();
    walk(&mut |page| {
        let in_window = page.linear.wrapping_sub(window().offset) < window().len_bytes;
        if !in_window && !page.writable && page.len_bytes == PAGE_SIZE {
            protected.push(page.target);
        }
    });
    for target in protected {
        protect_in_window(target)?;
    }
    x86_64::instructions::tlb::flush_all();
    Ok(())
}

/// Takes the right to write from the window's 4 KiB page that shows `target`. What the window does not show needs none.
fn protect_in_window(target: PhysAddr) -> Result<(), MapError> {
    if target.as_u64() >= window().len_bytes {
        return Ok(());
    }
    let linear = VirtAddr::new(window().offset + target.as_u64());
    with_tables(|tables| protect_page(tables.level_4_table_mut(), linear))
}

/// Takes the right to write from this 4 KiB page of the window.
fn protect_page(root: &mut PageTable, linear: VirtAddr) -> Result<(), MapError> {
    let third = &root[linear.p4_index()];
    // SAFETY: the window is mapped by large pages below tables of the boot loader's, at least down to level 2; each present entry
    // names the next table, and the caller has the tables for itself.
    let second = unsafe { table_at(third.addr()) }[linear.p3_index()].clone();
    if second.flags().contains(Flags::HUGE_PAGE) {
        return Err(MapError::Taken(linear.as_u64()));
    }
    // SAFETY: as above.
    let entry = &mut unsafe { table_at(second.addr()) }[linear.p2_index()];
    if entry.flags().contains(Flags::HUGE_PAGE) {
        let table = PhysAddr::new(alloc_zeroed(1, Owner::HOST).map_err(MapError::OutOfFrames)?.base().0);
        let flags = entry.flags() - Flags::HUGE_PAGE;
        // SAFETY: the frame is new and nobody else's.
        for (index, small) in unsafe { table_at(table) }.iter_mut().enumerate() {
            small.set_addr(entry.addr() + index as u64 * PAGE_SIZE, flags);
        }
        // Every address under it leads where it led before.
        entry.set_addr(table, Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE);
    }
    // SAFETY: as above: the entry names a table now.
    let small = &mut unsafe { table_at(entry.addr()) }[linear.p1_index()];
    small.set_flags(small.flags() - Flags::WRITABLE);
    Ok(())
}

/// The page table at this address.
///
/// # Safety
/// There must be one, which nobody else refers to while the reference lives.
unsafe fn table_at(address: PhysAddr) -> &'static mut PageTable {
    // SAFETY: all of physical memory is in the window; the rest is the caller's.
    unsafe { &mut *((window().offset + address.as_u64()) as *mut PageTable) }
}

/// A page that is mapped, with the rights that its entry and all above it grant together.
struct MappedPage {
    linear: u64,
    target: PhysAddr,
    len_bytes: u64,
    writable: bool,
    executable: bool,
}

/// Walks the hypervisor's page tables for pages that are writable and executable at once. Reads only.
#[must_use]
pub fn audit_mappings() -> Vec<MappingFault> {
    let mut faults = Vec::new();
    walk(&mut |page| {
        if page.writable && page.executable {
            faults.push(MappingFault { linear: page.linear });
        }
    });
    faults
}

/// Shows every page that is mapped to `visit`.
fn walk(visit: &mut dyn FnMut(&MappedPage)) {
    with_tables(|tables| {
        for (index, entry) in tables.level_4_table().iter().enumerate() {
            if entry.flags().contains(Flags::PRESENT) {
                let base = VirtAddr::new_truncate((index as u64) << 39).as_u64();
                walk_table(entry.addr(), 3, base, entry.flags(), visit);
            }
        }
    });
}

/// Walks one table of `level` (3 to 1); `above` are the rights that the tables above grant (writable if all are,
/// no-execute if any is).
fn walk_table(table: PhysAddr, level: u32, base: u64, above: Flags, visit: &mut dyn FnMut(&MappedPage)) {
    let table = (window().offset + table.as_u64()) as *const PageTable;
    // SAFETY: a present entry of the active tables points to a page table, which nobody changes meanwhile.
    let table = unsafe { &*table };
    let len_bytes = PAGE_SIZE << (9 * (level - 1));
    for (index, entry) in table.iter().enumerate() {
        let flags = entry.flags();
        if !flags.contains(Flags::PRESENT) {
            continue;
        }
        let linear = base + index as u64 * len_bytes;
        let writable = flags.intersection(above) & Flags::WRITABLE;
        let no_execute = flags.union(above) & Flags::NO_EXECUTE;
        if level == 1 || flags.contains(Flags::HUGE_PAGE) {
            let (writable, executable) = (!writable.is_empty(), no_execute.is_empty());
            visit(&MappedPage { linear, target: entry.addr(), len_bytes, writable, executable });
        } else {
            walk_table(entry.addr(), level - 1, linear, writable | no_execute, visit);
        }
    }
}
