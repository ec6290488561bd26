//! The boot GDT and the identity page tables that a guest starts on.

use super::entry::{BOOT_CS, BOOT_DS, BOOT_TSS};
use super::space::{FOUR_GIB, GuestSpace};
use super::{LoadError, layout::HIGH_MEMORY};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use crate::x86::DescriptorTable;
use alloc::vec::Vec;

/// Flat 32-bit code: base 0, limit 4 GiB, accessed.
const CODE32_DESCRIPTOR: u64 = 0x00cf_9b00_0000_ffff;
/// 64-bit code, accessed.
const CODE64_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Flat data: base 0, limit 4 GiB, accessed.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// A busy TSS at 0 with limit 0x67; its second half, in a GDT for 64-bit mode, is 0.
const TSS_DESCRIPTOR: u64 = 0x0000_8b00_0000_0067;

/// Present and writable.
const TABLE_ENTRY: u64 = 0b11;
/// Present, writable, page size.
const LARGE_PAGE: u64 = 0b1000_0011;
/// What an entry of a page-directory-pointer table covers.
const GIB: u64 = 1 << 30;
/// Above this, the identity map ends: its tables take a page for each GiB.
const IDENTITY_MAP_LIMIT: u64 = 64 * GIB;

/// Places the boot GDT: flat code at [`BOOT_CS`] (64-bit where `long_mode`), flat data at [`BOOT_DS`], a TSS.
pub(super) fn place_gdt(space: &mut GuestSpace<'_>, long_mode: bool) -> Result<DescriptorTable, LoadError> {
    const { assert!(BOOT_CS == 2 * 8 && BOOT_DS == 3 * 8 && BOOT_TSS == 4 * 8) }
    let code = if long_mode { CODE64_DESCRIPTOR } else { CODE32_DESCRIPTOR };
    let gdt = [0, 0, code, DATA_DESCRIPTOR, TSS_DESCRIPTOR, 0];
    let bytes: Vec<u8> = gdt.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    let base = space.place_low("boot GDT", &bytes, 16)?;
    Ok(DescriptorTable { base, limit: 6 * 8 - 1 })
}

/// Places 4-level page tables that map the first 4 GiB and all RAM above them (up to 64 GiB) onto themselves in
/// 2 MiB pages, and gives the address of the PML4 table, for CR3.
pub(super) fn place_identity_map(space: &mut GuestSpace<'_>) -> Result<GuestPhysAddr, LoadError> {
    let end = space.ram().end().0.clamp(FOUR_GIB, IDENTITY_MAP_LIMIT);
    let gibs = end.div_ceil(GIB);
    let len_bytes = (2 + gibs) * PAGE_SIZE;
    let what = "boot page tables";
    let base = space
        .find_up(len_bytes, PAGE_SIZE, 0x1_0000, super::layout::VGA_START)
        .or_else(|| space.find_up(len_bytes, PAGE_SIZE, HIGH_MEMORY, FOUR_GIB))
        .ok_or(LoadError::NoRoom { what, len_bytes, below: GuestPhysAddr(FOUR_GIB) })?;
    let (pdpt, directories) = (base + PAGE_SIZE, base + 2 * PAGE_SIZE);
    space.claim(what, base, len_bytes)?;
    space.write(what, base, &(pdpt | TABLE_ENTRY).to_le_bytes())?;
    let entries: Vec<u8> =
        (0..gibs).flat_map(|n| ((directories + n * PAGE_SIZE) | TABLE_ENTRY).to_le_bytes()).collect();
    space.write(what, pdpt, &entries)?;
    for n in 0..gibs {
        let pages: Vec<u8> =
            (0..512u64).flat_map(|page| ((n * GIB + (page << 21)) | LARGE_PAGE).to_le_bytes()).collect();
        space.write(what, directories + n * PAGE_SIZE, &pages)?;
    }
    Ok(GuestPhysAddr(base))
}
