//! IN, OUT, INS and OUTS.

use super::*;
use proptest::prelude::*;

const IN: u64 = 1 << 3;
const STRING: u64 = 1 << 4;
const REP: u64 = 1 << 5;
const BYTE: u64 = 0;
const WORD: u64 = 1;
const DWORD: u64 = 3;
/// Address sizes in the instruction information.
const ADDRESS_16: u32 = 0;
const ADDRESS_32: u32 = 1 << 7;
const ADDRESS_64: u32 = 2 << 7;
/// DS in the instruction information.
const DS: u32 = 3 << 15;
/// COM1's transmit register, and a port where nothing is.
const COM1: u64 = 0x3f8 << 16;
const NOWHERE: u64 = 0x1234 << 16;
/// The real-time clock's index register is a port whose reads are all-ones; the POST code port reads back.
const POST: u64 = 0x80 << 16;

fn string_exit(qualification: u64, info: u32) -> RawExit {
    RawExit {
        reason: 30,
        qualification: qualification | STRING,
        instruction_len: 2,
        instruction_info: info,
        ..RawExit::default()
    }
}

#[test]
fn in_merges_by_its_width() {
    for (width, expected) in [(BYTE, 0x1111_2222_3333_44ff), (WORD, 0x1111_2222_3333_ffff), (DWORD, 0xffff_ffff)] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        world.gprs.rax = 0x1111_2222_3333_4444;
        assert_eq!(world.exit(ExitReason::IoInstruction, NOWHERE | IN | width), Outcome::Advance);
        assert_eq!(world.gprs.rax, expected);
        assert_eq!(world.counters.unknown_ports.entries().next(), Some((0x1234, 1)));
    }
}

#[test]
fn out_reaches_the_devices_and_the_end_of_the_vm() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs.rax = u64::MAX << 8 | u64::from(b'L');
    assert_eq!(world.exit(ExitReason::IoInstruction, COM1 | BYTE), Outcome::Advance);
    assert_eq!(world.serial(), "L");
    assert_eq!(world.exit(ExitReason::IoInstruction, NOWHERE | WORD), Outcome::Advance);
    assert_eq!(world.counters.unknown_ports.total(), 1);
    world.gprs.rax = 0xffff_ffff_0000_002a;
    assert_eq!(world.exit(ExitReason::IoInstruction, 0xf4 << 16 | DWORD), Outcome::Stop(StopReason::Exit(42)));
    world.gprs.rax = 6;
    assert_eq!(world.exit(ExitReason::IoInstruction, 0xcf9 << 16 | BYTE), Outcome::Stop(StopReason::Reset));
}

#[test]
fn the_pvpanic_port_ends_the_vm_and_says_so() {
    const PVPANIC: u64 = 0x505 << 16;
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert_eq!(world.exit(ExitReason::IoInstruction, PVPANIC | IN | BYTE), Outcome::Advance);
    assert_eq!(world.gprs.rax & 0xff, 0b11);
    world.gprs.rax = 0b10;
    assert_eq!(world.exit(ExitReason::IoInstruction, PVPANIC | BYTE), Outcome::Advance);
    assert!(world.board.crash_loaded());
    world.gprs.rax = 0b01;
    let report = crash_text(world.exit(ExitReason::IoInstruction, PVPANIC | BYTE));
    assert!(report.starts_with("guest panic: ") && report.contains("0x505"), "{report}");
    assert_eq!(world.counters.unknown_ports.total(), 0);
}

#[test]
fn a_width_that_no_port_has_stops_the_vm() {
    for width in [2, 4, 5, 6, 7] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        assert!(crash_text(world.exit(ExitReason::IoInstruction, width)).contains("I/O instruction"));
    }
}

