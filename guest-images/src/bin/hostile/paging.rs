//! Page tables with entries at random, and memory touched through them.

use crate::plan::{Plan, RAX, RBX, RCX, RDX};
use crate::random::Random;
use crate::tables::{SCRATCH, SPARE_PAGE_TABLES, fill_page_tables};

/// The first page-directory entries map this kernel: they stay.
const KERNEL_ENTRIES: usize = 4;

/// Spoils some entries of spare tables, loads CR3 with them, and touches memory that they map, or do not.
pub(crate) fn mutated(random: &mut Random) -> Plan {
    let tables = &SPARE_PAGE_TABLES;
    fill_page_tables(tables);
    for _ in 0..1 + random.below(8) {
        let value = match random.below(6) {
            0 => random.next(),
            // A page or a table anywhere that a guest has, with any rights; now and then where no table can be.
            1..4 if random.one_in(50) => random.address() & 0x000F_FFFF_FFFF_F000 | 7,
            1..4 => random.next() & 0x7F_F000 | random.next() & 0x8000_0000_0000_01FF,
            // The tables themselves, writable.
            4 => (tables.address() + 0x1000 * (random.next() % 6)) | 7,
            _ => SCRATCH | 7,
        };
        // Entry 0 of the first two tables leads to the kernel.
        let index = match random.below(4) {
            0 => 1 + random.below(511),
            1 => 512 + 1 + random.below(511),
            _ => 1024 + KERNEL_ENTRIES + random.below(2048 - KERNEL_ENTRIES),
        };
        tables.set(index, value);
    }
    let cr3 = match random.below(400) {
        // Tables in device memory, in memory that is not there, or anywhere: the end, mostly.
        0 => random.address() & !0xFFF,
        // With PCD, PWT or a PCID.
        1..100 => tables.address() | random.next() & 0xFFF,
        _ => tables.address(),
    };
    let mut touched = || match random.below(4) {
        // By the second half of the first tables, by a directory that is another now, or anywhere.
        0 => random.next() & 0x7F_FFFF_FFFF,
        1 => random.next() & 0xFFFF_FFFF,
        2 => (random.next() & 0x1FF) << 39 | random.next() & 0xFFFF_FFFF,
        _ => random.address(),
    };
    let (a, b) = (touched(), touched());
    let plan = Plan::new(random).set(RAX, cr3).set(RBX, a).set(RCX, b).set(RDX, random.next());
    // mov cr3, rax, then: mov rdx, [rbx]; mov [rcx], rdx; invlpg [rbx]; lock inc [rbx]; jmp rbx
    let plan = plan.code(&[0x0F, 0x22, 0xD8]);
    let plan = match random.below(6) {
        0 => plan.code(&[0x48, 0x8B, 0x13]),
        1 => plan.code(&[0x48, 0x89, 0x11]),
        2 => plan.code(&[0x0F, 0x01, 0x3B, 0x48, 0x8B, 0x13, 0x48, 0x89, 0x11]),
        3 => plan.code(&[0xF0, 0x48, 0xFF, 0x03]),
        4 => plan.code(&[0xFF, 0xE3]),
        // movsq, on two pages at once
        _ => plan.code(&[0x48, 0x89, 0xDE, 0x48, 0x89, 0xCF, 0x48, 0xA5]),
    };
    plan.stepped(random)
}
