//! Time on several processors: TSCs that agree, and a timer for each.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use guest::apic::{self, register};
use guest::boot_info::option;
use guest::{check, clock, cpu, println, smp, trap};

use crate::crew;
use crate::rounds;

const TIMER_VECTOR: u8 = 0x38;
/// Readings of the TSC per round.
const READINGS: u32 = 200;

/// The greatest TSC that any processor has read.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// How far a TSC was behind that, at most.
static BEHIND: AtomicU64 = AtomicU64::new(0);
static TICKS: [AtomicU32; smp::MAX_CPUS] = [const { AtomicU32::new(0) }; smp::MAX_CPUS];

pub(crate) fn check() {
    crew::all(read_tsc);
    let (behind, bound) = (BEHIND.load(SeqCst), option("tsc_bound").unwrap_or(0));
    check!(behind <= bound, "a TSC is {behind} ticks behind another, allowed are {bound}");
    trap::on(TIMER_VECTOR, |_| {
        TICKS[smp::current()].fetch_add(1, SeqCst);
        apic::end_of_interrupt();
    });
    crew::all(tick);
    println!("smp: TSCs agree ({behind} ticks behind at most), each CPU has its timer");
}

/// What was read on any processor before must not be later than what this one reads now.
fn read_tsc(_: usize) {
    crew::barrier();
    for _ in 0..rounds() * READINGS {
        let latest = LATEST.load(SeqCst);
        let now = cpu::read_tsc();
        BEHIND.fetch_max(latest.saturating_sub(now), SeqCst);
        LATEST.fetch_max(now, SeqCst);
    }
}

/// Sleeps by its own timer; the interrupts come to this processor, as many as were asked for.
fn tick(me: usize) {
    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, u32::from(TIMER_VECTOR));
    // Each at a rate of its own: from 1 ms on.
    let count = clock::apic_timer_hz() * (4 + me as u64) / 4000;
    let begin = cpu::read_tsc();
    for tick in 1..=rounds() {
        apic::write(register::INITIAL_COUNT, count as u32);
        cpu::halt_until(|| TICKS[me].load(SeqCst) >= tick);
    }
    let took = cpu::read_tsc() - begin;
    apic::write(register::LVT_TIMER, apic::MASKED);
    crew::barrier();
    let ticks = TICKS[me].load(SeqCst);
    check!(ticks == rounds(), "CPU {me}: {ticks} timer interrupts instead of {}", rounds());
    let least = u64::from(rounds()) * clock::tsc_hz() * (4 + me as u64) / 4000;
    // Two per cent: where the frequencies were measured.
    check!(took >= least - least / 50, "CPU {me}: its timer was early: {took} TSC ticks instead of {least}");
}
