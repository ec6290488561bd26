use super::*;
use crate::exit::ExitCounters;
use crate::exit::tests::{FakeVcpu, PML4, memory_with};
use crate::memory::{FlatMemory, GuestMemory, GuestPhysAddr};
use crate::vmx::GuestField;
use crate::x86::control::{cr0, cr4};
use crate::x86::paging::WalkFault;
use crate::x86::{Gprs, VcpuState};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::format;
use std::string::ToString;
use std::vec::Vec;

fn capture(state: &FakeVcpu, gprs: &Gprs, memory: &FlatMemory) -> Capture {
    let trail = ExitTrail::new();
    Capture::of(&Subject { vcpu: 3, state, gprs, cr2: 0x1234, physical_bits: 39, memory, trail: &trail, tick: 77 })
}

fn write(memory: &mut FlatMemory, gpa: u64, value: u64) {
    memory.write(GuestPhysAddr(gpa), &value.to_le_bytes()).unwrap();
}

#[test]
fn kinds_have_names_and_words_of_their_own() {
    let names: BTreeSet<_> = FaultKind::ALL.map(FaultKind::name).into();
    let words: BTreeSet<_> = FaultKind::ALL.map(FaultKind::words).into();
    assert_eq!((names.len(), words.len()), (FaultKind::ALL.len(), FaultKind::ALL.len()));
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
}

#[test]
fn the_trail_keeps_the_last_exits_in_order() {
    let mut trail = ExitTrail::new();
    assert_eq!(trail.exits(), []);
    for number in 0..3 {
        trail.record(number, 10 * u64::from(number));
    }
    assert_eq!(trail.exits().iter().map(|mark| mark.tick).collect::<Vec<_>>(), [0, 10, 20]);
    for number in 3..200 {
        trail.record(number, 10 * u64::from(number));
    }
    let exits = trail.exits();
    assert_eq!(exits.iter().map(|mark| mark.reason).collect::<Vec<_>>(), (200 - 64..200).collect::<Vec<_>>());
    assert_eq!(exits.last().unwrap().tick, 1990);
}

#[test]
fn a_capture_of_64_bit_code() {
    let mut memory = memory_with(&[0x0f, 0x0b, 0x90]);
    let mut vcpu = FakeVcpu::bits64();
    vcpu.write(GuestField::CsSelector, 8);
    vcpu.write(GuestField::GdtrBase, 0x5000);
    vcpu.write(GuestField::GdtrLimit, 0x1f);
    // Two frames, the outer one the last.
    let gprs = Gprs { rbp: 0x8010, rax: 42, ..Gprs::default() };
    write(&mut memory, 0x8000, 0xaaaa);
    write(&mut memory, 0x8010, 0x8030);
    write(&mut memory, 0x8018, 0x2222);
    write(&mut memory, 0x8038, 0x3333);
    let capture = capture(&vcpu, &gprs, &memory);
    assert_eq!((capture.vcpu, capture.tick, capture.code_bits), (3, 77, 64));
    let (address, code) = &capture.code;
    assert_eq!((*address, code.len(), &code[..3]), (0x2000, 16, &[0x0f, 0x0b, 0x90][..]));
    assert_eq!(capture.frames, [(0x8010, 0x2222), (0x8030, 0x3333)]);
    assert_eq!((capture.stack.len(), capture.stack[0]), (16, (0x8000, 0xaaaa)));
    let levels: Vec<_> = capture.rip_walk.steps.iter().map(|step| (step.level, step.gpa.0, step.entry)).collect();
    // The tables map pages of 1 GiB: the way ends at the second level.
    let tables = PML4 + 0x1000;
    assert_eq!(levels, [("PML4E", PML4, Some(tables | 7)), ("PDPTE", tables, Some(0x87))]);
    assert_eq!(capture.rip_walk.end, Ok(GuestPhysAddr(0x2000)));
    let registers = &capture.registers;
    assert_eq!((registers.gprs.rax, registers.rip, registers.rsp, registers.cr2), (42, 0x2000, 0x8000, 0x1234));
    assert_eq!((registers.segments[0].0, registers.segments[0].1.selector), ("CS", 8));
    assert_eq!((registers.gdtr.base, registers.gdtr.limit), (0x5000, 0x1f));
}

