//! The ICR, and who a message is for.

use super::*;

/// Writes the ICR in xAPIC mode and takes what it sends.
fn send(apic: &mut LocalApic, destination: u8, low: u32) -> Option<ApicMessage> {
    apic.mmio_write(spec::ICR_HIGH, u32::from(destination) << 24, 0);
    apic.mmio_write(spec::ICR_LOW, low, 0);
    apic.take_ipi()
}

fn errors(apic: &mut LocalApic) -> u32 {
    apic.mmio_write(spec::ESR, 0, 0);
    apic.mmio_read(spec::ESR, 0)
}

#[test]
fn each_delivery_mode() {
    let mut apic = enabled(0);
    for (bits, delivery) in [
        (0, Some(DeliveryMode::Fixed)),
        (1, Some(DeliveryMode::LowestPriority)),
        (2, None),
        (3, None),
        (4, Some(DeliveryMode::Nmi)),
        (5, Some(DeliveryMode::Init)),
        (6, Some(DeliveryMode::StartUp)),
        (7, None),
    ] {
        let message = send(&mut apic, 1, bits << 8 | 0x4099);
        assert_eq!(message.map(|message| message.delivery), delivery, "mode {bits}");
        if let Some(message) = message {
            assert_eq!((message.destination, message.vector, message.level, message.source), (1, 0x99, false, 0));
        }
    }
    assert_eq!(send(&mut apic, 1, 0x8500), None, "INIT level de-assert");
    assert!(send(&mut apic, 1, 0xc500).is_some(), "INIT level assert");
    assert_eq!(apic.mmio_read(spec::ICR_LOW, 0), 0xc500);
    apic.mmio_write(spec::ICR_LOW, u32::MAX, 0);
    assert_eq!(apic.mmio_read(spec::ICR_LOW, 0), 0x000c_cfff, "the bits that exist, delivery status idle");
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn the_valid_combinations_with_a_shorthand() {
    // SDM, "Valid Combinations for the Pentium 4 and Intel Xeon Processors' Local xAPIC Interrupt Command Register".
    for delivery in [0, 1, 4, 5, 6] {
        for (shorthand, valid) in [(1, delivery == 0), (2, delivery == 0), (3, true)] {
            let mut apic = enabled(0);
            let message = send(&mut apic, 9, shorthand << 18 | delivery << 8 | 0x4055);
            let seen = message.is_some() || apic.highest_irr().is_some();
            assert_eq!(seen, valid, "delivery {delivery} shorthand {shorthand}");
        }
    }
}

#[test]
fn self_ipis_stay_inside() {
    let mut apic = enabled(0);
    assert_eq!(send(&mut apic, 7, 0x4_4061), None);
    assert_eq!(apic.pending_vector(), Some(0x61));
    let mut apic = x2apic(0);
    apic.msr_write(0x83f, 0x62, 0).unwrap();
    assert_eq!(apic.pending_vector(), Some(0x62));
    apic.msr_write(0x83f, 0xf, 0).unwrap();
    apic.msr_write(0x828, 0, 0).unwrap();
    assert_eq!(apic.msr_read(0x828, 0), Some(0x20), "send illegal vector");
}

#[test]
fn illegal_vectors() {
    let mut apic = enabled(0);
    for low in [0x000f, 0x0100, 0x4_0003, 0x8_0003, 0xc_0003] {
        assert_eq!(send(&mut apic, 1, low), None);
        assert_eq!(errors(&mut apic), 0x20, "{low:#x}");
    }
    assert!(send(&mut apic, 1, 0x4400).is_some(), "an NMI's vector does not count");
    apic.accept(&fixed(0xf, false));
    assert_eq!(apic.highest_irr(), None);
    assert_eq!(errors(&mut apic), 0x40);
}

#[test]
fn all_but_self_with_one_cpu_reaches_nobody_and_is_no_error() {
    let mut apic = enabled(0);
    for low in [0xc_4500, 0xc_8500, 0xc_4601, 0xc_40f0] {
        if let Some(message) = send(&mut apic, 0, low) {
            assert!(!apic.matches(&message), "{low:#x}");
        }
    }
    assert_eq!(errors(&mut apic), 0);
    assert_eq!((apic.take_init(), apic.take_sipi(), apic.highest_irr()), (false, None, None));
}

#[test]
fn shorthands_reach() {
    let (mut first, second) = (enabled(0), enabled(1));
    let all = send(&mut first, 0, 0x8_4055).unwrap();
    assert!(first.matches(&all) && second.matches(&all));
    let others = send(&mut first, 0, 0xc_4055).unwrap();
    assert!(!first.matches(&others) && second.matches(&others));
}

#[test]
fn init_then_startup() {
    let mut apic = enabled(1);
    let message = |delivery, vector| ApicMessage::from_device(1, false, delivery, vector, false);
    apic.accept(&message(DeliveryMode::StartUp, 0x08));
    apic.accept(&message(DeliveryMode::Init, 0));
    assert_eq!((apic.take_init(), apic.take_sipi()), (true, None), "INIT forgets an earlier SIPI");
    apic.accept(&message(DeliveryMode::StartUp, 0x9a));
    assert_eq!((apic.take_init(), apic.take_sipi(), apic.take_sipi()), (false, Some(0x9a), None));
}

/// (DFR, LDR, destination, logical, whether it matches APIC ID 2), from "Determining IPI Destination".
#[test]
fn xapic_destinations() {
    for (dfr, ldr, destination, logical, matches) in [
        (0xf, 0x00, 0x02, false, true),
        (0xf, 0x00, 0x03, false, false),
        (0xf, 0x00, 0xff, false, true),
        (0xf, 0x04, 0x04, true, true),
        (0xf, 0x04, 0x0c, true, true),
        (0xf, 0x04, 0xfb, true, false),
        (0xf, 0x04, 0xff, true, true),
        (0xf, 0x04, 0x00, true, false),
        (0x0, 0x24, 0x24, true, true),
        (0x0, 0x24, 0x2c, true, true),
        (0x0, 0x24, 0x34, true, false),
        (0x0, 0x24, 0x28, true, false),
        (0x0, 0x24, 0xf4, true, true),
        (0x0, 0x24, 0xff, true, true),
        (0x5, 0x24, 0x24, true, false),
    ] {
        let mut apic = enabled(2);
        apic.mmio_write(spec::DFR, dfr << 28, 0);
        apic.mmio_write(spec::LDR, ldr << 24, 0);
        let message = ApicMessage::from_device(destination, logical, DeliveryMode::Fixed, 0x40, false);
        assert_eq!(apic.matches(&message), matches, "{dfr:#x} {ldr:#x} {destination:#x} {logical}");
        let sent = send(&mut enabled(0), destination, u32::from(logical) << 11 | 0x4040).unwrap();
        assert_eq!(apic.matches(&sent), matches, "the same as an IPI");
    }
}

#[test]
fn x2apic_destinations() {
    let apic = x2apic(0x123);
    for (destination, logical, matches) in [
        (0x123u32, false, true),
        (0x23, false, false),
        (0xffff_ffff, false, true),
        (0x0012_0008, true, true),
        (0x0012_ffff, true, true),
        (0x0012_fff7, true, false),
        (0x0013_0008, true, false),
        (0xffff_ffff, true, true),
    ] {
        let mut sender = x2apic(7);
        let icr = u64::from(destination) << 32 | u64::from(logical) << 11 | 0x4040;
        sender.msr_write(0x830, icr, 0).unwrap();
        assert_eq!(sender.msr_read(0x830, 0), Some(icr));
        let message = sender.take_ipi().unwrap();
        assert_eq!(apic.matches(&message), matches, "{destination:#x} {logical}");
        assert_eq!(sender.take_ipi(), None);
    }
    let everybody = ApicMessage::from_device(0xff, false, DeliveryMode::Fixed, 0x40, false);
    assert!(apic.matches(&everybody), "an 8-bit broadcast reaches x2APICs");
}

#[test]
fn the_lowest_priority_takes_it() {
    let mut apics = [enabled(0), enabled(1), enabled(2), apic(3)];
    for (apic, tpr) in apics.iter_mut().zip([0x50, 0x20, 0x20, 0x00]) {
        apic.mmio_write(spec::TPR, tpr, 0);
    }
    assert_eq!(lowest_priority(apics.iter().enumerate()), Some(1), "the first of equals, not the disabled one");
    apics[1].accept(&fixed(0x90, false));
    apics[1].acknowledge(0x90);
    assert_eq!(lowest_priority(apics.iter().enumerate()), Some(2), "in service counts");
    assert_eq!(lowest_priority(apics.iter().enumerate().skip(3)), Some(3));
    assert_eq!(lowest_priority(apics.iter().enumerate().skip(4)), None);
}
