//! An interactive guest: sleeps by the local APIC timer, and on waking measures how much later than asked it runs.
//!
//! Command line: `period_us=N` from one waking to the next (default 5000), `work_us=N` that it computes each time
//! (default 0), `wakes=N` until its verdict (default 200, at most 16384; 0: never ends), `bound_us=N` the greatest
//! lateness that passes (default: any).
//! Expected: `verdict: pass waker: ...`, after a line `waker: late by max=N p50=N p99=N us`.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::timer::{Timer, microseconds, ticks};
use guest::{check, cpu, guest_main, pass, println};

guest_main!(main);

const MOST_WAKES: usize = 16_384;

/// How late each waking was, in TSC ticks; more than fit are kept as `u32::MAX`.
static mut LATENESS: [u32; MOST_WAKES] = [0; MOST_WAKES];

fn main() {
    let timer = Timer::new();
    let period = ticks(option("period_us").unwrap_or(5_000));
    let work = ticks(option("work_us").unwrap_or(0));
    let wakes = option("wakes").unwrap_or(200) as usize;
    check!(wakes <= MOST_WAKES, "wakes={wakes}: at most {MOST_WAKES}");
    check!(work < period, "work_us must be below period_us");
    println!("waker: wakes every {period} TSC ticks");
    // SAFETY: the static has that many, `main` runs once, and nothing else names it.
    let lateness = unsafe { core::slice::from_raw_parts_mut((&raw mut LATENESS).cast::<u32>(), MOST_WAKES) };
    let mut wake = 0;
    while wakes == 0 || wake < wakes {
        // A period that begins now: one late waking makes no other one late.
        let deadline = cpu::read_tsc() + period - work;
        timer.sleep_until(deadline);
        let late = cpu::read_tsc() - deadline;
        if wakes != 0 {
            lateness[wake] = u32::try_from(late).unwrap_or(u32::MAX);
        }
        wake += 1;
        let begin = cpu::read_tsc();
        while cpu::read_tsc() - begin < work {}
    }
    report(&mut lateness[..wakes]);
}

/// Prints what was measured, and ends with the verdict.
fn report(lateness: &mut [u32]) {
    lateness.sort_unstable();
    let wakes = lateness.len();
    // The smallest value that so many per cent do not exceed.
    let percentile = |percent: usize| microseconds(u64::from(lateness[(wakes * percent).div_ceil(100) - 1]));
    let (max, p50, p99) = (percentile(100), percentile(50), percentile(99));
    histogram(lateness);
    println!("waker: late by max={max} p50={p50} p99={p99} us");
    if let Some(bound) = option("bound_us") {
        check!(max <= bound, "woke {max} us late, allowed are {bound} us");
    }
    pass!("{wakes} wakes, {max} us late at most");
}

/// How many wakings were less than 1, 2, 4, ... microseconds late.
fn histogram(lateness: &[u32]) {
    let mut counts = [0u32; 33];
    for &late in lateness {
        let us = microseconds(u64::from(late));
        counts[(u64::BITS - us.leading_zeros()).min(32) as usize] += 1;
    }
    for (power, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        println!("waker: below {} us: {count}", 1u64 << power);
    }
}
