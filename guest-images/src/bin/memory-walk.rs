//! Touches all its memory: every page that the memory map calls RAM must be zero (scrubbed) when it is first read,
//! takes a pattern of its own address, and must still hold it when every other page has been written.
//!
//! Command line: `scrubbed=0` leaves the first check out (a PC's firmware leaves its traces), `passes=N` repeats the
//! rest (default 1). Expected: `verdict: pass memory-walk: ...`.
#![no_std]
#![no_main]

use guest::boot_info::{self, Loader, Region, option};
use guest::{check, fail, guest_main, paging, pass, println};

guest_main!(main);

const PAGE_SIZE: u64 = 4096;
/// The pattern is written to this many words of each page, evenly spread.
const WORDS_PER_PAGE: u64 = 8;

/// Ranges that hold this kernel or what its loader told it; `(start, end)`.
type Kept = [(u64, u64); 5];

fn main() {
    let mapped = paging::map_all();
    let kept = kept_ranges();
    println!("memory-walk: not written: {kept:x?}");
    let scrubbed = option("scrubbed").unwrap_or(1) != 0;
    let mut page_count = 0;
    for region in ram() {
        println!("memory-walk: {:#x} + {:#x}", region.start, region.len_bytes);
        check!(
            region.start + region.len_bytes <= mapped,
            "RAM above {mapped:#x} cannot be reached without 1 GiB pages"
        );
        for page in pages(region, &kept) {
            if scrubbed {
                check_zero(page);
            }
            fill(page, 0);
            page_count += 1;
        }
    }
    check!(page_count > 0, "the memory map has no RAM");
    println!("memory-walk: {page_count} pages written");
    for pass in 0..option("passes").unwrap_or(1).max(1) {
        for page in ram().flat_map(|region| pages(region, &kept)) {
            verify(page, pass);
            fill(page, pass + 1);
        }
        println!("memory-walk: {page_count} pages verified");
    }
    pass!("{page_count} pages, {} MiB", (page_count * PAGE_SIZE) >> 20);
}

fn ram() -> impl Iterator<Item = Region> {
    boot_info::memory_map().filter(|region| region.kind == Region::RAM)
}

/// What must not be written, rounded to pages by `pages`.
fn kept_ranges() -> Kept {
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
fn pages(region: Region, kept: &Kept) -> impl Iterator<Item = u64> {
    let first = region.start.next_multiple_of(PAGE_SIZE);
    let end = (region.start + region.len_bytes) & !(PAGE_SIZE - 1);
    (first..end)
        .step_by(PAGE_SIZE as usize)
        .filter(move |&page| !kept.iter().any(|&(start, end)| start < end && start < page + PAGE_SIZE && page < end))
}

fn check_zero(page: u64) {
    let mut bits = 0;
    for offset in (0..PAGE_SIZE).step_by(8) {
        bits |= read(page + offset);
    }
    if bits != 0 {
        fail!("page {page:#x} was not zero when it was first read");
    }
}

/// The word that belongs at `address` in a pass: no two addresses share one, no bit is always the same.
fn pattern(address: u64, pass: u64) -> u64 {
    (address ^ pass << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn pattern_addresses(page: u64) -> impl Iterator<Item = u64> {
    (0..WORDS_PER_PAGE).map(move |word| page + word * (PAGE_SIZE / WORDS_PER_PAGE) + word * 8)
}

fn fill(page: u64, pass: u64) {
    for address in pattern_addresses(page) {
        write(address, pattern(address, pass));
    }
}

fn verify(page: u64, pass: u64) {
    for address in pattern_addresses(page) {
        let (found, expected) = (read(address), pattern(address, pass));
        if found != expected {
            fail!("{address:#x} holds {found:#x}, {expected:#x} was written");
        }
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
