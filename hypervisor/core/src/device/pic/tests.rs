//! The 8259A pair against its datasheet.

use super::spec::POLL_INTERRUPT;
use super::*;
use proptest::prelude::*;

/// A pair initialized as on a PC (vectors 0x30 and 0x38), everything unmasked.
fn pair_with_icw4(master_icw4: u8, slave_icw4: u8) -> PicPair {
    let mut pics = PicPair::new();
    for (port, value) in [
        (MASTER_COMMAND, 0x11),
        (MASTER_DATA, 0x30),
        (MASTER_DATA, 0x04),
        (MASTER_DATA, master_icw4),
        (SLAVE_COMMAND, 0x11),
        (SLAVE_DATA, 0x38),
        (SLAVE_DATA, 0x02),
        (SLAVE_DATA, slave_icw4),
    ] {
        pics.write(port, value);
    }
    pics
}

fn pair() -> PicPair {
    pair_with_icw4(0x01, 0x01)
}

fn pulse(pics: &mut PicPair, irq: u8) {
    pics.set_line(irq, true);
    pics.set_line(irq, false);
}

/// The ISRs of both, by OCW3.
fn in_service(pics: &mut PicPair) -> (u8, u8) {
    pics.write(MASTER_COMMAND, 0x0b);
    pics.write(SLAVE_COMMAND, 0x0b);
    (pics.read(MASTER_COMMAND), pics.read(SLAVE_COMMAND))
}

fn requests(pics: &mut PicPair) -> (u8, u8) {
    pics.write(MASTER_COMMAND, 0x0a);
    pics.write(SLAVE_COMMAND, 0x0a);
    (pics.read(MASTER_COMMAND), pics.read(SLAVE_COMMAND))
}

#[test]
fn nothing_before_the_initialization() {
    let mut pics = PicPair::new();
    pulse(&mut pics, 0);
    assert!(!pics.pending());
    pics.write(MASTER_COMMAND, 0x11);
    pics.write(MASTER_DATA, 0x20);
    pulse(&mut pics, 1);
    assert!(!pics.pending(), "ICW3 and ICW4 are missing");
}

#[test]
fn every_irq_has_its_vector() {
    for irq in (0..16).filter(|&irq| irq != CASCADE_INPUT) {
        let mut pics = pair();
        pulse(&mut pics, irq);
        assert!(pics.pending());
        assert_eq!(pics.acknowledge(), 0x30 + irq);
        assert!(!pics.pending());
        let expected = if irq < 8 { (1 << irq, 0) } else { (1 << CASCADE_INPUT, 1 << (irq - 8)) };
        assert_eq!(in_service(&mut pics), expected);
    }
}

#[test]
fn priorities_are_fully_nested() {
    let mut pics = pair();
    pulse(&mut pics, 4);
    assert_eq!(pics.acknowledge(), 0x34);
    pulse(&mut pics, 6);
    assert!(!pics.pending(), "6 waits for 4");
    pulse(&mut pics, 4);
    assert!(!pics.pending(), "4 waits for itself");
    pulse(&mut pics, 12);
    assert_eq!(pics.acknowledge(), 0x3c, "the slave is at input 2");
    pulse(&mut pics, 1);
    assert_eq!(pics.acknowledge(), 0x31);
    // Non-specific EOIs end the highest first: 1, then the slave's 12, then 4.
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pics).0, 1 << 4 | 1 << 2);
    pics.write(SLAVE_COMMAND, 0x20);
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pics), (1 << 4, 0));
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(pics.acknowledge(), 0x34, "its second edge was latched");
    pics.write(MASTER_COMMAND, 0x64);
    assert_eq!(pics.acknowledge(), 0x36, "specific EOI of 4");
}

#[test]
fn a_higher_slave_interrupt_waits_unless_specially_nested() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pics = pair_with_icw4(icw4, 0x01);
        pulse(&mut pics, 12);
        assert_eq!(pics.acknowledge(), 0x3c);
        pulse(&mut pics, 3);
        assert!(!pics.pending(), "3 is below the slave");
        pulse(&mut pics, 9);
        assert_eq!(pics.pending(), nests);
        pulse(&mut pics, 14);
        assert_eq!(pics.pending(), nests, "14 itself is below 12");
    }
}

