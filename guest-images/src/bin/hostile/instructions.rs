//! Instruction bytes: any, the privileged ones, those of VMX and its kin, and code that writes over itself.

use crate::plan::{Mode, Plan, RAX, RCX, RDI, RSI};
use crate::random::Random;
use crate::sandbox::code_address;
use crate::tables::SCRATCH;

/// Prefixes: operand and address size, segments, LOCK, REP, REX.
const PREFIXES: [u8; 14] = [0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0x41, 0x48, 0x4F];

/// Opcodes that concern the system, with the bytes that belong to them; what follows is at random.
const PRIVILEGED: [&[u8]; 56] = [
    &[0x0F, 0x00],
    &[0x0F, 0x01],
    &[0x0F, 0x01, 0xC8],
    &[0x0F, 0x01, 0xC9],
    &[0x0F, 0x01, 0xCA],
    &[0x0F, 0x01, 0xCB],
    &[0x0F, 0x01, 0xD0],
    &[0x0F, 0x01, 0xD1],
    &[0x0F, 0x01, 0xF8],
    &[0x0F, 0x01, 0xF9],
    &[0x0F, 0x02],
    &[0x0F, 0x03],
    &[0x0F, 0x05],
    &[0x0F, 0x06],
    &[0x0F, 0x07],
    &[0x0F, 0x08],
    &[0x0F, 0x09],
    &[0x0F, 0x20],
    &[0x0F, 0x21],
    &[0x0F, 0x22],
    &[0x0F, 0x23],
    &[0x0F, 0x30],
    &[0x0F, 0x31],
    &[0x0F, 0x32],
    &[0x0F, 0x33],
    &[0x0F, 0x34],
    &[0x0F, 0x35],
    &[0x0F, 0xA2],
    &[0x0F, 0xAE],
    &[0x0F, 0xC7],
    &[0x66, 0x0F, 0x38, 0x82],
    &[0x6C],
    &[0x6D],
    &[0x6E],
    &[0x6F],
    &[0x8C],
    &[0x8E],
    &[0x9A],
    &[0x9B],
    &[0x9C],
    &[0x9D],
    &[0xCA],
    &[0xCB],
    &[0xCC],
    &[0xCD],
    &[0xCE],
    &[0xCF],
    &[0xE4],
    &[0xE6],
    &[0xEA],
    &[0xEC],
    &[0xEE],
    &[0xF1],
    &[0xF4],
    &[0xFA],
    &[0xFB],
];

/// VMX, SMX, SGX, SVM and system-management instructions.
const VMX: [&[u8]; 22] = [
    &[0x0F, 0x01, 0xC1],
    &[0x0F, 0x01, 0xC2],
    &[0x0F, 0x01, 0xC3],
    &[0x0F, 0x01, 0xC4],
    &[0x0F, 0x01, 0xCF],
    &[0x0F, 0x01, 0xD4],
    &[0x0F, 0x01, 0xD7],
    &[0x0F, 0x01, 0xD8],
    &[0x0F, 0x01, 0xD9],
    &[0x0F, 0x01, 0xDA],
    &[0x0F, 0x37],
    &[0x0F, 0x78],
    &[0x0F, 0x79],
    &[0x0F, 0xAA],
    &[0x0F, 0xC7, 0x33],
    &[0x0F, 0xC7, 0x3B],
    &[0x66, 0x0F, 0xC7, 0x33],
    &[0xF3, 0x0F, 0xC7, 0x33],
    &[0x66, 0x0F, 0x38, 0x80],
    &[0x66, 0x0F, 0x38, 0x81],
    &[0x66, 0x0F, 0x38, 0x82],
    &[0x0F, 0x01, 0xC0],
];

/// Any bytes.
pub(crate) fn any_bytes(random: &mut Random) -> Plan {
    let mut plan = Plan::new(random);
    for _ in 0..1 + random.below(48) {
        plan = plan.code(&[random.byte()]);
    }
    plan.anyhow(random)
}

pub(crate) fn privileged(random: &mut Random) -> Plan {
    from_table(random, &PRIVILEGED).anyhow(random)
}

pub(crate) fn vmx(random: &mut Random) -> Plan {
    from_table(random, &VMX).anyhow(random)
}

/// A few instructions out of a table, some with prefixes, all with operands at random.
fn from_table(random: &mut Random, table: &[&[u8]]) -> Plan {
    let mut plan = Plan::new(random);
    for _ in 0..1 + random.below(4) {
        if random.one_in(3) {
            plan = plan.code(&[random.pick(&PREFIXES)]);
        }
        plan = plan.code(random.pick(table)).code(&[random.byte()]);
        if random.one_in(4) {
            plan = plan.code(&random.next().to_le_bytes());
        }
    }
    plan
}

/// Code that writes over what it is about to execute, over an instruction on a device, or over what the other CPU executes.
pub(crate) fn self_modifying(random: &mut Random) -> Plan {
    const REP_MOVSB: [u8; 2] = [0xF3, 0xA4];
    const REP_STOSB: [u8; 2] = [0xF3, 0xAA];
    let code = code_address(random.below(crate::CPUS), Mode::Kernel64);
    let target = code + random.next() % 64;
    let plan = Plan::new(random).set(RDI, target).set(RSI, SCRATCH + random.next() % 0x1000);
    let plan = plan.set(RCX, random.next() % 64).set(RAX, random.next());
    let plan = match random.below(4) {
        0 => plan.code(&REP_MOVSB),
        1 => plan.code(&REP_STOSB),
        // mov [rdi], rax
        2 => plan.code(&[0x48, 0x89, 0x07]),
        // Again and again, for the other CPU: 2: mov [rdi], rax; add rax, r8; loop 2b
        _ => plan.set(RCX, 1 + random.next() % 4096).code(&[0x48, 0x89, 0x07, 0x4C, 0x01, 0xC0, 0xE2, 0xF8]),
    };
    // What it writes over: instructions on [rbx], a device.
    let device = random.device();
    let mut plan = plan.set(crate::plan::RBX, device);
    for _ in 0..8 {
        plan = plan.code(&[0x8B, 0x03, 0x90, 0x89, 0x03]);
    }
    plan.stepped(random)
}
