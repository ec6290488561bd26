//! Touches its memory bit by bit: page by page up to a limit at a given rate, each page checked to be zero, filled with
//! a pattern of its own address, and verified in the end.
//!
//! Command line: `mib=N` to touch in all (default: all there is), `mib_per_s=N` of guest time (default 0: as fast as
//! it can), `report_mib=N` between two lines of progress (default 4), `scrubbed=0` leaves the check for zero out, `hold=1`
//! keeps the memory and halts for ever instead of giving a verdict, `recheck_ms=N` verifies every page again each N ms
//! meanwhile (default 0: never).
//! Expected: `verdict: pass toucher: ...`, or `toucher: holding N MiB` with `hold=1`.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::ram::{self, PAGE_SIZE};
use guest::timer::{Timer, ticks};
use guest::{cpu, guest_main, paging, pass, println};

guest_main!(main);

/// Pages in a mebibyte.
const MIB: u64 = (1 << 20) / PAGE_SIZE;

/// How many rounds of verifying there are at most between two lines that tell of them.
const REPORT_ROUNDS: u64 = 64;

fn main() {
    paging::map_all();
    let timer = Timer::new();
    let kept = ram::kept();
    let limit = option("mib").map_or(u64::MAX, |mib| mib * MIB);
    let pages = || ram::regions().flat_map(|region| ram::pages(region, &kept)).take(limit as usize);
    let scrubbed = option("scrubbed") != Some(0);
    let report = option("report_mib").unwrap_or(4).max(1) * MIB;
    let rate = option("mib_per_s").filter(|&rate| rate > 0);
    let begin = cpu::read_tsc();
    let mut touched = 0;
    for page in pages() {
        if scrubbed {
            ram::check_zero(page);
        }
        ram::fill(page, 0);
        touched += 1;
        if let Some(rate) = rate {
            timer.sleep_until(begin + ticks(touched * 1_000_000 / (rate * MIB)));
        }
        if touched % report == 0 {
            println!("toucher: touched {} MiB", touched / MIB);
        }
    }
    let verify = || pages().for_each(|page| ram::verify(page, 0));
    verify();
    if option("hold") != Some(1) {
        pass!("{touched} pages, {} MiB", touched / MIB);
    }
    println!("toucher: holding {} MiB", touched / MIB);
    let Some(recheck) = option("recheck_ms").filter(|&ms| ms > 0) else { cpu::stop() };
    let mut rounds = 0u64;
    loop {
        timer.sleep_until(cpu::read_tsc() + ticks(recheck * 1000));
        verify();
        rounds += 1;
        // Often at first, so that it is seen soon, then seldom, but never so seldom that nobody would wait for it.
        if rounds.is_power_of_two() || rounds.is_multiple_of(REPORT_ROUNDS) {
            println!("toucher: verified {rounds} times");
        }
    }
}
