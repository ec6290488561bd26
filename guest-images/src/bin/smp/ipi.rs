//! Interrupts between processors, each counted exactly: from all to all, by shorthand, by logical destination, by lowest
//! priority, and NMIs.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use guest::apic::{self, DELIVERY_NMI, ICR_ALL, ICR_ASSERT, ICR_LOGICAL, ICR_LOWEST_PRIORITY, ICR_OTHERS, ICR_SELF};
use guest::{check, cpu, println, smp, trap};

use crate::crew::{self, wait_for};
use crate::rounds;

const NMI: u8 = 2;
/// Any sender, by shorthand or to a set of processors.
const GROUP_VECTOR: u8 = 0x3A;
/// The vector of the first sender's own; the others' follow.
const FIRST_OWN_VECTOR: u8 = 0x40;

type Counts = [AtomicU32; smp::MAX_CPUS];

/// By receiver, then by sender.
static RECEIVED: [Counts; smp::MAX_CPUS] = [const { [const { AtomicU32::new(0) }; smp::MAX_CPUS] }; smp::MAX_CPUS];
static GROUP: Counts = [const { AtomicU32::new(0) }; smp::MAX_CPUS];
static NMIS: Counts = [const { AtomicU32::new(0) }; smp::MAX_CPUS];

pub(crate) fn check() {
    trap::on(NMI, |_| {
        NMIS[smp::current()].fetch_add(1, SeqCst);
    });
    trap::on(GROUP_VECTOR, |_| {
        GROUP[smp::current()].fetch_add(1, SeqCst);
        apic::end_of_interrupt();
    });
    for sender in 0..crew::count() {
        trap::on(FIRST_OWN_VECTOR + sender as u8, |frame| {
            RECEIVED[smp::current()][frame.vector as usize - usize::from(FIRST_OWN_VECTOR)].fetch_add(1, SeqCst);
            apic::end_of_interrupt();
        });
    }
    crew::all(all_to_all);
    for (receiver, counts) in RECEIVED.iter().enumerate().take(crew::count()) {
        for (sender, count) in counts.iter().enumerate().take(crew::count()) {
            let count = count.load(SeqCst);
            check!(count == rounds(), "CPU {receiver} got {count} IPIs of CPU {sender} instead of {}", rounds());
        }
    }
    println!("smp: IPIs from all to all");
    crew::all(shorthands);
    crew::all(logical_destinations);
    crew::all(nmis);
    println!("smp: shorthands, logical destinations, NMIs");
}

/// Each sends to each, itself included, and waits for the arrival: a vector that is still pending would swallow the next.
fn all_to_all(me: usize) {
    cpu::enable_interrupts();
    crew::barrier();
    for round in 1..=rounds() {
        for (target, counts) in RECEIVED.iter().enumerate().take(crew::count()) {
            let vector = u32::from(FIRST_OWN_VECTOR) + me as u32;
            apic::send_ipi(smp::apic_id(target), ICR_ASSERT | vector);
            wait_for("an IPI arrives", || counts[me].load(SeqCst) >= round);
        }
    }
    crew::barrier();
    cpu::disable_interrupts();
}

/// Sends, and waits until the receivers that `expected` names have one more in `counts`; then nobody else may have.
fn send_to(me: usize, what: &str, counts: &Counts, destination: u32, command: u32, expected: impl Fn(usize) -> bool) {
    let mut before = [0; smp::MAX_CPUS];
    for (before, count) in before.iter_mut().zip(counts) {
        *before = count.load(SeqCst);
    }
    apic::send_ipi(destination, command);
    for (cpu, count) in counts.iter().enumerate().take(crew::count()).filter(|(cpu, _)| expected(*cpu)) {
        wait_for(what, || count.load(SeqCst) > before[cpu]);
    }
    smp::wait_us(20);
    for (cpu, count) in counts.iter().enumerate().take(crew::count()) {
        let (found, expected) = (count.load(SeqCst) - before[cpu], u32::from(expected(cpu)));
        check!(found == expected, "{what}, sent by CPU {me}: CPU {cpu} got {found} instead of {expected}");
    }
}

