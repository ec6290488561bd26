//! CPUID, RDMSR and WRMSR, XSETBV and the small ones.

use super::*;
use crate::x86::CpuChanges;
use crate::x86::msr::spec::*;

fn read_msr(world: &mut World, msr: u32) -> Option<u64> {
    world.gprs.rcx = u64::from(msr) | 0xdead_0000_0000_0000;
    match world.exit(ExitReason::Rdmsr, 0) {
        Outcome::Advance => Some(world.gprs.edx_eax()),
        GP => None,
        other => panic!("{other:?}"),
    }
}

fn write_msr(world: &mut World, msr: u32, value: u64) -> bool {
    world.gprs.rcx = u64::from(msr);
    world.gprs.set_edx_eax(value);
    match world.exit(ExitReason::Wrmsr, 0) {
        Outcome::Advance => true,
        GP => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn cpuid_clears_the_upper_halves_and_follows_cr4() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.gprs = Gprs { rax: 0xffff_ffff_0000_0001, rbx: u64::MAX, rcx: u64::MAX, rdx: u64::MAX, ..Gprs::default() };
    assert_eq!(world.exit(ExitReason::Cpuid, 0), Outcome::Advance);
    assert_eq!(world.gprs.rcx >> 27 & 1, 0, "OSXSAVE");
    assert!(
        [world.gprs.rax, world.gprs.rbx, world.gprs.rcx, world.gprs.rdx].iter().all(|register| register >> 32 == 0)
    );
    world.vcpu.cr4 |= cr4::OSXSAVE;
    world.gprs.rax = 1;
    assert_eq!(world.exit(ExitReason::Cpuid, 0), Outcome::Advance);
    assert_eq!(world.gprs.rcx >> 27 & 1, 1, "OSXSAVE");
    assert_eq!(world.gprs.rdx >> 9 & 1, 1, "APIC");
    assert!(write_msr(&mut world, IA32_APIC_BASE, 0xfee0_0100));
    world.gprs.rax = 1;
    world.exit(ExitReason::Cpuid, 0);
    assert_eq!(world.gprs.rdx >> 9 & 1, 0, "APIC switched off");
}

#[test]
fn apic_base_is_kept_and_reported() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert_eq!(read_msr(&mut world, IA32_APIC_BASE), Some(0xfee0_0900));
    assert!(write_msr(&mut world, IA32_APIC_BASE, 0xfee0_0d00));
    assert_eq!(world.cpu.take_changes(), CpuChanges::APIC_MODE);
    assert_eq!(read_msr(&mut world, 0x802), Some(0), "x2APIC ID");
    assert!(!write_msr(&mut world, IA32_APIC_BASE, 0xfee0_0900), "x2APIC to xAPIC");
    assert_eq!(world.counters.unknown_msrs.total(), 0, "a refusal is no unknown MSR");
}

#[test]
fn the_deadline_is_in_the_guests_own_tsc() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.now = 5_000;
    // LVT timer in TSC-deadline mode, vector 0x40; APIC software-enabled.
    assert!(write_msr(&mut world, IA32_APIC_BASE, 0xfee0_0d00));
    assert!(write_msr(&mut world, 0x80f, 0x1ff));
    assert!(write_msr(&mut world, 0x832, 0x4_0040));
    assert!(write_msr(&mut world, IA32_TSC_DEADLINE, 9_000));
    assert_eq!(world.apic.next_deadline(), Some(9_000));
    // The guest sets its TSC back by 4,000: the same number now means 4,000 later.
    assert!(write_msr(&mut world, IA32_TSC, 1_000));
    assert_eq!(read_msr(&mut world, IA32_TSC), Some(1_000));
    assert_eq!(read_msr(&mut world, IA32_TSC_ADJUST), Some(4_000u64.wrapping_neg()));
    assert!(world.cpu.take_changes().contains(CpuChanges::TSC_OFFSET));
    assert_eq!(world.apic.next_deadline(), Some(13_000));
    assert_eq!(read_msr(&mut world, IA32_TSC_DEADLINE), Some(9_000));
    assert!(write_msr(&mut world, IA32_TSC_ADJUST, 1_000u64.wrapping_neg()));
    assert_eq!(world.apic.next_deadline(), Some(10_000));
    assert!(write_msr(&mut world, IA32_TSC_DEADLINE, 500));
    assert_eq!(world.apic.pending_vector(), Some(0x40), "already passed");
    assert!(write_msr(&mut world, IA32_TSC_DEADLINE, 0));
    assert_eq!(world.apic.next_deadline(), None);
}