#[test]
fn rep_outsb_prints_and_steps() {
    for (vcpu, info) in [
        (FakeVcpu::bits64(), ADDRESS_64 | DS),
        (FakeVcpu::bits64(), ADDRESS_32 | DS),
        (FakeVcpu::bits32(), ADDRESS_32 | DS),
        (FakeVcpu::bits16(), ADDRESS_16 | DS),
    ] {
        let mut world = World::new(vcpu, &[]);
        world.memory.write(GuestPhysAddr(0x5ffe), b"Hello").unwrap();
        world.gprs = Gprs { rcx: 5, rsi: 0x5ffe, ..Gprs::default() };
        assert_eq!(world.handle(&string_exit(COM1 | BYTE | REP, info)), Outcome::Advance);
        assert_eq!(world.serial(), "Hello");
        assert_eq!((world.gprs.rcx, world.gprs.rsi), (0, 0x6003));
    }
}

#[test]
fn a_guest_that_single_steps_traps_after_each_iteration() {
    const TF: u64 = 1 << 8;
    const SINGLE_STEP: u64 = 1 << 14;
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.memory.write(GuestPhysAddr(0x5000), b"ab").unwrap();
    world.vcpu.write(GuestField::Rflags, 2 | TF);
    world.gprs = Gprs { rcx: 2, rsi: 0x5000, ..Gprs::default() };
    let exit = string_exit(COM1 | BYTE | REP, ADDRESS_64 | DS);
    assert_eq!(world.handle(&exit), Outcome::Resume);
    assert_eq!((world.gprs.rcx, world.gprs.rsi), (1, 0x5001));
    assert_eq!(world.vcpu.read(GuestField::PendingDebugExceptions), SINGLE_STEP);
    assert_eq!(world.handle(&exit), Outcome::Advance);
    assert_eq!(world.serial(), "ab");
}

#[test]
fn the_registers_keep_what_their_address_size_leaves_alone() {
    let mut world = World::new(FakeVcpu::bits16(), &[]);
    world.gprs = Gprs { rcx: 0xaaaa_0001, rdi: 0xbbbb_0100, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | WORD | REP, ADDRESS_16)), Outcome::Advance);
    assert_eq!((world.gprs.rcx, world.gprs.rdi), (0xaaaa_0000, 0xbbbb_0102));
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs = Gprs { rcx: 0xaaaa_0000_0001, rdi: 0xbbbb_0000_7000, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | WORD | REP, ADDRESS_32)), Outcome::Advance);
    assert_eq!((world.gprs.rcx, world.gprs.rdi), (0xaaaa_0000_0001 - 0xaaaa_0000_0001, 0x7002));
    assert_eq!(world.memory.read_u32(GuestPhysAddr(0x7000)).unwrap(), 0xffff);
}

#[test]
fn insd_backwards_across_a_page() {
    let mut vcpu = FakeVcpu::bits64();
    vcpu.write(GuestField::Rflags, 0x402);
    let mut world = World::new(vcpu, &[]);
    world.gprs = Gprs { rcx: 2, rdi: 0x6ffe, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | DWORD | REP, ADDRESS_64)), Outcome::Advance);
    assert_eq!((world.gprs.rcx, world.gprs.rdi), (0, 0x6ff6));
    assert_eq!(world.memory.read_u64(GuestPhysAddr(0x6ffa)).unwrap(), u64::MAX);
    assert_eq!(world.memory.read_u32(GuestPhysAddr(0x6ff6)).unwrap(), 0);
}

#[test]
fn a_long_transfer_takes_several_exits() {
    let mut world = World::new(FakeVcpu::bits32(), &[]);
    world.gprs = Gprs { rcx: 600, rdi: 0x7000, ..Gprs::default() };
    let exit = string_exit(NOWHERE | IN | BYTE | REP, ADDRESS_32);
    let mut exits = 1;
    while world.handle(&exit) == Outcome::Resume {
        assert_eq!(world.vcpu.read(GuestField::Rip), CODE, "the instruction goes on");
        exits += 1;
    }
    assert_eq!((exits, world.gprs.rcx, world.gprs.rdi), (3, 0, 0x7000 + 600));
}

#[test]
fn rep_with_a_count_of_zero_touches_nothing() {
    let mut world = World::new(FakeVcpu::bits32(), &[]);
    world.gprs = Gprs { rdi: 0xffff_f000, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(COM1 | IN | BYTE | REP, ADDRESS_32)), Outcome::Advance);
    assert_eq!(world.gprs.rdi, 0xffff_f000);
    assert_eq!(world.counters.unknown_ports.total(), 0);
}

