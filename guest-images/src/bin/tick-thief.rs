//! Steals from a scheduler that accounts by ticks: computes until just before each mark, is halted while the mark
//! passes, and goes on behind it. Who looks at the marks to see who runs never sees this guest, though it uses nearly all
//! of the CPU; who measures is not deceived.
//!
//! Command line: `period_us=N` between two marks (default 10000), `phase_us=N` of the first mark (default 0),
//! `lead_us=N` that it yields before and after a mark (default 300), `pause=1` yields by a loop of PAUSE instead of HLT,
//! `follow=1` counts the period from when it last went on instead of from its start, `seconds=N` of guest time until its
//! verdict (default 0: never ends).
//! Expected: `verdict: pass tick-thief: ...`.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::timer::{Timer, ticks};
use guest::{check, clock, cpu, guest_main, pass, println};

guest_main!(main);

fn main() {
    let timer = Timer::new();
    let us = |name: &str, default: u64| ticks(option(name).unwrap_or(default));
    let (period, phase, lead) = (us("period_us", 10_000), us("phase_us", 0), us("lead_us", 300));
    check!(period > 2 * lead && lead > 0, "lead_us must be above 0 and below half of period_us");
    let by_pause = option("pause") == Some(1);
    let follow = option("follow") == Some(1);
    let begin = cpu::read_tsc();
    let end = option("seconds").filter(|&seconds| seconds > 0).map(|seconds| begin + seconds * clock::tsc_hz());
    println!(
        "tick-thief: yields {lead} TSC ticks before every {period}, by {}",
        if by_pause { "PAUSE" } else { "HLT" }
    );

    let (mut turns, mut worked) = (0u64, 0u64);
    while end.is_none_or(|end| cpu::read_tsc() < end) {
        let now = cpu::read_tsc();
        // The first mark that leaves time to compute before it.
        let mark = if follow { now + period } else { phase + (now + lead - phase).next_multiple_of(period) };
        while cpu::read_tsc() < mark - lead {}
        worked += cpu::read_tsc() - now;
        let back = mark + lead;
        if by_pause {
            while cpu::read_tsc() < back {
                core::hint::spin_loop();
            }
        } else {
            timer.sleep_until(back);
        }
        turns += 1;
        if turns % 1000 == 0 {
            println!("tick-thief: {turns} marks evaded");
        }
    }
    // TSC time between two readings, so with what others had the CPU for meanwhile.
    pass!("{turns} marks evaded, at work for {} % of the time", worked * 100 / (cpu::read_tsc() - begin));
}
