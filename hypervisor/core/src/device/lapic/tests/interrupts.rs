//! Priorities, EOI, level-triggered interrupts, LINT pins.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The priority rules over plain sets.
#[derive(Default)]
struct Reference {
    requested: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    task_priority: u8,
}

impl Reference {
    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.last().copied().unwrap_or(0);
        if self.task_priority >> 4 >= in_service >> 4 { self.task_priority } else { in_service & 0xf0 }
    }

    fn pending(&self) -> Option<u8> {
        self.requested.last().copied().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }
}

proptest! {
    #[test]
    fn priorities_follow_the_reference(
        shared: bool,
        actions in proptest::collection::vec((0u8..5, any::<u8>()), 1..300),
    ) {
        let mut apic = enabled(0);
        apic.set_virtual_interrupt_delivery(shared);
        let mut reference = Reference::default();
        for (action, value) in actions {
            match action {
                0 | 1 => {
                    apic.accept(&fixed(value, value & 1 != 0));
                    if value >= 16 {
                        reference.requested.insert(value);
                    }
                }
                2 => {
                    apic.mmio_write(spec::TPR, value.into(), 0);
                    reference.task_priority = value;
                }
                3 => {
                    if let Some(vector) = reference.pending() {
                        reference.requested.remove(&vector);
                        reference.in_service.insert(vector);
                        apic.acknowledge(vector);
                    }
                }
                _ => {
                    apic.mmio_write(spec::EOI, 0, 0);
                    let ended = reference.in_service.pop_last();
                    prop_assert_eq!(apic.take_eoi(), ended.filter(|vector| vector & 1 != 0));
                }
            }
            prop_assert_eq!(apic.pending_vector(), reference.pending());
            let threshold = apic.tpr_threshold();
            prop_assert!(threshold <= reference.task_priority >> 4, "VM entry would fail");
            if threshold != 0 {
                prop_assert_eq!(reference.pending(), None);
                reference.task_priority = (threshold << 4) - 16;
                apic.mmio_write(spec::TPR, reference.task_priority.into(), 0);
                prop_assert!(reference.pending().is_some(), "below the threshold the vector comes");
            }
            prop_assert_eq!(apic.highest_irr(), reference.requested.last().copied());
            prop_assert_eq!(apic.highest_isr(), reference.in_service.last().copied());
            prop_assert_eq!(apic.mmio_read(spec::PPR, 0), u32::from(reference.processor_priority()));
        }
    }
}

#[test]
fn the_registers_show_the_sets() {
    let mut apic = enabled(0);
    assert!(apic.take_eoi_exit_bitmap_changed());
    apic.accept(&fixed(0x10, false));
    assert!(!apic.take_eoi_exit_bitmap_changed());
    apic.accept(&fixed(0xff, true));
    assert!(apic.take_eoi_exit_bitmap_changed());
    assert_eq!(apic.mmio_read(0x200, 0), 1 << 16);
    assert_eq!(apic.mmio_read(0x270, 0), 1 << 31);
    assert_eq!(apic.mmio_read(0x1f0, 0), 1 << 31);
    assert_eq!(apic.eoi_exit_bitmap(), [0, 0, 0, 1 << 63]);
    apic.acknowledge(0xff);
    assert_eq!((apic.mmio_read(0x270, 0), apic.mmio_read(0x170, 0)), (0, 1 << 31));
    apic.accept(&fixed(0xff, false));
    assert!(apic.take_eoi_exit_bitmap_changed());
    assert_eq!(apic.eoi_exit_bitmap(), [0; 4], "now an edge");
    apic.acknowledge(0x42);
    assert_eq!(apic.highest_isr(), Some(0xff), "what was not requested is not acknowledged");
}

#[test]
fn eoi_broadcast_can_be_suppressed() {
    let mut apic = enabled(0);
    for (svr, told) in [(0x1ff, Some(0x51)), (0x11ff, None)] {
        apic.mmio_write(spec::SVR, svr, 0);
        apic.accept(&fixed(0x51, true));
        apic.acknowledge(0x51);
        apic.mmio_write(spec::EOI, 0, 0);
        assert_eq!(apic.take_eoi(), told);
        assert_eq!(apic.highest_isr(), None);
    }
    apic.mmio_write(spec::EOI, 0, 0);
    assert_eq!(apic.take_eoi(), None, "an EOI without an interrupt does nothing");
}

#[test]
fn lint_edges() {
    for (lvt, vector, nmi, init) in [
        (0x0_0041, Some(0x41), false, false),
        (0x1_0041, None, false, false),
        (0x0_0400, None, true, false),
        (0x1_0400, None, false, false),
        (0x0_0500, None, false, true),
        (0x0_0700, None, false, false),
        (0x0_8400, None, true, false),
    ] {
        for (pin, offset) in [(0, spec::LVT_LINT0), (1, spec::LVT_LINT1)] {
            let mut apic = enabled(0);
            apic.mmio_write(offset, lvt, 0);
            apic.set_lint(pin, true);
            assert_eq!((apic.pending_vector(), apic.take_nmi(), apic.take_init()), (vector, nmi, init), "{lvt:#x}");
            if let Some(vector) = vector {
                apic.acknowledge(vector);
            }
            apic.set_lint(pin, true);
            apic.set_lint(pin, false);
            assert_eq!((apic.highest_irr(), apic.nmi_pending()), (None, false), "only the rising edge");
        }
    }
    let mut apic = enabled(0);
    apic.set_lint(1, true);
    apic.mmio_write(spec::LVT_LINT1, 0x2044, 0);
    apic.set_lint(1, false);
    assert_eq!(apic.highest_irr(), Some(0x44), "active low: the falling edge");
    apic.set_lint(2, true);
}

#[test]
fn lint0_as_a_level_is_sent_once_per_eoi() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_LINT0, 0x8041, 0);
    for _ in 0..3 {
        apic.set_lint(0, true);
        assert_eq!(apic.mmio_read(spec::LVT_LINT0, 0), 0xc041, "remote IRR");
        assert_eq!(apic.pending_vector(), Some(0x41));
        apic.acknowledge(0x41);
        apic.set_lint(0, true);
        assert_eq!(apic.highest_irr(), None);
        apic.mmio_write(spec::EOI, 0, 0);
        assert_eq!(apic.pending_vector(), Some(0x41), "the line is still active");
        apic.acknowledge(0x41);
        apic.set_lint(0, false);
        apic.mmio_write(spec::EOI, 0, 0);
        assert_eq!((apic.highest_irr(), apic.mmio_read(spec::LVT_LINT0, 0)), (None, 0x8041));
    }
    apic.mmio_write(spec::LVT_LINT0, 0x1_8041, 0);
    apic.set_lint(0, true);
    assert_eq!(apic.highest_irr(), None);
    apic.mmio_write(spec::LVT_LINT0, 0x8041, 0);
    assert_eq!(apic.highest_irr(), Some(0x41), "unmasking shows the level");
}
