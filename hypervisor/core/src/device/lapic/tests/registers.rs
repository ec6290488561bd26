//! Accesses: what is read after reset, what can be written, what faults.

use super::*;
use proptest::prelude::*;

#[test]
fn after_reset() {
    // SDM, "Local APIC State After Power-Up or Reset".
    let mut apic = apic(3);
    for (offset, value) in [
        (0x20, 0x0300_0000),
        (0x30, 0x0105_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(apic.mmio_read(offset, 0), value, "{offset:#x}");
    }
    for offset in (0x100..0x280).step_by(16) {
        assert_eq!(apic.mmio_read(offset, 0), 0);
    }
}

#[test]
fn the_bits_that_can_be_written_in_xapic_mode() {
    // SDM, the figures of the registers. ICR low (300H) is tested with IPIs, EOI and ESR by their effect.
    let mut apic = enabled(3);
    for (offset, writable, ones) in [
        (0x20u16, 0u32, 0x0300_0000u32),
        (0x30, 0, 0x0105_0014),
        (0x80, 0xff, 0),
        (0xa0, 0, 0),
        (0xd0, 0xff00_0000, 0),
        (0xe0, 0xf000_0000, 0x0fff_ffff),
        (0xf0, 0x11ff, 0),
        (0x100, 0, 0),
        (0x180, 0, 0),
        (0x200, 0, 0),
        (0x270, 0, 0),
        (0x310, 0xff00_0000, 0),
        (0x320, 0x7_00ff, 0),
        (0x330, 0x1_07ff, 0),
        (0x340, 0x1_07ff, 0),
        (0x350, 0x1_a7ff, 0),
        (0x360, 0x1_a7ff, 0),
        (0x370, 0x1_00ff, 0),
        (0x380, 0xffff_ffff, 0),
        (0x390, 0, 0),
        (0x3e0, 0xb, 0),
    ] {
        if offset == 0x390 || offset == 0x380 {
            apic.mmio_write(0x320, 0x1_0000, 0);
            apic.mmio_write(0x380, 0, 0);
        }
        apic.mmio_write(offset, u32::MAX, 0);
        // Reading PPR follows TPR, so compare before TPR is put back.
        let expected = if offset == 0xa0 { 0xff } else { writable | ones };
        assert_eq!(apic.mmio_read(offset, 0), expected, "{offset:#x}");
    }
    assert_eq!(apic.mmio_read(0x280, 0), 0, "none of these is an illegal register");
}

#[test]
fn reserved_registers_are_an_error_in_xapic_mode() {
    let mut apic = enabled(0);
    apic.mmio_write(spec::LVT_ERROR, 0x33, 0);
    for offset in [0x00, 0x10, 0x40, 0x70, 0xc0, 0x290, 0x2f0, 0x3a0, 0x3d0, 0x3f0, 0x400, 0xff0] {
        assert_eq!(apic.mmio_read(offset, 0), 0);
        assert_eq!(apic.mmio_read(spec::ESR, 0), 0, "errors show after a write of the ESR");
        assert_eq!(apic.pending_vector(), Some(0x33));
        apic.acknowledge(0x33);
        apic.mmio_write(spec::EOI, 0, 0);
        apic.mmio_write(offset, 1, 0);
        assert_eq!(apic.pending_vector(), None, "one interrupt until the ESR is written");
        apic.mmio_write(spec::ESR, 0, 0);
        assert_eq!(apic.mmio_read(spec::ESR, 0), 0x80, "{offset:#x}");
        apic.mmio_write(spec::ESR, 0, 0);
        assert_eq!(apic.mmio_read(spec::ESR, 0), 0);
    }
}

#[test]
fn what_each_x2apic_msr_allows() {
    // SDM, "Local APIC Register Address Map Supported by x2APIC": (MSR, readable, bits that may be written as 1 or None).
    let mut rows = std::vec![
        (0x802, true, None),
        (0x803, true, None),
        (0x808, true, Some(0xffu64)),
        (0x80a, true, None),
        (0x80b, false, Some(0)),
        (0x80d, true, None),
        (0x80f, true, Some(0x11ff)),
        (0x828, true, Some(0)),
        (0x830, true, Some(0xffff_ffff_000c_dfff)),
        (0x832, true, Some(0x7_50ff)),
        (0x833, true, Some(0x1_57ff)),
        (0x834, true, Some(0x1_57ff)),
        (0x835, true, Some(0x1_f7ff)),
        (0x836, true, Some(0x1_f7ff)),
        (0x837, true, Some(0x1_50ff)),
        (0x838, true, Some(0xffff_ffff)),
        (0x839, true, None),
        (0x83e, true, Some(0xb)),
        (0x83f, false, Some(0xff)),
    ];
    rows.extend((0x810..0x828).map(|msr| (msr, true, None)));
    for msr in 0x800..0x900 {
        let (_, readable, writable) = rows.iter().copied().find(|row| row.0 == msr).unwrap_or((msr, false, None));
        let mut apic = x2apic(0);
        assert_eq!(apic.msr_read(msr, 0).is_some(), readable, "read of {msr:#x}");
        if !readable {
            assert!(!x2apic_read_is_plain(msr));
        }
        assert_eq!(apic.msr_write(msr, 0, 0).is_some(), writable.is_some(), "write of {msr:#x}");
        for bit in 0..64 {
            let legal = writable.is_some_and(|mask| mask & 1 << bit != 0);
            assert_eq!(apic.msr_write(msr, 1 << bit, 0).is_some(), legal, "bit {bit} of {msr:#x}");
        }
    }
    let mut xapic = enabled(0);
    for msr in 0x800..0x900 {
        assert_eq!((xapic.msr_read(msr, 0), xapic.msr_write(msr, 0, 0)), (None, None), "only in x2APIC mode");
    }
}

#[test]
fn the_plain_msrs_are_what_the_page_holds() {
    let page = SharedPage::default();
    let mut apic = LocalApic::new(Box::new(page.clone()), 5, 39);
    apic.set_base_msr(0xfee0_0c00).unwrap();
    apic.msr_write(0x80f, 0x1f0, 0).unwrap();
    for (msr, value) in [(0x808, 0x20), (0x832, 0x2_0031), (0x835, 0x8050), (0x838, 77), (0x83e, 0xb)] {
        apic.msr_write(msr, value, 0).unwrap();
    }
    apic.set_lint(0, true);
    for msr in (0x800u32..0x900).filter(|&msr| x2apic_read_is_plain(msr)) {
        let offset = u16::try_from(msr & 0xff).unwrap() << 4;
        assert_eq!(apic.msr_read(msr, 9), Some(page.read(offset).into()), "{msr:#x}");
    }
    assert_eq!(apic.msr_read(0x835, 0), Some(0xc050), "remote IRR shows");
}

#[test]
fn software_disabling_masks_the_lvt_for_good() {
    let mut apic = enabled(0);
    for lvt in spec::LVTS {
        apic.mmio_write(lvt, 0x40, 0);
        assert_eq!(apic.mmio_read(lvt, 0), 0x40);
    }
    apic.accept(&fixed(0x50, false));
    apic.mmio_write(spec::SVR, 0xff, 0);
    for lvt in spec::LVTS {
        assert_eq!(apic.mmio_read(lvt, 0), 0x1_0040);
        apic.mmio_write(lvt, 0x41, 0);
        assert_eq!(apic.mmio_read(lvt, 0), 0x1_0041);
    }
    apic.accept(&fixed(0x60, false));
    assert_eq!(apic.highest_irr(), Some(0x50), "what was accepted is kept, nothing new is");
    for (delivery, seen) in [(DeliveryMode::Nmi, [true, false]), (DeliveryMode::Init, [false, true])] {
        apic.accept(&ApicMessage::from_device(0, false, delivery, 0, false));
        assert_eq!([apic.take_nmi(), apic.take_init()], seen, "{delivery:?} is taken all the same");
    }
    apic.mmio_write(spec::SVR, 0x1ff, 0);
    assert_eq!(apic.mmio_read(spec::LVT_TIMER, 0), 0x1_0041, "enabling unmasks nothing");
}

proptest! {
    /// Whatever a guest or a caller does, in whatever order and at whatever time: no panic, no offset outside the page.
    #[test]
    fn nothing_panics(actions in proptest::collection::vec((0u8..14, any::<u32>(), any::<u64>(), any::<u64>()), 0..400)) {
        let mut apic = enabled(2);
        for (action, place, value, now) in actions {
            let low = u32::try_from(value & 0xffff_ffff).unwrap();
            let offset = u16::try_from(place & 0xffff).unwrap() & if value & 1 == 0 { 0x3f0 } else { u16::MAX };
            let [byte, ..] = value.to_le_bytes();
            match action {
                0 => { let _ = apic.mmio_read(offset, now); }
                1 => apic.mmio_write(offset, low, now),
                2 => { let _ = apic.msr_read(0x800 + (place & 0xff), now); }
                3 => { let _ = apic.msr_write(0x800 + (place & 0x3f), value >> (place >> 8 & 63), now); }
                4 => { let _ = apic.msr_write(0x6e0, value, now); }
                5 => apic.after_write(offset, now),
                6 => { let _ = apic.set_base_msr(0xfee0_0000 | value & 0xd00); }
                7 => apic.expire(now),
                8 => apic.set_lint(byte & 3, place & 1 != 0),
                9 => apic.eoi(byte),
                10 => apic.acknowledge(byte),
                11 => {
                    if let Some(delivery) = DeliveryMode::from_bits(place) {
                        let message = ApicMessage::from_device(byte, value & 0x100 != 0, delivery, byte, value & 0x200 != 0);
                        if apic.matches(&message) {
                            apic.accept(&message);
                        }
                    }
                }
                12 => if place & 7 == 0 { apic.init() },
                _ => apic.set_virtual_interrupt_delivery(value & 1 != 0),
            }
            let _ = (apic.pending_vector(), apic.eoi_exit_bitmap(), apic.next_deadline(), apic.accepts_extint());
            let _ = (apic.take_ipi(), apic.take_eoi(), apic.take_nmi(), apic.take_init(), apic.take_sipi());
        }
    }
}
