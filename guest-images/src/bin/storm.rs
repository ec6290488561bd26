//! Costs its host as much as it can, for ever, in the way that `kind` says: with one exit after the other, or with interrupts
//! and wake-ups as fast as they come.
//!
//! Command line, `kind=`: `cpuid`, `port` or `msr` or `memory` (one that is not there), `serial` (the line's output), `ipi` (to
//! itself), `nmi` (to itself), `timer` (halted, for a microsecond at a time), `wakes` (its first two CPUs halt and wake each
//! other).
//! Expected: no verdict; it ends when it is stopped.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use guest::apic::{self, DELIVERY_NMI, ICR_ASSERT, register};
use guest::boot_info::command_line;
use guest::{check, cpu, fail, guest_main, pic, port, println, smp, trap};

guest_main!(main);

const VECTOR: u8 = 0x41;
const NMI: u8 = 2;
const COM1: u16 = 0x3F8;
/// Neither a device nor an MSR is there.
const PORT: u16 = 0x2E0;
const MSR: u32 = 0x1234_5678;
const ADDRESS: u64 = 0xC000_0000;

static COUNT: AtomicU32 = AtomicU32::new(0);

fn main() {
    let kind = command_line().split_ascii_whitespace().find_map(|word| word.strip_prefix("kind="));
    println!("storm: {}", kind.unwrap_or("none"));
    pic::init();
    apic::enable();
    trap::on(VECTOR, |_| {
        COUNT.fetch_add(1, Relaxed);
        apic::end_of_interrupt();
    });
    trap::on(NMI, |_| {});
    match kind {
        Some("cpuid") => for_ever(|| {
            let _ = cpu::cpuid(0, 0);
        }),
        Some("port") => for_ever(|| {
            let _ = port::read_u8(PORT);
        }),
        Some("msr") => for_ever(|| check!(cpu::try_read_msr(MSR).is_err(), "MSR {MSR:#x} is there")),
        Some("memory") => for_ever(|| {
            // SAFETY: nothing is there, so nothing is changed.
            let _ = unsafe { apic::mmio_read(ADDRESS) };
        }),
        Some("serial") => for_ever(|| port::write_u8(COM1, b'.')),
        Some("ipi") => {
            cpu::enable_interrupts();
            for_ever(|| apic::send_ipi(apic::own_id(), ICR_ASSERT | u32::from(VECTOR)));
        }
        Some("nmi") => for_ever(|| apic::send_ipi(apic::own_id(), ICR_ASSERT | DELIVERY_NMI)),
        Some("timer") => timer(),
        Some("wakes") => {
            check!(smp::find() >= 2, "there is no second CPU");
            smp::start(1, |_| {
                apic::enable();
                wake_and_halt(0);
            });
            wake_and_halt(1);
        }
        other => fail!("kind={other:?} is none"),
    }
}

fn for_ever(mut once: impl FnMut()) -> ! {
    loop {
        once();
    }
}

/// A periodic timer that is due again before its interrupt was handled.
fn timer() -> ! {
    const PERIOD: u32 = 50;
    apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
    apic::write(register::LVT_TIMER, u32::from(VECTOR) | apic::TIMER_PERIODIC);
    apic::write(register::INITIAL_COUNT, PERIOD);
    for_ever(halt_once)
}

fn wake_and_halt(other: usize) -> ! {
    for_ever(|| {
        apic::send_ipi(smp::apic_id(other), ICR_ASSERT | u32::from(VECTOR));
        halt_once();
    })
}

fn halt_once() {
    let before = COUNT.load(Relaxed);
    cpu::halt_until(|| COUNT.load(Relaxed) != before);
}