#[test]
fn what_cannot_be_read_is_told_as_such() {
    let mut memory = memory_with(&[]);
    let mut vcpu = FakeVcpu::bits64();
    // A page table outside the guest's memory.
    vcpu.write(GuestField::Cr3, 0x7000_0000);
    let lost = capture(&vcpu, &Gprs { rbp: 0x8000, ..Gprs::default() }, &memory);
    let step = lost.rip_walk.steps[0];
    assert_eq!((step.level, step.gpa.0, step.entry), ("PML4E", 0x7000_0000, None));
    assert!(matches!(lost.rip_walk.end, Err(WalkFault::Memory(_))), "{:?}", lost.rip_walk);
    assert_eq!((lost.code.1.len(), lost.stack.len(), lost.frames.len()), (0, 0, 0));
    // A RIP that is no address, a stack that ends where memory does, and frame pointers in a circle.
    vcpu.write(GuestField::Cr3, PML4);
    vcpu.write(GuestField::Rip, 0x8000_0000_0000_0000);
    let end = 4 << 20;
    vcpu.write(GuestField::Rsp, end - 28);
    write(&mut memory, end - 16, end - 16);
    write(&mut memory, end - 8, 0x77);
    let lost = capture(&vcpu, &Gprs { rbp: end - 16, ..Gprs::default() }, &memory);
    assert!(matches!(lost.rip_walk.end, Err(WalkFault::NotCanonical { .. })));
    assert_eq!((lost.code.1.len(), lost.stack.len(), lost.frames), (0, 3, Vec::from([(end - 16, 0x77)])));
    // What is below the stack is no frame.
    assert!(capture(&vcpu, &Gprs { rbp: end - 36, ..Gprs::default() }, &memory).frames.is_empty());
}

#[test]
fn other_modes_have_other_walks() {
    let memory = memory_with(&[]);
    let mut real = FakeVcpu::bits16();
    real.write(GuestField::CsBase, 0x1000);
    real.write(GuestField::SsBase, 0x2_0000);
    real.write(GuestField::Rsp, 0xdead_0010);
    let capture_16 = capture(&real, &Gprs::default(), &memory);
    assert_eq!((capture_16.code.0, capture_16.rip_walk.steps.len(), capture_16.code_bits), (0x3000, 0, 16));
    assert_eq!(capture_16.stack[..2], [(0x2_0010, 0), (0x2_0012, 0)]);
    // 32-bit paging with empty tables, and PAE paging.
    let mut paged = FakeVcpu::bits32();
    paged.cr0 |= cr0::PG;
    paged.write(GuestField::Cr3, 0x3000);
    let levels = |capture: &Capture| capture.rip_walk.steps.iter().map(|step| step.level).collect::<Vec<_>>();
    assert_eq!(levels(&capture(&paged, &Gprs::default(), &memory)), ["PDE"]);
    paged.cr4 |= cr4::PAE;
    assert_eq!(levels(&capture(&paged, &Gprs::default(), &memory)), ["PDPTE"]);
}

#[test]
fn the_log_keeps_the_last_reports() {
    let mut log = FaultLog::default();
    let mut counters = ExitCounters::new();
    counters.count_exit(10);
    counters.unknown_msrs.count(7);
    for _ in 0..20 {
        let number = log.next_number();
        let fault = *Fault::new(FaultKind::TripleFault, "x");
        let mut report = FaultReport {
            number,
            at_us: 0,
            start: 1,
            ran_us: 0,
            fault,
            exits: [].into(),
            unknown: [0; 3],
            action: "".into(),
        };
        report.count(&counters);
        assert_eq!((report.exits.as_slice(), report.unknown), (&[(10, 1)][..], [0, 1, 0]));
        log.push(report, KEPT_REPORTS);
    }
    assert_eq!(log.total(), 20);
    assert_eq!(log.reports().map(|report| report.number).collect::<Vec<_>>(), (13..=20).collect::<Vec<_>>());
}

#[test]
fn limits_are_read_and_written() {
    assert_eq!(RestartLimit::parse("3 in 60s"), Some(RestartLimit::DEFAULT));
    assert_eq!(RestartLimit::DEFAULT.to_string(), "3 in 60s");
    for text in
        ["", "3", "3in60s", "3 in", "0 in 60s", "101 in 60s", "3 in 999ms", "3 in 3601s", "-1 in 60s", "3 in 60"]
    {
        assert_eq!(RestartLimit::parse(text), None, "{text}");
    }
    assert_eq!(RestartLimit::parse("100 in 1500ms"), Some(RestartLimit { restarts: 100, within_us: 1_500_000 }));
}

#[test]
fn the_back_off_doubles_up_to_its_bound() {
    let limit = RestartLimit { restarts: 10, within_us: 60_000_000 };
    let backoffs: Vec<u64> = (1..=8).map(|nth| limit.backoff_us(nth) / 1000).collect();
    assert_eq!(backoffs, [100, 200, 400, 800, 1600, 3000, 3000, 3000]);
    assert_eq!(limit.backoff_us(u32::MAX), 3_000_000);
}