#[test]
fn faults_come_before_the_port() {
    let page_fault = |code| Outcome::Inject(Event::exception_with_code(14, code));
    // Not mapped: 4 GiB and above.
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs = Gprs { rcx: 4, rdi: 1 << 32, rsi: 1 << 32, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | BYTE | REP, ADDRESS_64)), page_fault(2));
    assert_eq!(world.cr2, 1 << 32);
    assert_eq!(world.handle(&string_exit(COM1 | BYTE | REP, ADDRESS_64 | DS)), page_fault(0));
    assert_eq!(world.counters.unknown_ports.total(), 0, "the port was not touched");
    assert_eq!(world.gprs.rcx, 4);
    // Not canonical.
    world.gprs.rdi = 1 << 50;
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | BYTE | REP, ADDRESS_64)), GP);
    // Beyond the limit; the element before is done.
    let mut world = World::new(FakeVcpu::bits16(), &[]);
    world.gprs = Gprs { rcx: 2, rdi: 0xfffd, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | WORD | REP, ADDRESS_16)), GP);
    assert_eq!((world.gprs.rcx, world.gprs.rdi), (1, 0xffff));
    // Unusable, read-only, and the stack segment.
    for (field, rights, info, io, fault) in [
        (GuestField::EsAccessRights, 0x1_0000, ADDRESS_32, IN, GP),
        (GuestField::EsAccessRights, 0xc091, ADDRESS_32, IN, GP),
        (
            GuestField::SsAccessRights,
            0x1_0000,
            ADDRESS_32 | 2 << 15,
            0,
            Outcome::Inject(Event::exception_with_code(12, 0)),
        ),
        (GuestField::CsAccessRights, 0xc099, ADDRESS_32 | 1 << 15, 0, GP),
    ] {
        let mut world = World::new(FakeVcpu::bits32(), &[]);
        world.vcpu.write(field, rights);
        assert_eq!(world.handle(&string_exit(POST | BYTE | io, info)), fault, "{field:?}");
    }
}

#[test]
fn an_expand_down_segment_begins_above_its_limit() {
    let mut vcpu = FakeVcpu::bits32();
    vcpu.write(GuestField::DsAccessRights, 0xc097);
    vcpu.write(GuestField::DsLimit, 0x4fff);
    for (rsi, outcome) in [(0x4fff, GP), (0x5000, Outcome::Advance)] {
        let mut world = World::new(vcpu.clone(), &[]);
        world.gprs.rsi = rsi;
        assert_eq!(world.handle(&string_exit(COM1 | BYTE, ADDRESS_32 | DS)), outcome);
    }
}

#[test]
fn string_input_outside_ram_is_lost_and_output_is_ones() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs = Gprs { rdi: 0xa_0000, rsi: 0xc000_0000, ..Gprs::default() };
    assert_eq!(world.handle(&string_exit(NOWHERE | IN | DWORD, ADDRESS_64)), Outcome::Advance);
    assert_eq!(
        world.handle(&string_exit(0xf4 << 16 | DWORD, ADDRESS_64 | DS)),
        Outcome::Stop(StopReason::Exit(u32::MAX))
    );
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 2);
}

proptest! {
    /// Whatever the registers, an exit does a bounded amount of work and the counts add up.
    #[test]
    fn rep_ins_steps_as_often_as_it_counts(rcx in 0u64..2000, rdi in 0u64..0x3f_0000, width in prop::sample::select(&[BYTE, WORD, DWORD])) {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        // Keep the page tables.
        let rdi = rdi.max(0x2_0000);
        world.gprs = Gprs { rcx, rdi, ..Gprs::default() };
        let outcome = world.handle(&string_exit(NOWHERE | IN | REP | width, ADDRESS_64));
        let done = rcx - world.gprs.rcx;
        prop_assert_eq!(world.gprs.rdi, rdi + done * (width + 1));
        prop_assert!(done <= 256);
        prop_assert_eq!(outcome == Outcome::Advance, world.gprs.rcx == 0);
        prop_assert_eq!(world.counters.unknown_ports.total(), done);
    }
}
