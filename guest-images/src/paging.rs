//! The identity map beyond the 4 GiB that the entry code maps.

use crate::cpu;

/// Bytes that one page-directory-pointer entry maps.
const GIB: u64 = 1 << 30;
/// Bytes that the entry code maps.
const MAPPED_AT_ENTRY: u64 = 4 * GIB;
/// Bytes that one page-directory-pointer table maps.
const MAPPED_BY_TABLE: u64 = 512 * GIB;

unsafe extern "C" {
    /// PML4 and, in the page after it, the page-directory-pointer table.
    static mut guest_page_tables: [[u64; 512]; 6];
    static guest_image_start: u8;
    static guest_image_end: u8;
    /// The loader's GDTR: limit, then the low and the high half of its base.
    static guest_loader_gdt: [u16; 3];
}

/// Maps 512 GiB by 1 GiB pages where the CPU has them. Returns the end of the identity map.
pub fn map_all() -> u64 {
    const PAGE_1GIB: u32 = 1 << 26;
    if cpu::cpuid(0x8000_0000, 0).eax < 0x8000_0001 || cpu::cpuid(0x8000_0001, 0).edx & PAGE_1GIB == 0 {
        return MAPPED_AT_ENTRY;
    }
    // SAFETY: the page-directory-pointer table is the second of the six tables.
    let table = unsafe { (&raw mut guest_page_tables).cast::<u64>().add(512) };
    for index in 4..512 {
        // SAFETY: the entry code built the tables, one CPU runs, and the entries were not present until now.
        unsafe { table.add(index).write_volatile((index as u64 * GIB) | 0x83) };
    }
    MAPPED_BY_TABLE
}

/// First address and end of this kernel's image with its stack and page tables.
#[must_use]
pub fn image() -> (u64, u64) {
    (&raw const guest_image_start as u64, &raw const guest_image_end as u64)
}

/// First address and end of the GDT that the loader left in memory.
#[must_use]
pub fn loader_gdt() -> (u64, u64) {
    // SAFETY: the entry code wrote it, and nobody does any more.
    let [limit, low, high] = unsafe { (&raw const guest_loader_gdt).read() };
    let start = u64::from(low) | u64::from(high) << 16;
    (start, start + u64::from(limit) + 1)
}
