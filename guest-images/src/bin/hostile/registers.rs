//! Model-specific registers, control and debug registers, XCR0, and the descriptor tables.

use crate::plan::{Plan, RAX, RBX, RCX, RDX};
use crate::random::Random;
use crate::tables::{HOSTILE_GDT, HOSTILE_IDT, SCRATCH};

const RDMSR: [u8; 2] = [0x0F, 0x32];
const WRMSR: [u8; 2] = [0x0F, 0x30];

/// MSRs with a meaning.
const MSRS: [u32; 40] = [
    0x10,
    0x1B,
    0x3A,
    0x3B,
    0x48,
    0x49,
    0x79,
    0x8B,
    0xFE,
    0x10B,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17A,
    0x186,
    0x1A0,
    0x1D9,
    0x200,
    0x20F,
    0x250,
    0x277,
    0x2FF,
    0x38F,
    0x480,
    0x491,
    0x6E0,
    0xDA0,
    0x4B56_4D00,
    0x4B56_4D03,
    0x4000_0000,
    0xC000_0080,
    0xC000_0081,
    0xC000_0082,
    0xC000_0084,
    0xC000_0100,
    0xC000_0101,
    0xC000_0102,
    0xC000_0103,
    0xC001_0015,
];

/// RDMSR and WRMSR.
pub(crate) fn msrs(random: &mut Random) -> Plan {
    let msr = match random.below(8) {
        0 => random.next() as u32,
        // The x2APIC's registers.
        1 => 0x800 + random.next() as u32 % 0x100,
        2 => random.next() as u32 & 0x1FFF,
        _ => random.pick(&MSRS),
    };
    let value = random.value();
    let plan = Plan::new(random).set(RCX, msr.into()).set(RAX, value).set(RDX, value >> 32);
    let plan = if random.one_in(3) { plan.code(&RDMSR) } else { plan.code(&WRMSR).code(&RDMSR) };
    // Whatever it was, the memory that a paravirtual clock would write to is touched.
    plan.code(&[0x48, 0x8B, 0x03]).stepped(random)
}

/// Control and debug registers, the task-switched flag, the machine status word and XCR0.
pub(crate) fn control(random: &mut Random) -> Plan {
    // A register that is nearly right goes further than any: what is read, with a bit or two changed.
    let flipped = 1_u64 << random.below(64) | if random.one_in(2) { 1 << random.below(32) } else { 0 };
    let plan = Plan::new(random).set(RBX, flipped).set(RCX, random.next() % 3);
    let number = random.pick(&[0, 0, 2, 3, 4, 4, 8, 1, 7]);
    let (rex, modrm) = if number >= 8 { (0x44, 0xC0) } else { (0x40, 0xC0 | number << 3) };
    let debug = 0xC0 | (random.byte() & 7) << 3;
    // xor rax, rbx; xor ecx, ecx; xgetbv
    let (xor_rax_rbx, xgetbv) = ([0x48, 0x31, 0xD8], [0x31, 0xC9, 0x0F, 0x01, 0xD0]);
    let plan = match random.below(8) {
        0..4 => plan.code(&[rex, 0x0F, 0x20, modrm]).code(&xor_rax_rbx).code(&[rex, 0x0F, 0x22, modrm]),
        4 => plan.code(&[rex, 0x0F, 0x22, modrm]),
        5 => plan.code(&[0x0F, 0x21, debug]).code(&xor_rax_rbx).code(&[0x0F, 0x23, debug]),
        6 => plan.code(&xgetbv).code(&xor_rax_rbx).code(&[0x0F, 0x01, 0xD1]),
        // lmsw ax; clts; smsw
        _ => plan.code(&[0x0F, 0x01, 0xF0, 0x0F, 0x06, 0x0F, 0x01, 0xE0]),
    };
    // And memory is touched by the new rules.
    plan.code(&[0x48, 0x89, 0x23, 0x0F, 0xA2]).stepped(random)
}

/// Garbage in the GDT and the IDT, but for the entries that lead back; then segments, far jumps and interrupts by it. Now and
/// then other tables altogether, which mostly is the end.
pub(crate) fn descriptors(random: &mut Random) -> Plan {
    // The others are the way back: 64-bit code, data, and the task states.
    const ENTRIES: [usize; 9] = [3, 4, 5, 6, 7, 12, 13, 14, 15];
    let entry = random.pick(&ENTRIES);
    HOSTILE_GDT.set(entry, if random.one_in(2) { random.next() } else { random.value() });
    let vector = 0x50 + random.below(0x80);
    HOSTILE_IDT.set(2 * vector + random.below(2), random.next());
    let selector = (entry as u64 * 8) | random.next() & 7;
    let plan = Plan::new(random).set(RAX, selector).set(RBX, SCRATCH);
    let plan = match random.below(10) {
        // mov Sreg, ax
        0..3 => plan.code(&[0x8E, 0xC0 | (random.byte() & 7) << 3]),
        // lldt, ltr, verr, verw; lar, lsl
        3 => plan.code(&[0x0F, 0x00, 0xD0 | (random.byte() & 7) << 3]),
        4 => plan.code(&[0x0F, 0x00, 0xD8]),
        5 => plan.code(&[0x0F, 0x02, 0xC8, 0x0F, 0x03, 0xD0]),
        // push rax; push rbx; retf, iret
        6 => plan.code(&[0x50, 0x53, 0x48, 0xCB]),
        7 => plan.code(&[0x54, 0x54, 0x9C, 0x50, 0x53, 0x48, 0xCF]),
        8 => plan.code(&[0xCD, vector as u8]),
        // lgdt, lidt [rbx]
        _ if random.one_in(8) => plan.code(&[0x0F, 0x01, random.pick(&[0x13, 0x1B])]),
        // sgdt, sidt, sldt, str
        _ => plan.code(&[0x0F, 0x01, 0x03, 0x0F, 0x01, 0x0B, 0x0F, 0x00, 0x03, 0x0F, 0x00, 0x0B]),
    };
    plan.stepped(random)
}
