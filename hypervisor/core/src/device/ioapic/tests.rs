//! The I/O APIC against its datasheet.

use super::*;
use crate::device::lapic::BROADCAST;
use proptest::prelude::*;

const EDGE: u32 = 0;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const LOW: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;

fn write(ioapic: &mut IoApic, index: u8, value: u32) {
    ioapic.mmio_write(0x00, Width::Dword, index.into());
    ioapic.mmio_write(0x10, Width::Dword, value);
}

fn read(ioapic: &mut IoApic, index: u8) -> u32 {
    ioapic.mmio_write(0x00, Width::Dword, index.into());
    ioapic.mmio_read(0x10, Width::Dword)
}

fn entry(ioapic: &mut IoApic, pin: u8, low: u32) {
    write(ioapic, 0x10 + 2 * pin, low);
}

fn vector(ioapic: &mut IoApic) -> Option<u8> {
    ioapic.take_message().map(|message| message.vector)
}

#[test]
fn registers_after_reset() {
    let mut ioapic = IoApic::new(5);
    assert_eq!(read(&mut ioapic, 0), 0x0500_0000);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    assert_eq!(read(&mut ioapic, 2), 0x0500_0000);
    for pin in 0..24 {
        assert_eq!(read(&mut ioapic, 0x10 + 2 * pin), MASKED);
        assert_eq!(read(&mut ioapic, 0x11 + 2 * pin), 0);
    }
    for index in [3, 0xf, 0x40, 0xff] {
        write(&mut ioapic, index, u32::MAX);
        assert_eq!(read(&mut ioapic, index), 0, "index {index:#x} is no register");
    }
}

#[test]
fn only_the_bits_that_exist_are_written() {
    let mut ioapic = IoApic::new(0);
    for index in [0u8, 1, 2, 0x10, 0x11, 0x3e, 0x3f] {
        write(&mut ioapic, index, u32::MAX);
    }
    assert_eq!(read(&mut ioapic, 0), 0x0f00_0000);
    assert_eq!(read(&mut ioapic, 1), 0x0017_0020);
    assert_eq!(read(&mut ioapic, 2), 0x0f00_0000);
    assert_eq!(read(&mut ioapic, 0x10), 0x1_afff, "delivery status and remote IRR are read only");
    assert_eq!(read(&mut ioapic, 0x11), 0xff00_0000);
    assert_eq!(read(&mut ioapic, 0x3e), 0x1_afff);
    ioapic.reset();
    assert_eq!(read(&mut ioapic, 0x10), MASKED);
    assert_eq!(read(&mut ioapic, 0), 0x0f00_0000);
}

#[test]
fn the_select_register_is_a_byte_and_narrow_reads_are_slices() {
    let mut ioapic = IoApic::new(7);
    ioapic.mmio_write(0, Width::Byte, 0x01);
    assert_eq!(ioapic.mmio_read(0, Width::Dword), 1);
    assert_eq!(ioapic.mmio_read(0x10, Width::Byte), 0x20);
    assert_eq!(ioapic.mmio_read(0x12, Width::Byte), 0x17);
    assert_eq!(ioapic.mmio_read(0x12, Width::Word), 0x17);
    assert_eq!(ioapic.mmio_read(0x20, Width::Dword), 0);
}

#[test]
fn an_entry_makes_its_message() {
    let mut ioapic = IoApic::new(0);
    for (bits, delivery) in [
        (0, DeliveryMode::Fixed),
        (1, DeliveryMode::LowestPriority),
        (2, DeliveryMode::Smi),
        (4, DeliveryMode::Nmi),
        (5, DeliveryMode::Init),
        (7, DeliveryMode::ExtInt),
    ] {
        write(&mut ioapic, 0x11 + 2 * 9, 0x0300_0000);
        entry(&mut ioapic, 9, 0x41 | bits << 8 | 1 << 11);
        ioapic.set_line(9, true);
        ioapic.set_line(9, false);
        let expected = ApicMessage::from_device(3, true, delivery, 0x41, false);
        assert_eq!(ioapic.take_message(), Some(expected));
        assert_eq!(ioapic.take_message(), None);
    }
    for reserved in [3, 6] {
        entry(&mut ioapic, 9, 0x41 | reserved << 8);
        ioapic.set_line(9, true);
        ioapic.set_line(9, false);
        assert_eq!(ioapic.take_message(), None, "delivery mode {reserved} is reserved");
    }
    write(&mut ioapic, 0x11 + 2 * 9, 0xff00_0000);
    entry(&mut ioapic, 9, 0x41);
    ioapic.set_line(9, true);
    assert_eq!(ioapic.take_message().unwrap().destination, BROADCAST);
}

#[test]
fn an_edge_is_sent_once_and_lost_when_masked() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 2, 0x30 | MASKED | EDGE);
    ioapic.set_line(2, true);
    entry(&mut ioapic, 2, 0x30);
    assert_eq!(vector(&mut ioapic), None, "not held pending");
    ioapic.set_line(2, true);
    assert_eq!(vector(&mut ioapic), None, "no edge");
    ioapic.set_line(2, false);
    ioapic.set_line(2, true);
    assert_eq!(read(&mut ioapic, 0x14) & PENDING, PENDING);
    assert_eq!(vector(&mut ioapic), Some(0x30));
    assert_eq!(read(&mut ioapic, 0x14), 0x30);
    assert_eq!(vector(&mut ioapic), None);
    ioapic.set_line(2, false);
    ioapic.set_line(2, true);
    assert_eq!(vector(&mut ioapic), Some(0x30), "an edge needs no EOI");
}

