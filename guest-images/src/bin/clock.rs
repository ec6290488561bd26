//! All clocks must tell the same time: the TSC never goes back, and runs against the PM timer, the PIT and the local
//! APIC timer as fast as their frequencies say, within 1 %.
//! Expected: `verdict: pass clock: ...`.
#![no_std]
#![no_main]

use guest::apic::register;
use guest::{apic, check, clock, cpu, fail, guest_main, pass, pic, port, println};

guest_main!(main);

const PM_TIMER_PORT: u16 = 0x608;
/// "The Power Management Timer ... 3.579545 MHz", of which 24 bits are counted on.
const PM_TIMER_HZ: u64 = 3_579_545;
const PM_TIMER_MASK: u32 = 0xFF_FFFF;

fn main() {
    let tsc_hz = clock::tsc_hz();
    println!("clock: TSC {tsc_hz} Hz");
    let mut before = cpu::read_tsc();
    for _ in 0..10_000 {
        let now = cpu::read_tsc();
        check!(now > before, "the TSC went from {before} to {now}");
        before = now;
    }

    compare("PM timer", tsc_hz, PM_TIMER_HZ, || port::read_u32(PM_TIMER_PORT) & PM_TIMER_MASK, PM_TIMER_MASK);

    // A reload value of 0 stands for 65536. The PIT counts down.
    pic::init();
    pic::start_pit(0);
    compare("PIT", tsc_hz, pic::PIT_HZ, || u32::from(pic::pit_count().wrapping_neg()), 0xFFFF);

    apic::enable();
    apic::write(register::LVT_TIMER, apic::MASKED);
    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    let apic_hz = clock::apic_timer_hz();
    apic::write(register::INITIAL_COUNT, u32::MAX);
    compare("APIC timer", tsc_hz, apic_hz, || !apic::read(register::CURRENT_COUNT), u32::MAX);
    apic::write(register::INITIAL_COUNT, 0);
    pass!("TSC, PM timer, PIT and APIC timer agree");
}

/// Holds 40 ms of a counter that counts up and wraps at `mask` against the TSC.
fn compare(name: &str, tsc_hz: u64, hz: u64, read: impl Fn() -> u32, mask: u32) {
    let interval = tsc_hz / 25;
    // Another guest may hold the CPU between any two reads: then the counter may have wrapped, and we try again.
    for _ in 0..100 {
        let (start, first) = read_together(interval, &read);
        while cpu::read_tsc() - start < interval {}
        let (end, second) = read_together(interval, &read);
        let took = end - start;
        if took > interval + interval / 4 {
            continue;
        }
        let counted = u64::from(second.wrapping_sub(first) & mask);
        let expected = took * hz / tsc_hz;
        println!("clock: {name} counted {counted} in {took} TSC ticks, expected {expected}");
        check!(counted.abs_diff(expected) <= expected / 100, "{name} counted {counted} instead of {expected}");
        return;
    }
    fail!("{name}: no quiet 50 ms in 100 attempts");
}

/// The TSC and the counter at the same time, to 1/100 of the interval.
fn read_together(interval: u64, read: &impl Fn() -> u32) -> (u64, u32) {
    for _ in 0..1000 {
        let before = cpu::read_tsc();
        let value = read();
        let after = cpu::read_tsc();
        if after - before <= interval / 100 {
            return (before + (after - before) / 2, value);
        }
    }
    fail!("a counter takes longer than {} TSC ticks to read", interval / 100);
}
