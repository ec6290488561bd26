//! IA32_APIC_BASE, reset, INIT.

use super::*;

const DISABLED: u64 = 0xfee0_0000;
const XAPIC: u64 = 0xfee0_0800;
const X2APIC: u64 = 0xfee0_0c00;
const INVALID: u64 = 0xfee0_0400;

fn in_mode(base: u64) -> LocalApic {
    let mut apic = apic(1);
    if base != XAPIC {
        apic.set_base_msr(base).unwrap();
    }
    apic
}

#[test]
fn the_state_diagram() {
    // SDM, "x2APIC State Transitions".
    for (from, to, legal) in [
        (XAPIC, XAPIC, true),
        (XAPIC, X2APIC, true),
        (XAPIC, DISABLED, true),
        (XAPIC, INVALID, false),
        (X2APIC, X2APIC, true),
        (X2APIC, XAPIC, false),
        (X2APIC, DISABLED, true),
        (X2APIC, INVALID, false),
        (DISABLED, DISABLED, true),
        (DISABLED, XAPIC, true),
        (DISABLED, X2APIC, false),
        (DISABLED, INVALID, false),
    ] {
        let mut apic = in_mode(from);
        assert_eq!(apic.set_base_msr(to).is_some(), legal, "{from:#x} -> {to:#x}");
        assert_eq!(apic.base_msr(), if legal { to } else { from });
    }
}

#[test]
fn reserved_bits_and_other_bases_fault() {
    let mut apic = apic(0);
    assert_eq!(apic.base_msr(), 0xfee0_0900, "the bootstrap processor");
    for bit in (0..8).chain([9]).chain(39..64) {
        assert_eq!(apic.set_base_msr(0xfee0_0900 | 1 << bit), None, "bit {bit} is reserved");
    }
    assert_eq!(apic.set_base_msr(0xfec0_0900), None);
    assert_eq!(apic.base_msr(), 0xfee0_0900);
    apic.set_base_msr(0x1000).unwrap();
    assert_eq!((apic.base_msr(), apic.mode()), (0x1000, ApicMode::Disabled));
    assert_eq!(apic.set_base_msr(0x1800), None);
    apic.set_base_msr(0xfee0_0800).unwrap();
}

#[test]
fn disabling_resets_the_registers() {
    let mut apic = enabled(1);
    apic.mmio_write(spec::TPR, 0x40, 0);
    apic.accept(&fixed(0x80, true));
    apic.mmio_write(spec::INITIAL_COUNT, 1000, 0);
    apic.set_base_msr(DISABLED).unwrap();
    assert_eq!(apic.mmio_read(spec::TPR, 0), u32::MAX, "no page any more");
    assert!(apic.accepts_extint(), "LINT0 is INTR");
    assert!(!apic.matches(&ApicMessage { destination: BROADCAST, ..fixed(0x80, false) }));
    apic.set_lint(1, true);
    assert!(apic.take_nmi(), "LINT1 is NMI");
    apic.set_base_msr(XAPIC).unwrap();
    assert_eq!(apic.mmio_read(spec::TPR, 0), 0);
    assert_eq!(apic.mmio_read(spec::SVR, 0), 0xff);
    assert_eq!(apic.mmio_read(spec::ID, 0), 1 << 24);
    assert_eq!((apic.highest_irr(), apic.next_deadline()), (None, None));
    assert!(!apic.accepts_extint());
}

#[test]
fn entering_x2apic_mode_keeps_what_it_should() {
    let mut apic = enabled(0x25);
    apic.mmio_write(spec::TPR, 0x40, 0);
    apic.mmio_write(spec::LVT_LINT1, 0x400, 0);
    apic.mmio_write(spec::ICR_HIGH, 0x0100_0000, 0);
    apic.accept(&fixed(0x80, false));
    apic.set_base_msr(X2APIC).unwrap();
    assert_eq!(apic.msr_read(0x802, 0), Some(0x25));
    assert_eq!(apic.msr_read(0x803, 0), Some(0x0105_0014));
    assert_eq!(apic.msr_read(0x808, 0), Some(0x40));
    assert_eq!(apic.msr_read(0x80d, 0), Some(0x0002_0020), "cluster 2, bit 5");
    assert_eq!(apic.msr_read(0x836, 0), Some(0x400));
    assert_eq!(apic.msr_read(0x830, 0), Some(0));
    assert_eq!(apic.pending_vector(), Some(0x80));
    assert_eq!(apic.mmio_read(spec::ID, 0), u32::MAX);
    apic.mmio_write(spec::TPR, 0, 0);
    assert_eq!(apic.msr_read(0x808, 0), Some(0x40), "the page is no longer there");
}

#[test]
fn init_keeps_the_mode_and_the_id() {
    let mut apic = x2apic(0x13);
    apic.msr_write(0x808, 0x80, 0).unwrap();
    apic.accept(&fixed(0x90, false));
    apic.init();
    assert_eq!(apic.mode(), ApicMode::X2Apic);
    assert_eq!(apic.msr_read(0x802, 0), Some(0x13));
    assert_eq!(apic.msr_read(0x80d, 0), Some(0x0001_0008));
    assert_eq!(apic.msr_read(0x808, 0), Some(0));
    assert_eq!(apic.msr_read(0x80f, 0), Some(0xff));
    assert_eq!(apic.highest_irr(), None);
    apic.reset();
    assert_eq!(apic.mode(), ApicMode::XApic);
}

#[test]
fn virtual_wire_mode_lets_the_8259_through() {
    let mut apic = apic(0);
    assert!(!apic.accepts_extint());
    apic.enter_virtual_wire_mode();
    assert!(apic.accepts_extint() && apic.software_enabled());
    apic.set_lint(1, true);
    assert!(apic.nmi_pending());
    assert!(apic.take_nmi());
    apic.set_lint(1, true);
    assert!(!apic.take_nmi(), "NMI is an edge");
    apic.mmio_write(spec::LVT_LINT0, 0x1_0700, 0);
    assert!(!apic.accepts_extint());
    apic.accept(&ApicMessage::from_device(0, false, DeliveryMode::ExtInt, 0, false));
    assert!(apic.accepts_extint(), "an I/O APIC asks for it");
    apic.acknowledge_extint();
    assert!(!apic.accepts_extint());
}