#[test]
fn masked_requests_wait_in_the_irr() {
    let mut pics = pair();
    pics.write(MASTER_DATA, 1 << 4);
    assert_eq!(pics.read(MASTER_DATA), 1 << 4);
    pulse(&mut pics, 4);
    assert!(!pics.pending());
    assert_eq!(requests(&mut pics).0, 1 << 4);
    pics.write(MASTER_DATA, 0);
    assert_eq!(pics.acknowledge(), 0x34);
}

#[test]
fn edges_and_levels() {
    let mut pics = pair();
    pics.set_line(5, true);
    assert_eq!(pics.acknowledge(), 0x35);
    pics.write(MASTER_COMMAND, 0x20);
    assert!(!pics.pending(), "an edge is one interrupt");

    let mut pics = pair();
    pics.write(ELCR_MASTER, 1 << 5);
    pics.set_line(5, true);
    assert_eq!(pics.acknowledge(), 0x35);
    pics.write(MASTER_COMMAND, 0x20);
    assert!(pics.pending(), "a level is as many as it stays");
    pics.set_line(5, false);
    assert!(!pics.pending(), "and takes its request back");
}

#[test]
fn the_elcr_keeps_isa_lines_edge_triggered() {
    let mut pics = pair();
    pics.write(ELCR_MASTER, 0xff);
    pics.write(ELCR_SLAVE, 0xff);
    assert_eq!((pics.read(ELCR_MASTER), pics.read(ELCR_SLAVE)), (0xf8, 0xde));
}

#[test]
fn spurious_interrupts_are_not_in_service() {
    let mut pics = pair();
    assert_eq!(pics.acknowledge(), 0x37);
    assert_eq!(in_service(&mut pics), (0, 0));
    // The slave's request is masked between the master's request and the acknowledge: INT of the slave falls with it.
    pics.write(ELCR_SLAVE, 1 << 2);
    pics.set_line(10, true);
    pics.write(SLAVE_DATA, 1 << 2);
    assert!(!pics.pending());
    assert_eq!(pics.acknowledge(), 0x37);
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pics = pair_with_icw4(0x03, 0x03);
    for irq in [3, 11] {
        pulse(&mut pics, irq);
        assert_eq!(pics.acknowledge(), 0x30 + irq);
        assert_eq!(in_service(&mut pics), (0, 0));
    }
    // Rotate in automatic EOI mode: the one served gets the lowest priority.
    pics.write(MASTER_COMMAND, 0x80);
    pulse(&mut pics, 0);
    assert_eq!(pics.acknowledge(), 0x30);
    pulse(&mut pics, 0);
    pulse(&mut pics, 7);
    assert_eq!(pics.acknowledge(), 0x37);
    assert_eq!(pics.acknowledge(), 0x30);
}

#[test]
fn priorities_rotate() {
    let mut pics = pair();
    // Set priority: 5 is the lowest, so 6 the highest.
    pics.write(MASTER_COMMAND, 0xc5);
    for irq in [0, 5, 6] {
        pulse(&mut pics, irq);
    }
    assert_eq!(pics.acknowledge(), 0x36);
    // Rotate on non-specific EOI: now 6 is the lowest.
    pics.write(MASTER_COMMAND, 0xa0);
    pulse(&mut pics, 6);
    assert_eq!(pics.acknowledge(), 0x30);
    // Rotate on specific EOI of 0.
    pics.write(MASTER_COMMAND, 0xe0);
    pulse(&mut pics, 0);
    assert_eq!(pics.acknowledge(), 0x35);
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(pics.acknowledge(), 0x36);
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(pics.acknowledge(), 0x30);
}