#[test]
fn unknown_msrs_fault_and_are_counted() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    for _ in 0..3 {
        assert_eq!(read_msr(&mut world, 0x345), None);
    }
    assert!(!write_msr(&mut world, 0x48, 1));
    assert!(!write_msr(&mut world, 0xc001_0015, 1));
    let counted: std::vec::Vec<_> = world.counters.unknown_msrs.entries().collect();
    assert_eq!(counted, [(0x345, 3), (0x48, 1), (0xc001_0015, 1)]);
    assert_eq!(world.counters.by_reason()[usize::from(ExitReason::Rdmsr.number())], 3);
    assert_eq!(world.counters.total(), 5);
}

#[test]
fn a_tally_keeps_the_first_numbers_and_counts_the_rest() {
    let mut tally = Tally::default();
    for number in (0..100).chain(0..5) {
        tally.count(number);
    }
    assert_eq!(tally.entries().count(), 16);
    assert_eq!(tally.entries().next(), Some((0, 2)));
    assert_eq!(tally.others(), 84);
    assert_eq!(tally.total(), 105);
}

#[test]
fn xsetbv_keeps_the_rules_of_xcr0() {
    for (ecx, value, allowed) in [
        (0, 0b1, true),
        (0, 0b11, true),
        (0, 0b111, true),
        (0, 0b101, false),
        (0, 0b110, false),
        (0, 0, false),
        (0, 0b1111, false),
        (0, 0xe7, false),
        (0, 1 << 63 | 1, false),
        (1, 1, false),
    ] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        world.gprs.rcx = ecx;
        world.gprs.set_edx_eax(value);
        let outcome = world.exit(ExitReason::Xsetbv, 0);
        assert_eq!(outcome, if allowed { Outcome::Advance } else { GP }, "XCR{ecx} = {value:#x}");
        assert_eq!(world.cpu.xcr0(), if allowed { value } else { 1 });
        assert_eq!(world.cpu.take_changes(), if allowed { CpuChanges::XCR0 } else { CpuChanges::empty() });
    }
}

#[test]
fn instructions_that_are_not_there() {
    for reason in [
        ExitReason::Vmxon,
        ExitReason::Vmlaunch,
        ExitReason::Vmread,
        ExitReason::Vmfunc,
        ExitReason::Invept,
        ExitReason::Monitor,
        ExitReason::Mwait,
        ExitReason::Getsec,
        ExitReason::Umwait,
    ] {
        assert_eq!(World::new(FakeVcpu::bits64(), &[]).exit(reason, 0), UD, "{reason}");
    }
    assert_eq!(World::new(FakeVcpu::bits64(), &[]).exit(ExitReason::Rdpmc, 0), GP);
}

#[test]
fn what_the_run_loop_sees_to_is_resumed() {
    for reason in [
        ExitReason::ExternalInterrupt,
        ExitReason::PreemptionTimer,
        ExitReason::InterruptWindow,
        ExitReason::NmiWindow,
        ExitReason::TprBelowThreshold,
    ] {
        let mut world = World::new(FakeVcpu::bits64(), &[]);
        assert_eq!(world.exit(reason, 0), Outcome::Resume);
        assert_eq!(world.vcpu, FakeVcpu::bits64());
    }
    assert_eq!(World::new(FakeVcpu::bits64(), &[]).exit(ExitReason::Hlt, 0), Outcome::Halt);
    assert_eq!(World::new(FakeVcpu::bits64(), &[]).exit(ExitReason::Wbinvd, 0), Outcome::Advance);
}

