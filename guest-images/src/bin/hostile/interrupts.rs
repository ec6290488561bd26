//! Interrupt controllers and timers set up at random, and interrupts sent between the CPUs as fast as they can.

use guest::apic::{IOAPIC_ADDRESS, XAPIC_ADDRESS};

use crate::plan::{Plan, RAX, RBX, RCX, RDX, RSI};
use crate::random::Random;

/// Registers of the local APIC: ID, TPR, EOI, LDR, DFR, SVR, ESR, ICR, the LVT, the timer.
const REGISTERS: [u64; 18] = [
    0x20, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x2F0, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380,
    0x3E0,
];
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;

/// A few writes to one controller, then some instructions with interrupts on.
pub(crate) fn controllers(random: &mut Random) -> Plan {
    // mov [rbx], eax; mov [rsi], edx
    const WRITE_BOTH: [u8; 4] = [0x89, 0x03, 0x89, 0x16];
    // out dx, al; xchg eax, ecx; out dx, al
    const OUT_TWICE: [u8; 3] = [0xEE, 0x91, 0xEE];
    let plan = Plan::new(random).set(RAX, random.next()).set(RCX, random.next());
    let plan = match random.below(8) {
        0..3 => {
            let (first, second) = (random.pick(&REGISTERS), random.pick(&REGISTERS));
            let plan = plan.set(RBX, XAPIC_ADDRESS + first).set(RSI, XAPIC_ADDRESS + second);
            plan.set(RDX, random.value()).code(&WRITE_BOTH)
        }
        3..5 => {
            let plan = plan.set(RBX, IOAPIC_ADDRESS).set(RSI, IOAPIC_ADDRESS + 0x10);
            // The entries of the inputs, each in two halves, and what lies before them.
            let plan = plan.set(RAX, random.next() % 0x48).set(RDX, random.next() & 0x1_FFFF);
            plan.code(&WRITE_BOTH)
        }
        // The PIC's initialisation and operation words, the PIT's modes and counts.
        5 => plan.set(RDX, random.pick(&[0x20, 0x21, 0xA0, 0xA1])).code(&OUT_TWICE),
        6 => plan.set(RDX, 0x43).code(&[0xEE, 0xB2, 0x40]).code(&OUT_TWICE),
        // The clock's registers and its periodic interrupt.
        _ => plan.set(RDX, 0x70).set(RAX, random.next() % 16).code(&[0xEE, 0xFE, 0xC2, 0x91, 0xEE]),
    };
    // nop and pause, now and then hlt: the watchdog ends it.
    let rest: &[u8] = if random.one_in(4) { &[0x90, 0xF4, 0x90] } else { &[0x90, 0xF3, 0x90, 0x90, 0x90, 0x90] };
    plan.code(rest)
}

/// Hundreds of interrupts, to one CPU or all.
pub(crate) fn flood(random: &mut Random) -> Plan {
    const SHORTHANDS: u64 = 3 << 18;
    // Fixed, lowest priority, NMI, and now and then INIT, start-up or what is reserved.
    let delivery = if random.one_in(16) { random.next() & 7 } else { random.pick(&[0, 0, 0, 1, 4]) };
    let icr = random.next() & (SHORTHANDS | 0xC8FF) | delivery << 8;
    let plan = Plan::new(random).set(RAX, icr).set(RBX, XAPIC_ADDRESS + ICR_LOW);
    let plan = plan.set(RSI, XAPIC_ADDRESS + ICR_HIGH).set(RDX, (random.next() % 4) << 24);
    let plan = plan.set(RCX, 1 + random.next() % 300);
    // mov [rsi], edx; 2: mov [rbx], eax; loop 2b
    let mut plan = plan.code(&[0x89, 0x16, 0x89, 0x03, 0xE2, 0xFC]);
    // With interrupts on, the first one that comes ends it.
    if random.one_in(2) {
        plan.rflags = 2;
    }
    plan
}
