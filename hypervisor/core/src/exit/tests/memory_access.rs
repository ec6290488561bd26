//! EPT violations, APIC accesses, and what follows from them.

use super::*;

const READ: u64 = 0x181;
const WRITE: u64 = 0x182;
const IOAPIC: u64 = 0xfec0_0000;
const LAPIC: u64 = 0xfee0_0000;

fn violation(world: &mut World, gpa: u64, qualification: u64) -> Outcome {
    world.handle(&RawExit { reason: 48, qualification, guest_linear: gpa, guest_physical: gpa, ..RawExit::default() })
}

#[test]
fn ram_is_populated_whatever_the_access() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    for qualification in [READ, WRITE, 0x184, 1, 0x81] {
        assert_eq!(violation(&mut world, 0x10_2345, qualification), Outcome::Populate(GuestPhysAddr(0x10_2345)));
    }
}

#[test]
fn the_io_apic_is_reached_by_its_index_and_window() {
    // mov dword [rbx], 1; mov eax, [rbx + 0x10]
    let mut world = World::new(FakeVcpu::bits64(), &[0xc7, 0x03, 1, 0, 0, 0, 0x8b, 0x43, 0x10]);
    world.gprs.rbx = IOAPIC;
    world.gprs.rax = u64::MAX;
    assert_eq!(violation(&mut world, IOAPIC, WRITE), Outcome::Resume);
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 6);
    assert_eq!(violation(&mut world, IOAPIC + 0x10, READ), Outcome::Resume);
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 9);
    assert_eq!(world.gprs.rax >> 16, 23, "24 redirection entries; the upper half of RAX is cleared");
}

#[test]
fn the_local_apic_is_reached_in_xapic_mode_alone() {
    // mov [rbx], eax; mov ecx, [rbx]
    let code = [0x89, 0x03, 0x8b, 0x0b];
    let mut world = World::new(FakeVcpu::bits64(), &code);
    world.gprs = Gprs { rbx: LAPIC + 0x80, rax: 0x20, ..Gprs::default() };
    assert_eq!(violation(&mut world, LAPIC + 0x80, WRITE), Outcome::Resume);
    assert_eq!(violation(&mut world, LAPIC + 0x80, READ), Outcome::Resume);
    assert_eq!((world.gprs.rcx, world.apic.processor_priority()), (0x20, 0x20));
    assert_eq!(world.counters.unknown_pages.total(), 0);
    world.apic.set_base_msr(0xfee0_0d00).unwrap();
    world.vcpu.write(GuestField::Rip, CODE + 2);
    assert_eq!(violation(&mut world, LAPIC + 0x80, READ), Outcome::Resume);
    assert_eq!(world.gprs.rcx, 0xffff_ffff, "no page in x2APIC mode");
    assert_eq!(world.counters.unknown_pages.entries().next(), Some((LAPIC, 1)));
}

#[test]
fn what_is_not_there_reads_ones_and_is_counted() {
    // movzx eax, byte [rbx]; mov qword [rbx], 7
    let mut world = World::new(FakeVcpu::bits64(), &[0x0f, 0xb6, 0x03, 0x48, 0xc7, 0x03, 7, 0, 0, 0]);
    world.gprs.rbx = 0xd000_0ff8;
    assert_eq!(violation(&mut world, 0xd000_0ff8, READ), Outcome::Resume);
    assert_eq!(world.gprs.rax, 0xff);
    assert_eq!(violation(&mut world, 0xd000_0ff8, WRITE), Outcome::Resume);
    assert_eq!(world.counters.unknown_pages.entries().next(), Some((0xd000_0000, 2)));
}

#[test]
fn accesses_that_no_device_can_answer_end_the_vm() {
    for (qualification, vectoring, word) in [
        (0x184, 0, "fetched an instruction"),
        (0x081, 0, "paging structure"),
        (0x001, 0, "paging structure"),
        (WRITE, 0x8000_0b0e, "exception or interrupt"),
    ] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        let text = crash_text(world.handle(&RawExit {
            reason: 48,
            qualification,
            guest_linear: 0xd000_0000,
            guest_physical: 0xd000_0000,
            idt_vectoring_info: vectoring,
            ..RawExit::default()
        }));
        assert!(text.contains(word) && text.contains("0xd0000000") && text.contains("RIP 0x2000"), "{text}");
    }
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert!(crash_text(world.exit(ExitReason::EptMisconfiguration, 0)).starts_with("EPT misconfiguration"));
}

