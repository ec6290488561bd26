//! Interrupted events, and two that meet.

use super::*;

#[test]
fn the_interrupted_event_is_what_the_field_says() {
    let of = |info, error, len| {
        interrupted_event(&RawExit {
            idt_vectoring_info: info,
            idt_vectoring_error: error,
            instruction_len: len,
            ..RawExit::default()
        })
    };
    assert_eq!(of(0x0000_0b0e, 2, 1), None, "not valid");
    assert_eq!(of(0x8000_0b0e, 2, 1), Some(Event::exception_with_code(14, 2)));
    assert_eq!(of(0x8000_0306, 2, 1), Some(Event::exception(6)), "no error code");
    assert_eq!(of(0x8000_0202, 0, 0), Some(Event::NMI));
    let int80 = Event { kind: EventKind::SoftwareInterrupt, vector: 0x80, error_code: None, instruction_len: 2 };
    assert_eq!(of(0x8000_0480, 0, 2), Some(int80));
    assert_eq!(of(0x8000_0780, 0, 2), None, "no such type");
}

#[test]
fn double_faults_follow_the_manuals_table() {
    const DF: Merged = Merged::Inject(Event::exception_with_code(8, 0));
    // One of each class: benign (#UD), contributory (#GP), page fault.
    let [ud, gp, pf] = [Event::INVALID_OPCODE, Event::GENERAL_PROTECTION, Event::exception_with_code(14, 4)];
    let interrupt = Event { kind: EventKind::ExternalInterrupt, vector: 14, error_code: None, instruction_len: 0 };
    for (first, second, expected) in [
        (ud, ud, Merged::Inject(ud)),
        (ud, gp, Merged::Inject(gp)),
        (ud, pf, Merged::Inject(pf)),
        (gp, ud, Merged::Inject(ud)),
        (gp, gp, DF),
        (gp, pf, Merged::Inject(pf)),
        (pf, ud, Merged::Inject(ud)),
        (pf, gp, DF),
        (pf, pf, DF),
        (Event::exception_with_code(8, 0), ud, Merged::Inject(ud)),
        (Event::exception_with_code(8, 0), gp, Merged::TripleFault),
        (Event::exception_with_code(8, 0), pf, Merged::TripleFault),
        // The vector of an interrupt has no class.
        (interrupt, gp, Merged::Inject(gp)),
        (gp, interrupt, Merged::Inject(interrupt)),
    ] {
        assert_eq!(merge(first, second), expected, "{first:?} then {second:?}");
    }
}

#[test]
fn exceptions_that_exit_go_on_to_the_guest() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    let exit = |info, error| RawExit {
        qualification: 0x1234,
        interruption_info: info,
        interruption_error: error,
        ..RawExit::default()
    };
    assert_eq!(world.handle(&exit(0x8000_0202, 0)), Outcome::Resume, "an NMI is the host's");
    assert_eq!(world.handle(&exit(0x8000_0306, 0)), UD);
    assert_eq!(world.cr2, 0);
    assert_eq!(world.handle(&exit(0x8000_0b0e, 2)), Outcome::Inject(Event::exception_with_code(14, 2)));
    assert_eq!(world.cr2, 0x1234);
    assert!(crash_text(world.handle(&exit(0x8000_0312, 0))).starts_with("machine check"));
    assert!(crash_text(world.handle(&exit(0, 0))).contains("not handled"));
}

#[test]
fn an_iret_that_faulted_leaves_nmis_blocked() {
    let violation = RawExit { reason: 48, qualification: 1 << 12 | 0x182, ..RawExit::default() };
    assert!(nmi_unblocked_by_iret(&violation));
    assert!(!nmi_unblocked_by_iret(&RawExit { qualification: 0x182, ..violation }));
    assert!(!nmi_unblocked_by_iret(&RawExit { idt_vectoring_info: 0x8000_0202, ..violation }), "bit 12 is undefined");
    assert!(!nmi_unblocked_by_iret(&RawExit { reason: 30, ..violation }), "a port's qualification says something else");
    let fault = RawExit { reason: 0, interruption_info: 0x8000_1b0e, ..RawExit::default() };
    assert!(nmi_unblocked_by_iret(&fault));
    assert!(!nmi_unblocked_by_iret(&RawExit { interruption_info: 0x8000_1b08, ..fault }), "undefined for #DF");
}

#[test]
fn a_debug_exception_that_exited_does_what_the_cpu_has_not() {
    let mut world = World::new(FakeVcpu::bits64(), &[]);
    world.vcpu.write(GuestField::Dr7, 0x2400);
    world.vcpu.write(GuestField::Rflags, 0x102);
    world.vcpu.write(GuestField::InterruptibilityState, 2);
    let exit = RawExit { reason: 0, interruption_info: 0x8000_0301, qualification: 0x4000, ..RawExit::default() };
    assert_eq!(world.handle(&exit), Outcome::Inject(Event::exception(1)));
    assert_eq!(world.vcpu.read(GuestField::Dr7), 0x400, "DR7.GD is clear in the handler");
    assert_eq!(world.vcpu.read(GuestField::PendingDebugExceptions), 1 << 14, "VM entry insists on it");
}
