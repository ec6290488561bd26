//! A processor's activity states: halted and woken by an IPI or an NMI, sent to wait for a SIPI by INIT, started again;
//! and a SIPI that finds it running changes nothing.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest::apic::{self, DELIVERY_NMI, ICR_ASSERT};
use guest::{check, cpu, println, smp, trap};

use crate::crew::{self, wait_for};
use crate::rounds;

const WAKE_VECTOR: u8 = 0x39;

type Rounds = [AtomicU32; smp::MAX_CPUS];

/// The round in which each processor is about to halt, was sent an interrupt, got it, and went on.
static HALTING: Rounds = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
static SENT: Rounds = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
static GOT: Rounds = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
static WOKEN: Rounds = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
/// Counts for as long as the processor that INIT is sent to runs.
static HEARTBEAT: AtomicU32 = AtomicU32::new(0);

pub(crate) fn check() {
    trap::on(WAKE_VECTOR, |_| {
        GOT[smp::current()].fetch_add(1, SeqCst);
        apic::end_of_interrupt();
    });
    crew::all(ipi_wakes);
    crew::all(nmi_wakes);
    println!("smp: IPIs and NMIs wake halted CPUs");
    for index in 1..crew::count() {
        sipi_while_running(index);
        init_and_start_again(index);
    }
    crew::all(crate::check_identity);
    println!("smp: INIT stops a CPU, a SIPI starts it again");
}

/// All but CPU 0 halt; CPU 0 wakes one after the other, and none goes on before its turn.
fn ipi_wakes(me: usize) {
    for round in 1..=rounds() {
        crew::barrier();
        if me != 0 {
            HALTING[me].store(round, SeqCst);
            cpu::halt_until(|| GOT[me].load(SeqCst) == round);
            WOKEN[me].store(round, SeqCst);
            continue;
        }
        for target in 1..crew::count() {
            wait_for("a CPU is about to halt", || HALTING[target].load(SeqCst) == round);
            // Some rounds find it still on its way into HLT, some asleep.
            smp::wait_us(u64::from(round % 4) * 20);
            check!(WOKEN[target].load(SeqCst) == round - 1, "CPU {target} went on before it was sent an IPI");
            apic::send_ipi(smp::apic_id(target), ICR_ASSERT | u32::from(WAKE_VECTOR));
            wait_for("an IPI wakes a halted CPU", || WOKEN[target].load(SeqCst) == round);
        }
    }
    crew::barrier();
}

/// The same by NMI with interrupts off. One that comes before the HLT does not end it, so they are sent until one does: at
/// growing distances, for a processor to which they come faster than it handles them does nothing else for ever.
fn nmi_wakes(me: usize) {
    crew::barrier();
    WOKEN[me].store(0, SeqCst);
    for round in 1..=rounds() {
        crew::barrier();
        if me != 0 {
            while SENT[me].load(SeqCst) != round {
                // SAFETY: NMIs have a handler.
                unsafe { asm!("hlt", options(nostack)) };
            }
            WOKEN[me].store(round, SeqCst);
            continue;
        }
        for target in 1..crew::count() {
            smp::wait_us(u64::from(round % 4) * 20);
            check!(WOKEN[target].load(SeqCst) == round - 1, "CPU {target} went on before it was sent an NMI");
            SENT[target].store(round, SeqCst);
            let mut distance_us = 50;
            wait_for("an NMI wakes a halted CPU", || {
                apic::send_ipi(smp::apic_id(target), DELIVERY_NMI | ICR_ASSERT);
                smp::wait_us(distance_us);
                distance_us = (distance_us * 2).min(100_000);
                WOKEN[target].load(SeqCst) == round
            });
        }
    }
    crew::barrier();
}

/// "If the target processor is not in the wait-for-SIPI state, the SIPI is ignored."
fn sipi_while_running(index: usize) {
    let starts = smp::starts(index);
    smp::send_sipi(index, crew::work);
    smp::wait_us(200);
    check!(smp::starts(index) == starts, "a SIPI restarted CPU {index}, which was running");
}

/// INIT stops a processor that computes; a SIPI starts it as new.
fn init_and_start_again(index: usize) {
    smp::send_init(index);
    smp::wait_us(10_000);
    smp::start_after_init(index, beat);
    let before = HEARTBEAT.load(SeqCst);
    wait_for("a started CPU counts", || HEARTBEAT.load(SeqCst) != before);
    smp::send_init(index);
    smp::wait_us(1000);
    let stopped = HEARTBEAT.load(SeqCst);
    smp::wait_us(1000);
    check!(HEARTBEAT.load(SeqCst) == stopped, "CPU {index} goes on after INIT");
    let starts = smp::starts(index);
    smp::start_after_init(index, crew::work);
    smp::wait_us(200);
    check!(smp::starts(index) == starts + 1, "two SIPIs started CPU {index} {} times", smp::starts(index) - starts);
    crew::wait_until_ready(index);
    let svr = crew::svr_at_start(index);
    check!(svr == 0xFF, "CPU {index}: the SVR is {svr:#x} after INIT instead of 0xff");
}

fn beat(_: usize) -> ! {
    // Bochs 2.7 takes a CPU out of a guest for another CPU's interrupt only while the guest has interrupts enabled; with them off it
    // would go on to the end of its slice.
    cpu::enable_interrupts();
    loop {
        HEARTBEAT.fetch_add(1, SeqCst);
        core::hint::spin_loop();
    }
}