#[test]
fn an_instruction_that_is_not_carried_out_is_shown() {
    // movaps xmm0, [rbx]; then bytes that are no instruction; then bytes outside RAM.
    let mut world = World::new(FakeVcpu::bits64(), &[0x0f, 0x28, 0x03]);
    world.gprs.rbx = IOAPIC;
    let text = crash_text(violation(&mut world, IOAPIC, READ));
    assert!(text.starts_with("MMIO instruction not supported: bytes 0f 28 03 at RIP 0x2000"), "{text}");
    let mut world = World::new(FakeVcpu::bits64(), &[0x06]);
    assert!(crash_text(violation(&mut world, IOAPIC, READ)).contains("bytes 06"));
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.vcpu.write(GuestField::Rip, 0xd000_0000);
    assert!(crash_text(violation(&mut world, IOAPIC, READ)).contains("bytes ff ff"));
}

#[test]
fn a_page_table_outside_ram_ends_the_vm() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.vcpu.write(GuestField::Cr3, 0x8000_0000);
    assert!(
        crash_text(violation(&mut world, IOAPIC, READ))
            .contains("page table for linear address 0x2000 outside its RAM")
    );
}

#[test]
fn apic_access_exits_walk_the_page_tables() {
    // mov [rbx], eax
    let mut world = World::new(FakeVcpu::bits64(), &[0x89, 0x03]);
    world.gprs = Gprs { rbx: LAPIC + 0x80, rax: 0x30, ..Gprs::default() };
    assert_eq!(world.exit(ExitReason::ApicAccess, 0x1080), Outcome::Resume);
    assert_eq!(world.apic.processor_priority(), 0x30);
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 2);
    for (kind, word) in [(2, "fetched"), (3, "delivered"), (10, "delivered"), (15, "not handled"), (4, "not handled")] {
        let text = crash_text(world.exit(ExitReason::ApicAccess, kind << 12 | 0x80));
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn apic_write_exits_are_traps() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    // The CPU stored SVR = 0x1ff in the page; here the model does, and the exit's handler is asked to look.
    world.apic.mmio_write(0xf0, 0x1ff, world.now);
    let before = world.vcpu.clone();
    assert_eq!(world.exit(ExitReason::ApicWrite, 0xf0), Outcome::Resume);
    assert!(world.apic.software_enabled());
    assert_eq!(world.exit(ExitReason::VirtualizedEoi, 0x31), Outcome::Resume);
    assert_eq!(world.vcpu, before);
}

#[test]
fn an_eoi_reaches_the_io_apic() {
    // mov dword [rbx], 0: the EOI register.
    let mut world = World::new(FakeVcpu::bits64(), &[0xc7, 0x03, 0, 0, 0, 0]);
    world.gprs.rbx = LAPIC + 0xb0;
    world.apic.mmio_write(0xf0, 0x1ff, 0);
    // Pin 9 (SCI), level-triggered, vector 0x39; the power button raises it.
    let ioapic_write = |world: &mut World, register: u64, value: u64| {
        let (gpa, width) = (GuestPhysAddr(register), crate::bus::Width::Dword);
        world.board.mmio_write(gpa, width, value, 0, &mut world.memory).unwrap().unwrap();
    };
    let mut program = |index: u64, value: u64| {
        ioapic_write(&mut world, IOAPIC, index);
        ioapic_write(&mut world, IOAPIC + 0x10, value);
    };
    program(0x10 + 18, 0x8039);
    program(0x10 + 19, 0);
    // SCI enable in PM1 control, power-button enable in the PM1 event block.
    world.board.port_write(0x604, crate::bus::Width::Word, 1, 0);
    world.board.port_write(0x602, crate::bus::Width::Word, 1 << 8, 0);
    world.board.power_button(0);
    let message = world.board.take_message().expect("the SCI");
    world.apic.accept(&message);
    world.apic.acknowledge(0x39);
    assert!(world.board.take_message().is_none(), "remote IRR holds it back");
    assert_eq!(violation(&mut world, LAPIC + 0xb0, WRITE), Outcome::Resume);
    assert_eq!(world.board.take_message().map(|message| message.vector), Some(0x39), "the line is still high");
}