#[test]
fn the_special_mask_lets_lower_levels_through() {
    let mut pics = pair();
    pulse(&mut pics, 1);
    assert_eq!(pics.acknowledge(), 0x31);
    pulse(&mut pics, 6);
    pics.write(MASTER_DATA, 1 << 1);
    assert!(!pics.pending());
    pics.write(MASTER_COMMAND, 0x68);
    assert_eq!(pics.acknowledge(), 0x36);
    // A non-specific EOI does not end what is masked.
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pics).0, 1 << 1);
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pics).0, 1 << 1);
    pics.write(MASTER_COMMAND, 0x48);
    pics.write(MASTER_COMMAND, 0x20);
    assert_eq!(in_service(&mut pics).0, 0);
}

#[test]
fn a_poll_is_an_acknowledge() {
    let mut pics = pair();
    pics.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pics.read(MASTER_COMMAND), 0, "nothing there");
    pulse(&mut pics, 3);
    pics.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pics.read(MASTER_COMMAND), POLL_INTERRUPT | 3);
    assert_eq!(in_service(&mut pics).0, 1 << 3);
    pulse(&mut pics, 10);
    pics.write(SLAVE_COMMAND, 0x0c);
    assert_eq!(pics.read(SLAVE_DATA), POLL_INTERRUPT | 2);
    assert!(!pics.pending(), "the slave's INT fell with the poll");
    assert_eq!(pics.read(SLAVE_DATA), 0, "the mask again");
}

#[test]
fn icw1_starts_anew() {
    let mut pics = pair();
    pics.write(MASTER_COMMAND, 0xc3);
    pics.write(MASTER_DATA, 0xaa);
    pics.set_line(4, true);
    pulse(&mut pics, 0);
    assert_eq!(pics.acknowledge(), 0x34);
    // ICW1 without ICW4, single: ICW2 is all that follows.
    pics.write(MASTER_COMMAND, 0x12);
    pics.write(MASTER_DATA, 0x77);
    assert_eq!(pics.read(MASTER_DATA), 0, "the mask is clear");
    assert_eq!((requests(&mut pics).0, in_service(&mut pics).0), (0, 0), "a line that is high needs a new edge");
    pics.set_line(4, false);
    pics.set_line(4, true);
    pulse(&mut pics, 3);
    assert_eq!(pics.acknowledge(), 0x73, "IR7 has priority 7 again; only T7-T3 of ICW2 count");
}

#[derive(Clone, Debug)]
enum Step {
    Line(u8, bool),
    Write(u16, u8),
    Read(u16),
    Acknowledge,
}

fn step() -> impl Strategy<Value = Step> {
    let port =
        prop::sample::select(&[MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA, ELCR_MASTER, ELCR_SLAVE][..]);
    prop_oneof![
        4 => (0u8..18, any::<bool>()).prop_map(|(irq, high)| Step::Line(irq, high)),
        3 => (port.clone(), any::<u8>()).prop_map(|(port, value)| Step::Write(port, value)),
        1 => port.prop_map(Step::Read),
        3 => Just(Step::Acknowledge),
    ]
}

proptest! {
    /// Whatever the guest writes: an acknowledge gives the vector of an unmasked request, or the spurious one.
    #[test]
    fn a_masked_line_never_interrupts(steps in prop::collection::vec(step(), 1..200)) {
        let mut pics = pair();
        for step in steps {
            match step {
                Step::Line(irq, high) => pics.set_line(irq, high),
                Step::Write(port, value) => pics.write(port, value),
                Step::Read(port) => { pics.read(port); }
                Step::Acknowledge => {
                    let before = pics.clone();
                    let master = before.master.request();
                    prop_assert_eq!(master.is_some(), pics.pending());
                    let vector = pics.acknowledge();
                    match master {
                        None => prop_assert_eq!(vector, before.master.vector(SPURIOUS_LEVEL)),
                        Some(CASCADE_INPUT) => {
                            // The cascade is a level: the slave still has what it asked for.
                            let level = before.slave.request().expect("the slave asks");
                            prop_assert_eq!(vector, before.slave.vector(level));
                            prop_assert_ne!(before.slave.irr() & !before.slave.mask() & 1 << level, 0);
                        }
                        Some(level) => {
                            prop_assert_eq!(vector, before.master.vector(level));
                            prop_assert_ne!(before.master.irr() & !before.master.mask() & 1 << level, 0);
                        }
                    }
                }
            }
        }
    }
}