#[test]
fn a_guest_that_single_steps_does_not_stay_in_hlt() {
    const TF: u64 = 1 << 8;
    const BTF: u64 = 1 << 1;
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.vcpu.write(GuestField::Rflags, 2 | TF);
    assert_eq!(world.exit(ExitReason::Hlt, 0), Outcome::Advance);
    world.vcpu.write(GuestField::Ia32Debugctl, BTF);
    assert_eq!(world.exit(ExitReason::Hlt, 0), Outcome::Halt, "only branches trap");
}

#[test]
fn pause_yields_behind_the_instruction() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert_eq!(world.exit(ExitReason::Pause, 0), Outcome::Yield);
    assert_eq!(world.vcpu.read(GuestField::Rip), CODE + 2);
}

#[test]
fn hypercalls_are_for_the_kernel() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    assert_eq!(world.exit(ExitReason::Vmcall, 0), Outcome::Advance);
    assert_eq!(world.gprs.rax, u64::MAX);
    world.gprs.rax = 7;
    world.vcpu.write(GuestField::SsAccessRights, 0xc0f3);
    assert_eq!(world.exit(ExitReason::Vmcall, 0), UD);
    assert_eq!(world.gprs.rax, 7);
}

#[test]
fn a_kernel_tells_its_panic_by_hypercall_and_a_program_cannot() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    (world.gprs.rax, world.gprs.rbx) = (0x4c4d_0001, 0x2a);
    let rip = world.vcpu.read(GuestField::Rip);
    let exit = RawExit { reason: ExitReason::Vmcall as u32, instruction_len: 3, ..RawExit::default() };
    let report = crash_text(world.handle(&exit));
    assert!(report.starts_with("guest panic: ") && report.contains("code 0x2a"), "{report}");
    assert_eq!(world.vcpu.read(GuestField::Rip), rip + 3, "it goes on behind it, if it does");
    world.vcpu.write(GuestField::SsAccessRights, 0xc0f3);
    assert_eq!(world.exit(ExitReason::Vmcall, 0), UD);
}

#[test]
fn an_unknown_reason_stops_the_vm_with_a_sentence() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    let text = crash_text(world.handle(&RawExit { reason: 71, qualification: 0x12, ..RawExit::default() }));
    assert!(text.contains("VM exit 71") && text.contains("RIP 0x2000"), "{text}");
    let text = crash_text(world.exit(ExitReason::TripleFault, 0));
    assert!(text.starts_with("triple fault"), "{text}");
    let text = crash_text(world.exit(ExitReason::TaskSwitch, 0));
    assert!(text.starts_with("task switch"), "{text}");
    let text = crash_text(world.handle(&RawExit { reason: 0x8000_0021, ..RawExit::default() }));
    assert!(text.starts_with("VM-entry failure due to invalid guest state"), "{text}");
}

#[test]
fn advance_ends_the_instruction() {
    // (RIP, length, mode, RIP afterwards)
    for (rip, len, vcpu, after) in [
        (0x1000, 3, FakeVcpu::bits64(), 0x1003),
        (0xffff_fffe, 3, FakeVcpu::bits64(), 0x1_0000_0001),
        (0xffff_fffe, 3, FakeVcpu::bits32(), 1),
        (u64::MAX, 2, FakeVcpu::bits64(), 1),
    ] {
        let mut vcpu = vcpu;
        vcpu.write(GuestField::Rip, rip);
        vcpu.write(GuestField::InterruptibilityState, 0b1001);
        advance(&mut vcpu, len);
        assert_eq!(vcpu.read(GuestField::Rip), after);
        assert_eq!(
            vcpu.read(GuestField::InterruptibilityState),
            0b1000,
            "the shadow of STI is over, NMI blocking is not"
        );
        assert_eq!(vcpu.read(GuestField::PendingDebugExceptions), 0);
    }
    let mut vcpu = FakeVcpu::bits64();
    vcpu.write(GuestField::Rflags, 0x102);
    advance(&mut vcpu, 1);
    assert_eq!(vcpu.read(GuestField::PendingDebugExceptions), 1 << 14, "single step");
}
