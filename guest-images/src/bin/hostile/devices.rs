//! Ports and device memory, by every instruction that reaches them.

use crate::plan::{Plan, RAX, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::random::Random;

/// Ports of the PC's devices. Left out are those with which a guest ends by itself at once: it would do nothing else.
const PORTS: [u16; 34] = [
    0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x70, 0x71, 0x80, 0x92, 0x4D0, 0x4D1, 0x3F8, 0x3F9,
    0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF, 0xCF8, 0xCF9, 0xCFC, 0xCFD, 0xCFF, 0xFFFF, 0xFFFE, 0x600, 0x604, 0x608,
];

/// IN, OUT, INS and OUTS of every width, repeated or not.
pub(crate) fn ports(random: &mut Random) -> Plan {
    let port = if random.one_in(3) { random.next() as u16 } else { random.pick(&PORTS) };
    let (source, target) = (random.address(), random.address());
    let mut plan = Plan::new(random).set(RDX, port.into()).set(RSI, source).set(RDI, target);
    let count = if random.one_in(4) { random.next() } else { random.next() % 300 };
    plan = plan.set(RCX, count);
    for _ in 0..1 + random.below(4) {
        if random.one_in(3) {
            plan = plan.code(&[0x66]);
        }
        plan = match random.below(12) {
            0..8 => plan.code(&[random.pick(&[0xEC, 0xED, 0xEE, 0xEF])]),
            8 => plan.code(&[random.pick(&[0x6C, 0x6D, 0x6E, 0x6F])]),
            9 => plan.code(&[0xF3, random.pick(&[0x6C, 0x6D, 0x6E, 0x6F])]),
            10 => plan.code(&[0x67, 0xF3, random.pick(&[0x6C, 0x6D, 0x6E, 0x6F])]),
            // By immediate, and with the next value.
            _ => plan.code(&[random.pick(&[0xE4, 0xE5, 0xE6, 0xE7]), random.pick(&PORTS) as u8]),
        };
        // add eax, ecx: another value
        plan = plan.code(&[0x01, 0xC8]);
    }
    if random.one_in(3) { plan.anyhow(random) } else { plan.stepped(random) }
}

/// Any register in the ModRM byte.
const ANY: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];

/// Opcodes with a ModRM byte that read or write memory, and what may be in its register field.
const MEMORY: [(&[u8], &[u8]); 32] = [
    (&[0x88], ANY),
    (&[0x89], ANY),
    (&[0x8A], ANY),
    (&[0x8B], ANY),
    (&[0xC6], &[0]),
    (&[0xC7], &[0]),
    (&[0x00], ANY),
    (&[0x01], ANY),
    (&[0x03], ANY),
    (&[0x09], ANY),
    (&[0x21], ANY),
    (&[0x29], ANY),
    (&[0x31], ANY),
    (&[0x39], ANY),
    (&[0x3B], ANY),
    (&[0x80], ANY),
    (&[0x81], ANY),
    (&[0x83], ANY),
    (&[0x84], ANY),
    (&[0x85], ANY),
    (&[0x86], ANY),
    (&[0x87], ANY),
    (&[0xF6], &[0, 2, 3]),
    (&[0xF7], &[0, 2, 3]),
    (&[0xFE], &[0, 1]),
    (&[0xFF], &[0, 1, 6]),
    (&[0x0F, 0xB1], ANY),
    (&[0x0F, 0xB6], ANY),
    (&[0x0F, 0xBE], ANY),
    (&[0x0F, 0xC1], ANY),
    (&[0x0F, 0xAB], ANY),
    (&[0x0F, 0xBA], &[4, 5, 6, 7]),
];

/// Those that no driver would use on a device: the hypervisor may end the VM for them.
const UNUSUAL: [(&[u8], &[u8]); 8] = [
    (&[0x8F], &[0]),
    (&[0xD1], ANY),
    (&[0xF7], &[4, 5, 6, 7]),
    (&[0xFF], &[2, 3, 4, 5]),
    (&[0x0F, 0xC3], ANY),
    (&[0x0F, 0x10], ANY),
    (&[0x0F, 0x6F], ANY),
    (&[0x0F, 0xC7], ANY),
];

/// The string instructions.
const STRINGS: [u8; 10] = [0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF];

/// Device registers, and memory that is not there, by every form of access.
pub(crate) fn memory(random: &mut Random) -> Plan {
    let address = if random.one_in(8) { random.address() } else { random.device() };
    let mut plan = Plan::new(random).set(RBX, address).set(RDI, address).set(RAX, random.next());
    plan = plan.set(RCX, random.next() % 40).set(RSI, random.address());
    if random.one_in(16) {
        plan = plan.set(RSP, address & !7);
    }
    for _ in 0..1 + random.below(4) {
        if random.one_in(3) {
            plan = plan.code(&[random.pick(&[0x66, 0x48, 0xF0, 0xF2, 0xF3])]);
        }
        if random.one_in(6) {
            plan = plan.code(&[random.pick(&STRINGS)]);
            continue;
        }
        // [rbx], or now and then any operand.
        let (opcode, registers) = if random.one_in(100) { random.pick(&UNUSUAL) } else { random.pick(&MEMORY) };
        let rm = if random.one_in(8) { random.byte() & 0xC7 } else { 3 };
        plan = plan.code(opcode).code(&[rm | random.pick(registers) << 3, 0, random.byte(), 0, 0]);
    }
    if random.one_in(4) { plan.anyhow(random) } else { plan.stepped(random) }
}