#[test]
fn each_policy_has_its_answer() {
    let limit = RestartLimit::DEFAULT;
    let answer = |policy, ending| Recovery::default().after_fault(policy, limit, ending, 5);
    assert_eq!(answer(OnFault::Restart, false), Action::Restart(Restart { after_us: 100_000, nth: 1, limit }));
    assert_eq!(answer(OnFault::Stop, false), Action::Stop);
    assert_eq!(answer(OnFault::Pause, false), Action::Pause);
    assert_eq!(answer(OnFault::Preserve, false), Action::Preserve);
    for policy in OnFault::ALL {
        assert_eq!(answer(policy, true), Action::Stop, "who was asked to end, ends");
        assert!(!matches!(Recovery::after_reset_loop(policy, limit, false), Action::Restart(_)));
    }
    let words = answer(OnFault::Restart, false).words();
    assert_eq!(words, "restarted after 100ms (restart 1 of 3 in 60s)");
}

#[test]
fn a_reset_after_a_while_is_no_matter() {
    let mut recovery = Recovery::default();
    let limit = RestartLimit { restarts: 1, within_us: 60_000_000 };
    for _ in 0..50 {
        let restart = recovery.after_reset(limit, EARLY_US, 0).unwrap();
        assert_eq!(restart.after_us, 0);
    }
    assert_eq!(recovery.after_reset(limit, EARLY_US - 1, 0).unwrap().nth, 1);
    assert_eq!(recovery.after_reset(limit, EARLY_US - 1, 1), None);
    assert_eq!(
        recovery.after_fault(OnFault::Restart, limit, false, 2),
        Action::GiveUp(limit),
        "resets count with faults"
    );
    assert!(recovery.after_reset(limit, 0, 60_000_000).is_some(), "the limit's time is over");
}

proptest! {
    /// Whatever the limit, who dies at once is started so often and no more; the waits grow and stay within half the time.
    #[test]
    fn who_dies_at_once_comes_to_its_limit(restarts in 1..=100u32, within_us in 1_000_000..=3_600_000_000u64, early: bool) {
        let limit = RestartLimit { restarts, within_us };
        let mut recovery = Recovery::default();
        // Each life is as long as the host's work for it may be, half the time in all.
        let life_us = within_us / (2 * u64::from(restarts) + 2);
        let (mut now_us, mut waited_us, mut last_us, mut count) = (7, 0, 0, 0);
        loop {
            let restart = if early {
                recovery.after_reset(limit, 0, now_us)
            } else {
                match recovery.after_fault(OnFault::Restart, limit, false, now_us) {
                    Action::Restart(restart) => Some(restart),
                    _ => None,
                }
            };
            let Some(restart) = restart else { break };
            count += 1;
            prop_assert_eq!(restart.nth, count);
            prop_assert!(restart.after_us >= last_us && restart.after_us > 0);
            last_us = restart.after_us;
            waited_us += restart.after_us;
            now_us += restart.after_us + life_us;
            prop_assert!(count <= restarts, "it loops for ever");
        }
        prop_assert_eq!(count, restarts);
        prop_assert!(waited_us <= within_us / 2);
    }

    /// Never more restarts in any stretch of the limit's time than it says.
    #[test]
    fn the_limit_holds_over_any_stretch(restarts in 1..=5u32, gaps in proptest::collection::vec(0..3_000_000u64, 1..60)) {
        let limit = RestartLimit { restarts, within_us: 5_000_000 };
        let mut recovery = Recovery::default();
        let (mut now_us, mut allowed) = (0, Vec::new());
        for gap in gaps {
            now_us += gap;
            if let Action::Restart(_) = recovery.after_fault(OnFault::Restart, limit, false, now_us) {
                allowed.push(now_us);
            }
        }
        for (index, at) in allowed.iter().enumerate() {
            let within = allowed[index..].iter().filter(|later| **later - at < limit.within_us).count();
            prop_assert!(within <= restarts as usize, "{}", format!("{allowed:?}"));
        }
    }

    /// A guest's registers and memory may be anything: a look at it ends, and is bounded.
    #[test]
    fn any_guest_can_be_captured(
        values in proptest::collection::vec(any::<u64>(), 12), small in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 4096),
    ) {
        let mut memory = FlatMemory::new(64 << 10);
        for page in 0..16 {
            memory.write(GuestPhysAddr(page << 12), &bytes).unwrap();
        }
        let value = |index: usize| if small { values[index] & 0xffff } else { values[index] };
        let mut vcpu = FakeVcpu { cr0: value(0) | values[0] & cr0::PG, cr4: values[1], ..FakeVcpu::default() };
        let fields = [
            GuestField::Cr3, GuestField::Rip, GuestField::Rsp, GuestField::CsBase, GuestField::SsBase,
            GuestField::CsAccessRights, GuestField::SsAccessRights, GuestField::Ia32Efer,
        ];
        for (index, field) in fields.into_iter().enumerate() {
            vcpu.write(field, value(index + 2));
        }
        let capture = capture(&vcpu, &Gprs { rbp: value(10), ..Gprs::default() }, &memory);
        prop_assert!(capture.code.1.len() <= 16 && capture.stack.len() <= 16 && capture.frames.len() <= 16);
        prop_assert!(capture.rip_walk.steps.len() <= 5 && capture.rsp_walk.steps.len() <= 5);
    }
}