/// Has one processor after the other send, while all are at the barrier.
fn in_turns(me: usize, turn: impl Fn()) {
    for sender in 0..crew::count() {
        crew::barrier();
        if sender == me {
            turn();
        }
    }
    crew::barrier();
}

fn shorthands(me: usize) {
    const FIXED: u32 = ICR_ASSERT | GROUP_VECTOR as u32;
    cpu::enable_interrupts();
    in_turns(me, || {
        send_to(me, "all excluding self", &GROUP, 0, ICR_OTHERS | FIXED, |cpu| cpu != me);
        send_to(me, "all including self", &GROUP, 0, ICR_ALL | FIXED, |_| true);
        send_to(me, "self", &GROUP, 0, ICR_SELF | FIXED, |cpu| cpu == me);
        let everybody = if apic::is_x2apic() { u32::MAX } else { 0xFF };
        send_to(me, "physical broadcast", &GROUP, everybody, FIXED, |_| true);
    });
    cpu::disable_interrupts();
}

/// A bit for each of the first eight processors, and in x2APIC mode the cluster that the first is in.
fn logical_destination(set: impl Fn(usize) -> bool) -> u32 {
    let bits = (0..crew::count().min(8)).filter(|cpu| set(*cpu));
    if apic::is_x2apic() {
        let cluster = smp::apic_id(0) >> 4;
        let here = bits.map(smp::apic_id).filter(|id| id >> 4 == cluster);
        return cluster << 16 | here.fold(0, |set, id| set | 1 << (id & 0xF));
    }
    bits.fold(0, |set, cpu| set | 1 << cpu)
}

fn logical_destinations(me: usize) {
    const FIXED: u32 = ICR_LOGICAL | ICR_ASSERT | GROUP_VECTOR as u32;
    let reached = |cpu: usize| cpu < 8 && smp::apic_id(cpu) >> 4 == smp::apic_id(0) >> 4;
    cpu::enable_interrupts();
    in_turns(me, || {
        let even = |cpu: usize| reached(cpu) && cpu.is_multiple_of(2);
        send_to(me, "a logical destination", &GROUP, logical_destination(even), FIXED, even);
        send_to(me, "a logical destination for all", &GROUP, logical_destination(reached), FIXED, reached);
        // "Lowest priority" is reserved in the x2APIC's ICR.
        if !apic::is_x2apic() {
            lowest_priority(logical_destination(reached));
        }
    });
    cpu::disable_interrupts();
}

/// Lands on exactly one of the set, whichever.
fn lowest_priority(destination: u32) {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let sum = || GROUP.iter().map(|count| count.load(SeqCst)).sum::<u32>();
    for _ in 0..rounds() {
        let before = sum();
        apic::send_ipi(destination, ICR_LOGICAL | ICR_LOWEST_PRIORITY | ICR_ASSERT | u32::from(GROUP_VECTOR));
        let sent = SENT.fetch_add(1, SeqCst);
        wait_for("a lowest-priority IPI arrives", || sum() > before);
        smp::wait_us(20);
        check!(sum() == before + 1, "lowest-priority IPI {sent} arrived {} times", sum() - before);
    }
}

/// NMIs come in though interrupts are off.
fn nmis(me: usize) {
    in_turns(me, || {
        for _ in 0..rounds() {
            for target in (0..crew::count()).filter(|target| *target != me) {
                let command = DELIVERY_NMI | ICR_ASSERT;
                send_to(me, "an NMI", &NMIS, smp::apic_id(target), command, |cpu| cpu == target);
            }
        }
        send_to(me, "NMIs to all others", &NMIS, 0, ICR_OTHERS | DELIVERY_NMI | ICR_ASSERT, |cpu| cpu != me);
    });
}
