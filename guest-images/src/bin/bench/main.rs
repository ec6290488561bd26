//! Measures what operations cost that a hypervisor has a part in, each in many rounds, in TSC ticks: instructions in an
//! emulator that counts them, cycles on a real processor. What the processor does by itself is measured too, to see that it does.
//!
//! Command line: `rounds=N` of each row (default 2000), `touch_kib=N`: measures only the first touch of pages of that size.
//! Expected: a line `row: NAME rounds=N marked=N mean=N min=N p50=N p99=N max=N` for each row, then `verdict: pass bench: N rows`.
#![no_std]
#![no_main]

mod devices;
mod instructions;
mod interrupts;
mod measure;
mod memory;

use guest::boot_info::option;
use guest::timer::ticks;
use guest::{cpu, guest_main, pass, pic};
use measure::{Report, timed};

guest_main!(main);

/// How long the host is left alone first, in microseconds: it has lines of its start to send.
const SETTLE_US: u64 = 200_000;

fn main() {
    let mut report = Report::new(option("rounds").unwrap_or(2000) as usize);
    pic::init();
    let begin = cpu::read_tsc();
    while cpu::read_tsc() - begin < ticks(SETTLE_US) {}
    // SAFETY: there is nothing between the two readings.
    report.row("empty", || unsafe { timed!([]) });
    match option("touch_kib") {
        Some(kib) => memory::measure(&mut report, kib << 10),
        None => {
            instructions::measure(&mut report);
            devices::measure(&mut report);
            interrupts::measure(&mut report);
        }
    }
    pass!("{} rows", report.print());
}
