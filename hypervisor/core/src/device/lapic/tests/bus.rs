//! The bus between local APICs: who gets a message, and that it waits until its receiver looks.

use super::*;

fn bus(count: u32) -> ApicBus {
    ApicBus::new((0..count).map(enabled).collect())
}

fn message(shorthand: Shorthand, destination: u32, delivery: DeliveryMode, vector: u8) -> ApicMessage {
    ApicMessage { destination, logical: false, delivery, vector, level: false, shorthand, source: 0 }
}

fn to(destination: u32, delivery: DeliveryMode, vector: u8) -> ApicMessage {
    message(Shorthand::None, destination, delivery, vector)
}

fn highest(bus: &ApicBus, index: usize) -> Option<u8> {
    bus.all()[index].highest_irr()
}

#[test]
fn a_message_waits_in_the_inbox_of_its_receiver_alone() {
    let mut bus = bus(3);
    assert_eq!(bus.send(&to(2, DeliveryMode::Fixed, 0x91)), 1 << 2);
    assert_eq!(bus.send(&to(2, DeliveryMode::Fixed, 0x41)), 1 << 2);
    assert_eq!(highest(&bus, 2), None, "its registers are its own until it looks");
    assert!(!bus.collect(0) && !bus.collect(1));
    assert!(bus.collect(2));
    assert_eq!(highest(&bus, 2), Some(0x91));
    bus.local(2).unwrap().acknowledge(0x91);
    assert_eq!(highest(&bus, 2), Some(0x41));
    assert!(!bus.collect(2), "taken once");
    assert_eq!((highest(&bus, 0), highest(&bus, 1)), (None, None));
}

#[test]
fn nobody_takes_what_is_for_nobody() {
    let mut bus = bus(2);
    assert_eq!(bus.send(&to(7, DeliveryMode::Fixed, 0x41)), 0);
    assert!(!bus.collect(9), "no such vCPU");
    assert!(bus.local(9).is_none());
}

#[test]
fn broadcasts_reach_all_with_and_without_the_sender() {
    for (shorthand, told) in [(Shorthand::AllIncludingSelf, 0b1111), (Shorthand::AllExcludingSelf, 0b1110)] {
        let mut bus = bus(4);
        assert_eq!(bus.send(&message(shorthand, 0, DeliveryMode::Fixed, 0x50)), told);
        for index in 0..4 {
            let reached = told & 1 << index != 0;
            assert_eq!(bus.collect(index), reached);
            assert_eq!(highest(&bus, index), reached.then_some(0x50));
        }
    }
    assert_eq!(bus(4).send(&to(BROADCAST, DeliveryMode::Nmi, 0)), 0b1111);
}

#[test]
fn a_lowest_priority_message_has_one_taker() {
    let mut bus = bus(3);
    for (index, tpr) in [0x40, 0x20, 0x30].into_iter().enumerate() {
        bus.local(index).unwrap().mmio_write(spec::TPR, tpr, 0);
    }
    assert_eq!(bus.send(&to(BROADCAST, DeliveryMode::LowestPriority, 0x61)), 1 << 1);
    assert!(bus.collect(1));
    assert_eq!(highest(&bus, 1), Some(0x61));
}

#[test]
fn the_trigger_mode_goes_with_the_vector() {
    let mut bus = bus(1);
    for (level, bits) in [(true, 1 << (0x43 % 64)), (false, 0)] {
        bus.send(&ApicMessage { level, ..to(0, DeliveryMode::Fixed, 0x43) });
        bus.collect(0);
        let bitmap = bus.local(0).unwrap().eoi_exit_bitmap();
        assert_eq!(bitmap, [0, bits, 0, 0], "level: {level}");
    }
}

#[test]
fn init_forgets_what_came_before_it_and_a_start_up_may_follow() {
    let mut bus = bus(2);
    for delivery in [DeliveryMode::Fixed, DeliveryMode::Nmi, DeliveryMode::StartUp, DeliveryMode::Init] {
        assert_eq!(bus.send(&to(1, delivery, 0x99)), 1 << 1);
    }
    bus.collect(1);
    let apic = bus.local(1).unwrap();
    assert_eq!((apic.take_init(), apic.take_sipi(), apic.take_nmi(), apic.highest_irr()), (true, None, false, None));

    // Both before the vCPU looks, as when it waits for a CPU.
    bus.send(&to(1, DeliveryMode::Init, 0));
    bus.send(&to(1, DeliveryMode::StartUp, 0x9a));
    bus.collect(1);
    let apic = bus.local(1).unwrap();
    assert_eq!((apic.take_init(), apic.take_sipi()), (true, Some(0x9a)));
}

#[test]
fn nmi_and_extint_are_kept() {
    let mut bus = bus(2);
    bus.send(&to(1, DeliveryMode::Nmi, 0));
    bus.collect(1);
    assert!(bus.local(1).unwrap().take_nmi());
    assert!(!bus.all()[1].accepts_extint());
    bus.send(&to(1, DeliveryMode::ExtInt, 0));
    bus.collect(1);
    assert!(bus.all()[1].accepts_extint());
}
