//! The RAM that a kernel may use as it likes: the memory map's, less the pages of the kernel itself and of what its
//! loader told it; and a pattern to fill pages with.

use crate::boot_info::{self, Loader, Region};
use crate::paging;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// The pattern is written to this many words of each page, evenly spread.
const WORDS_PER_PAGE: u64 = 8;

/// Ranges that hold this kernel or what its loader told it; `(start, end)`.
pub type Kept = [(u64, u64); 5];

/// The RAM of the memory map.
pub fn regions() -> impl Iterator<Item = Region> {
    boot_info::memory_map().filter(|region| region.kind == Region::RAM)
}

/// What must not be written, to the byte.
#[must_use]
pub fn kept() -> Kept {
    let (map, map_len) = boot_info::memory_map_address();
    let info_len = if boot_info::loader() == Loader::Pvh { 56 } else { 120 };
    let range = |start: u32, len: u32| (u64::from(start), u64::from(start) + u64::from(len));
    let command_line = boot_info::command_line();
    [
        paging::image(),
        paging::loader_gdt(),
        range(boot_info::info_address(), info_len),
        range(map, map_len),
        range(boot_info::command_line_address(), command_line.len() as u32 + 1),
    ]
}

/// The whole pages of a region that hold nothing we need.
pub fn pages(region: Region, kept: &Kept) -> impl Iterator<Item = u64> + use<> {
    let kept = *kept;
    let first = region.start.next_multiple_of(PAGE_SIZE);
    let end = (region.start + region.len_bytes) & !(PAGE_SIZE - 1);
    (first..end)
        .step_by(PAGE_SIZE as usize)
        .filter(move |&page| !kept.iter().any(|&(start, end)| start < end && start < page + PAGE_SIZE && page < end))
}

/// Fails where a page is not all zero.
pub fn check_zero(page: u64) {
    let mut bits = 0;
    for offset in (0..PAGE_SIZE).step_by(8) {
        bits |= read(page + offset);
    }
    if bits != 0 {
        crate::fail!("page {page:#x} was not zero when it was first read");
    }
}

/// The word that belongs at `address` in a pass: no two addresses share one, no bit is always the same.
fn pattern(address: u64, pass: u64) -> u64 {
    (address ^ pass << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn pattern_addresses(page: u64) -> impl Iterator<Item = u64> {
    (0..WORDS_PER_PAGE).map(move |word| page + word * (PAGE_SIZE / WORDS_PER_PAGE) + word * 8)
}

/// Writes the pattern of a pass to a page.
pub fn fill(page: u64, pass: u64) {
    for address in pattern_addresses(page) {
        write(address, pattern(address, pass));
    }
}

/// Fails where a page does not hold the pattern of a pass.
pub fn verify(page: u64, pass: u64) {
    pattern_addresses(page).for_each(|address| verify_word(address, pass));
}

/// Writes the pattern of a pass to every word of a page.
pub fn fill_whole(page: u64, pass: u64) {
    for address in (page..page + PAGE_SIZE).step_by(8) {
        write(address, pattern(address, pass));
    }
}

/// Fails where a word of a page does not hold the pattern of a pass.
pub fn verify_whole(page: u64, pass: u64) {
    (page..page + PAGE_SIZE).step_by(8).for_each(|address| verify_word(address, pass));
}

fn verify_word(address: u64, pass: u64) {
    let (found, expected) = (read(address), pattern(address, pass));
    if found != expected {
        crate::fail!("{address:#x} holds {found:#x}, {expected:#x} was written");
    }
}

fn read(address: u64) -> u64 {
    // SAFETY: `pages` gives only mapped RAM that holds neither this kernel nor anything it uses.
    unsafe { (address as *const u64).read_volatile() }
}

fn write(address: u64, value: u64) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u64).write_volatile(value) };
}