#[test]
fn a_level_is_sent_once_per_eoi_while_the_line_is_active() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 9, 0x39 | LEVEL | MASKED);
    ioapic.set_line(9, true);
    assert_eq!(vector(&mut ioapic), None);
    entry(&mut ioapic, 9, 0x39 | LEVEL);
    assert_eq!(vector(&mut ioapic), Some(0x39), "unmasking shows the level");
    assert_eq!(read(&mut ioapic, 0x22), 0x39 | LEVEL | REMOTE_IRR);
    ioapic.set_line(9, true);
    assert_eq!(vector(&mut ioapic), None, "remote IRR holds it back");
    ioapic.end_of_interrupt(0x38);
    assert_eq!(vector(&mut ioapic), None);
    ioapic.end_of_interrupt(0x39);
    assert_eq!(vector(&mut ioapic), Some(0x39), "the line is still active");
    ioapic.set_line(9, false);
    ioapic.mmio_write(0x40, Width::Dword, 0x39);
    assert_eq!(vector(&mut ioapic), None);
    assert_eq!(read(&mut ioapic, 0x22), 0x39 | LEVEL);
    ioapic.set_line(9, true);
    ioapic.set_line(9, false);
    assert_eq!(vector(&mut ioapic), None, "let go before it was sent");
}

#[test]
fn active_low_turns_the_line_round() {
    let mut ioapic = IoApic::new(0);
    ioapic.set_line(16, true);
    entry(&mut ioapic, 16, 0x51 | LEVEL | LOW);
    assert_eq!(vector(&mut ioapic), None);
    ioapic.set_line(16, false);
    assert_eq!(vector(&mut ioapic), Some(0x51));
    ioapic.set_line(17, true);
    entry(&mut ioapic, 17, 0x52 | LOW);
    ioapic.set_line(17, false);
    assert_eq!(vector(&mut ioapic), Some(0x52), "the falling edge is the active one");
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 9, 0x39 | LEVEL);
    ioapic.set_line(9, true);
    assert_eq!(vector(&mut ioapic), Some(0x39));
    // What Linux does to end an interrupt without the EOI register.
    entry(&mut ioapic, 9, 0x39 | MASKED | EDGE);
    entry(&mut ioapic, 9, 0x39 | LEVEL);
    assert_eq!(vector(&mut ioapic), Some(0x39));
}

#[test]
fn masking_takes_back_what_was_not_sent() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 4, 0x34);
    ioapic.set_line(4, true);
    entry(&mut ioapic, 4, 0x34 | MASKED);
    assert_eq!(read(&mut ioapic, 0x18), 0x34 | MASKED);
    entry(&mut ioapic, 4, 0x34);
    assert_eq!(vector(&mut ioapic), None);
}

#[test]
fn a_reset_leaves_the_lines_to_their_devices() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 9, 0x39 | LEVEL);
    ioapic.set_line(9, true);
    ioapic.reset();
    assert_eq!((vector(&mut ioapic), read(&mut ioapic, 0x22)), (None, MASKED));
    entry(&mut ioapic, 9, 0x3a | LEVEL);
    assert_eq!(vector(&mut ioapic), Some(0x3a));
}

#[test]
fn pins_beyond_the_last_do_not_exist() {
    let mut ioapic = IoApic::new(0);
    for pin in PINS..=u8::MAX {
        ioapic.set_line(pin, true);
    }
    assert!(!ioapic.has_message());
}

/// What the datasheet says of one level-triggered pin, word by word.
#[derive(Default)]
struct LevelPin {
    line: bool,
    masked: bool,
    remote_irr: bool,
}

proptest! {
    #[test]
    fn level_pins_follow_the_reference(actions in proptest::collection::vec((0u8..4, 0u8..4), 1..200)) {
        let mut ioapic = IoApic::new(0);
        let mut pins: [LevelPin; 4] = Default::default();
        for pin in 0..4u8 {
            entry(&mut ioapic, pin, u32::from(0x40 + pin) | LEVEL);
        }
        for (action, pin) in actions {
            let reference = &mut pins[usize::from(pin)];
            match action {
                0 => reference.line = !reference.line,
                1 => reference.masked = !reference.masked,
                _ => reference.remote_irr = false,
            }
            match action {
                0 => ioapic.set_line(pin, reference.line),
                1 => entry(&mut ioapic, pin, u32::from(0x40 + pin) | LEVEL | if reference.masked { MASKED } else { 0 }),
                _ => ioapic.end_of_interrupt(0x40 + pin),
            }
            let expected = reference.line && !reference.masked && !reference.remote_irr;
            reference.remote_irr |= expected;
            prop_assert_eq!(vector(&mut ioapic), expected.then_some(0x40 + pin));
            prop_assert_eq!(vector(&mut ioapic), None);
        }
    }

    #[test]
    fn no_access_panics_and_messages_are_bounded(
        accesses in proptest::collection::vec((0u8..5, any::<u32>(), any::<u32>()), 0..300),
    ) {
        let mut ioapic = IoApic::new(0);
        for (what, place, value) in accesses {
            let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][(value >> 8 & 3) as usize];
            match what {
                0 => ioapic.mmio_write(place & 0x7f, width, value),
                1 => write(&mut ioapic, place.to_le_bytes()[0], value),
                2 => { let _ = ioapic.mmio_read(place, width); }
                3 => ioapic.set_line(place.to_le_bytes()[0] & 31, value & 1 != 0),
                _ => ioapic.end_of_interrupt(value.to_le_bytes()[0]),
            }
            let taken = core::iter::from_fn(|| ioapic.take_message()).count();
            prop_assert!(taken <= usize::from(PINS));
        }
    }
}
