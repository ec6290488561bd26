//! HLT and every timer in turn: the PIT through the PIC, then the local APIC timer one-shot, periodic and by TSC
//! deadline. Counts ticks and holds the TSC that passed against the frequency that CPUID tells.
//!
//! Command line: `ticks=N` per timer (default 20), `hz=N` (default 100), `late=PERCENT` a timer may be late in all
//! (default 900: other guests may hold the CPU; `late=25` for a guest alone).
//! Expected: `verdict: pass ticker: ...`. A tick that comes early, or not at all, is a failure.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use guest::{apic, apic::register, boot_info::option, check, clock, cpu, guest_main, pass, pic, println, trap};

guest_main!(main);

const APIC_VECTOR: u8 = 0x40;
static TICKS: AtomicU64 = AtomicU64::new(0);

fn on_pit(_: &mut trap::TrapFrame) {
    TICKS.fetch_add(1, Relaxed);
    pic::end_of_interrupt();
}

fn on_apic_timer(_: &mut trap::TrapFrame) {
    TICKS.fetch_add(1, Relaxed);
    apic::end_of_interrupt();
}

/// What the command line asks for.
struct Plan {
    ticks: u64,
    hz: u64,
    late_percent: u64,
}

fn main() {
    let plan = Plan {
        ticks: option("ticks").unwrap_or(20).max(1),
        hz: option("hz").unwrap_or(100).clamp(19, 10_000),
        late_percent: option("late").unwrap_or(900),
    };
    trap::on(pic::FIRST_VECTOR, on_pit);
    trap::on(APIC_VECTOR, on_apic_timer);
    pic::init();
    apic::enable_virtual_wire();
    println!("ticker: TSC {} Hz, APIC timer {} Hz", clock::tsc_hz(), clock::apic_timer_hz());

    let reload = (pic::PIT_HZ / plan.hz) as u16;
    measure("PIT", &plan, || pic::start_pit(reload), || {});
    pic::set_masks(0xFFFF);

    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    let count = (clock::apic_timer_hz() / plan.hz) as u32;
    apic::write(register::LVT_TIMER, u32::from(APIC_VECTOR));
    let arm = || apic::write(register::INITIAL_COUNT, count);
    measure("APIC one-shot", &plan, arm, arm);
    check!(apic::read(register::CURRENT_COUNT) <= count, "the one-shot timer counts above its initial count");

    apic::write(register::INITIAL_COUNT, 0);
    apic::write(register::LVT_TIMER, u32::from(APIC_VECTOR) | apic::TIMER_PERIODIC);
    measure("APIC periodic", &plan, arm, || {});
    apic::write(register::INITIAL_COUNT, 0);

    const TSC_DEADLINE: u32 = 1 << 24;
    if cpu::cpuid(1, 0).ecx & TSC_DEADLINE != 0 {
        apic::write(register::LVT_TIMER, u32::from(APIC_VECTOR) | apic::TIMER_TSC_DEADLINE);
        let period = clock::tsc_hz() / plan.hz;
        let arm = || {
            // SAFETY: the timer's vector has a handler.
            unsafe { cpu::write_msr(apic::TSC_DEADLINE_MSR, cpu::read_tsc() + period) };
        };
        measure("APIC TSC-deadline", &plan, arm, arm);
        // "When the timer generates an interrupt, it disarms itself, clears the IA32_TSC_DEADLINE MSR".
        let left = cpu::read_msr(apic::TSC_DEADLINE_MSR);
        check!(left == 0, "IA32_TSC_DEADLINE is {left:#x} after the timer fired");
    } else {
        println!("ticker: no TSC-deadline timer");
    }
    apic::write(register::LVT_TIMER, apic::MASKED);
    pass!("{} ticks of every timer at {} Hz", plan.ticks, plan.hz);
}

/// Starts a timer, halts until it ticked as often as planned (`again` re-arms it after each tick but the last), and
/// checks the time that took.
fn measure(name: &str, plan: &Plan, start: impl Fn(), again: impl Fn()) {
    TICKS.store(0, Relaxed);
    let begin = cpu::read_tsc();
    start();
    if name == "PIT" {
        pic::set_masks(!1);
    }
    let mut seen = 0;
    cpu::halt_until(|| {
        let ticks = TICKS.load(Relaxed);
        if ticks != seen {
            seen = ticks;
            if seen < plan.ticks {
                again();
            }
            if seen % 10 == 0 {
                println!("ticker: {name} tick {seen}");
            }
        }
        seen >= plan.ticks
    });
    let took = cpu::read_tsc() - begin;
    // Setting a mode raises the PIT's output, which can latch a first interrupt at once.
    let periods = if name == "PIT" { seen - 1 } else { seen };
    let expected = periods * clock::tsc_hz() / plan.hz;
    println!("ticker: {name}: {seen} ticks took {took} TSC ticks, expected {expected}");
    // Two per cent: the rounding of the reload values and, where CPUID does not tell, of the calibration.
    check!(took >= expected - expected / 50, "{name} ticks early: {took} TSC ticks instead of {expected}");
    let latest = expected + clock::tsc_hz() / plan.hz + expected / 100 * plan.late_percent;
    check!(took <= latest, "{name} ticks late: {took} TSC ticks, allowed are {latest}");
}
