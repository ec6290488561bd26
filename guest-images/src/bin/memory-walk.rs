//! Touches all its memory: every page that the memory map calls RAM must be zero (scrubbed) when it is first read,
//! takes a pattern of its own address, and must still hold it when every other page has been written.
//!
//! Command line: `scrubbed=0` leaves the first check out (a PC's firmware leaves its traces), `passes=N` repeats the
//! rest (default 1). Expected: `verdict: pass memory-walk: ...`.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::ram::{self, PAGE_SIZE};
use guest::{check, guest_main, paging, pass, println};

guest_main!(main);

fn main() {
    let mapped = paging::map_all();
    let kept = ram::kept();
    println!("memory-walk: not written: {kept:x?}");
    let scrubbed = option("scrubbed").unwrap_or(1) != 0;
    let mut page_count = 0;
    for region in ram::regions() {
        println!("memory-walk: {:#x} + {:#x}", region.start, region.len_bytes);
        check!(
            region.start + region.len_bytes <= mapped,
            "RAM above {mapped:#x} cannot be reached without 1 GiB pages"
        );
        for page in ram::pages(region, &kept) {
            if scrubbed {
                ram::check_zero(page);
            }
            ram::fill(page, 0);
            page_count += 1;
        }
    }
    check!(page_count > 0, "the memory map has no RAM");
    println!("memory-walk: {page_count} pages written");
    for pass in 0..option("passes").unwrap_or(1).max(1) {
        for page in ram::regions().flat_map(|region| ram::pages(region, &kept)) {
            ram::verify(page, pass);
            ram::fill(page, pass + 1);
        }
        println!("memory-walk: {page_count} pages verified");
    }
    pass!("{page_count} pages, {} MiB", (page_count * PAGE_SIZE) >> 20);
}