/// A balloon's driver in a VM whose host has run out of memory: the notification exits, the ring's page is asked for,
/// and the instruction, carried out again, gives the pages once.
#[test]
fn a_notification_hands_the_rings_pages_to_the_host() {
    use crate::device::board::spec::BALLOON_BASE;
    use crate::device::virtio::tests::{DriverQueue, Part, Ram, pfns};
    const BUFFER: u64 = 0x6000;
    // mov [rbx], eax
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.board = Board::new(&BoardConfig {
        clock: TickClock::new(TSC_HZ),
        ram_len_bytes: MEMORY_LEN as u64,
        boot_time_unix_s: 0,
        ioapic_id: 1,
        balloon: true,
        watchdog_fired: false,
    });
    let mut ram = Ram::new();
    let copied = 0x2_0000;
    let mut bytes = std::vec![0; copied];
    memory_with(&[0x89, 0x03]).read(GuestPhysAddr(0), &mut bytes).unwrap();
    ram.put(0, &bytes);
    let write = |world: &mut World, ram: &mut Ram, register: u32, value: u32| {
        world.vcpu.write(GuestField::Rip, CODE);
        world.gprs = Gprs { rbx: BALLOON_BASE + u64::from(register), rax: value.into(), ..Gprs::default() };
        let World { vcpu, gprs, cr2, ram: layout, board, apic, cpu, now, counters, .. } = world;
        let gpa = gprs.rbx;
        handle(
            &RawExit { reason: 48, qualification: WRITE, guest_linear: gpa, guest_physical: gpa, ..RawExit::default() },
            &mut Context { state: vcpu, gprs, cr2, memory: ram, ram: layout, board, apic, cpu, now: *now, counters },
        )
    };
    let mut driver = DriverQueue::new(0x4000, 16);
    let mut steps = std::vec![(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)];
    steps.extend(driver.set_up(0));
    steps.push((0x70, 15));
    for (register, value) in steps {
        assert_eq!(write(&mut world, &mut ram, register, value), Outcome::Resume);
    }
    ram.put(BUFFER, &pfns([0x80, 0x81]));
    driver.offer(&mut ram, &[Part::readable(BUFFER, 8)]);
    ram.unbacked = Some(0x4000);
    assert_eq!(write(&mut world, &mut ram, 0x50, 0), Outcome::Populate(GuestPhysAddr(driver.used_ring() + 4)));
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE);
    ram.unbacked = None;
    assert_eq!(write(&mut world, &mut ram, 0x50, 0), Outcome::Resume);
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 2);
    assert_eq!(driver.collect(&ram), Some((0, 0)));
    assert!(ram.discarded.contains(&0x8_0000) && ram.discarded.contains(&0x8_1000));
    assert_eq!(world.board.balloon_status().map(|status| status.inflated), Some(2), "counted once");
}

#[test]
fn a_long_row_of_accesses_to_nothing_is_a_loop_and_a_broken_one_is_none() {
    // mov ecx, [rbx]
    let mut world = World::new(FakeVcpu::bits64(), &[0x8b, 0x0b]);
    world.counters.missed.limit = 100;
    let access = |world: &mut World, gpa: u64| {
        world.gprs.rbx = gpa;
        world.vcpu.write(GuestField::Rip, CODE);
        violation(world, gpa, READ)
    };
    // What ends a row: any exit of the guest's own, a device, new memory.
    let others: [&dyn Fn(&mut World) -> Outcome; 4] = [
        &|world| world.exit(ExitReason::IoInstruction, 0x80 << 16),
        &|world| world.exit(ExitReason::Cpuid, 0),
        &|world| access(world, IOAPIC),
        &|world| violation(world, 0x10_0000, READ),
    ];
    for other in others {
        for number in 0..99 {
            assert_eq!(access(&mut world, 0xd000_0000 + 8 * number), Outcome::Resume);
        }
        assert!(!matches!(other(&mut world), Outcome::Stop(_)));
    }
    // The host's own exits do not; wherever the accesses go, the hundredth is one too many.
    for number in 0..99 {
        assert_eq!(access(&mut world, 0xd000_0000 + 8 * number), Outcome::Resume);
        world.exit(ExitReason::PreemptionTimer, 0);
        world.exit(ExitReason::ExternalInterrupt, 0);
    }
    let fault = match access(&mut world, 0xd000_0000) {
        Outcome::Stop(StopReason::Fault(fault)) => fault,
        other => panic!("no fault: {other:?}"),
    };
    assert_eq!(fault.kind, FaultKind::AccessLoop);
    assert!(fault.detail.starts_with("100 accesses in a row to memory that is not there"), "{}", fault.detail);
    // Who is resumed begins anew.
    assert_eq!(access(&mut world, 0xd000_0000), Outcome::Resume);
}

#[test]
fn a_device_that_ends_the_vm_has_taken_what_was_written() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs.rax = 6;
    assert_eq!(world.exit(ExitReason::IoInstruction, 0xcf9 << 16), Outcome::Stop(StopReason::Reset));
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 2, "behind the instruction, if it is resumed");
}
