//! The 16550A against its datasheet, and against what Linux's 8250 driver asks of it.

use super::*;
use proptest::prelude::*;

/// The chip with a line: time passes after every access, as the board does it.
struct Line {
    uart: Uart,
}

impl Line {
    fn new() -> Self {
        Self { uart: Uart::new() }
    }

    fn read(&mut self, offset: u16) -> u8 {
        let value = self.uart.read(offset);
        self.uart.settle();
        value
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(offset, value);
        self.uart.settle();
    }

    fn input(&mut self, bytes: &[u8]) {
        assert_eq!(self.uart.input(bytes), bytes.len());
        self.uart.settle();
    }
}

#[test]
fn registers_after_a_reset() {
    let mut line = Line::new();
    // Datasheet, "UART Reset Configuration"; the terminal drives CTS, DSR and DCD.
    for (offset, value) in [(IER, 0), (IIR_FCR, 0x01), (LCR, 0), (MCR, 0), (LSR, 0x60), (MSR, 0xb0)] {
        assert_eq!(line.read(offset), value, "register {offset}");
    }
    assert!(!line.uart.irq_level());
}

#[test]
fn divisor_latch_and_scratch() {
    let mut line = Line::new();
    line.write(IER, 0x05);
    line.write(LCR, 0x83);
    line.write(DATA, 0x0c);
    line.write(IER, 0x01);
    assert_eq!((line.read(DATA), line.read(IER)), (0x0c, 0x01));
    line.write(LCR, 0x03);
    assert_eq!(line.read(IER), 0x05);
    assert!(line.uart.output().is_empty(), "the divisor is no character");
    for value in [0x00, 0x55, 0xff] {
        line.write(SCR, value);
        assert_eq!(line.read(SCR), value);
    }
    line.write(LSR, 0xff);
    assert_eq!(line.read(LSR), 0x60, "the LSR is read only");
    line.write(MCR, 0xff);
    assert_eq!(line.read(MCR), 0x1f);
    line.write(IER, 0xff);
    assert_eq!(line.read(IER), 0x0f);
}

/// The steps of Linux's `autoconfig()` that find a 16550A, and not a better one.
#[test]
fn linux_finds_a_16550a() {
    let mut line = Line::new();
    line.write(IER, 0);
    assert_eq!(line.read(IER), 0);
    line.write(IER, 0x0f);
    assert_eq!(line.read(IER), 0x0f);
    line.write(IER, 0);
    // Loopback: RTS and OUT2 come back as CTS and DCD.
    line.write(MCR, 0x1a);
    assert_eq!(line.read(MSR) & 0xf0, 0x90);
    line.write(MCR, 0);
    // No EFR behind LCR = 0xBF.
    line.write(LCR, 0xbf);
    line.write(IIR_FCR, 0);
    line.write(LCR, 0);
    line.write(IIR_FCR, 0x01);
    assert_eq!(line.read(IIR_FCR) >> 6, 3, "16550A");
    line.write(LCR, 0x80);
    assert_ne!(line.read(IIR_FCR), 0, "an EFR that reads 0 would be a 16650");
    line.write(LCR, 0xbf);
    assert_ne!(line.read(IIR_FCR), 0, "an EFR that reads 0 would be a 16650v2");
    line.write(LCR, 0);
    // A 16750 would show its 64-byte FIFO in IIR bit 5.
    line.write(IIR_FCR, 0x01);
    assert_eq!(line.read(IIR_FCR) >> 5, 6);
    line.write(LCR, 0x80);
    line.write(IIR_FCR, 0x21);
    line.write(LCR, 0);
    assert_eq!(line.read(IIR_FCR) >> 5, 6);
    // An XScale UART would keep IER bit 6.
    line.write(IER, 0x40);
    assert_eq!(line.read(IER), 0);
}

/// `serial8250_do_startup`: enabling the THRE interrupt raises it, each time; else the driver falls back to polling by timer.
#[test]
fn linux_trusts_the_thre_interrupt() {
    let mut line = Line::new();
    line.write(IER, 0x02);
    assert!(line.uart.irq_level());
    assert_eq!(line.read(IIR_FCR), 0x02);
    assert_eq!(line.read(IIR_FCR), 0x01, "reading it took it back");
    assert!(!line.uart.irq_level());
    line.write(IER, 0x00);
    line.write(IER, 0x02);
    assert_eq!(line.read(IIR_FCR), 0x02, "reasserted");
    line.write(IER, 0x02);
    assert_eq!(line.read(IIR_FCR), 0x01, "no change, no interrupt");
}

#[test]
fn thre_falls_with_a_character_and_rises_when_it_is_sent() {
    let mut uart = Uart::new();
    uart.write(IER, 0x02);
    assert!(uart.irq_level());
    uart.write(DATA, b'a');
    assert!(!uart.irq_level(), "writing the THR resets it");
    assert!(uart.settle());
    assert!(uart.irq_level());
    assert_eq!(uart.output(), b"a");
    assert!(!uart.settle());
}

#[test]
fn interrupts_have_their_priorities() {
    let mut line = Line::new();
    // All at once: an overrun in loopback, data, the transmitter, and a modem line.
    line.write(MCR, 0x10);
    line.write(MSR, 0);
    line.write(DATA, 1);
    line.write(DATA, 2);
    line.write(MCR, 0x12);
    line.write(IER, 0x0f);
    assert_eq!(line.read(IIR_FCR), Interrupt::LineStatus as u8);
    assert_eq!(line.read(LSR), 0x63);
    assert_eq!(line.read(IIR_FCR), Interrupt::ReceivedData as u8);
    assert_eq!(line.read(DATA), 1, "without a FIFO the second was lost");
    assert_eq!(line.read(IIR_FCR), Interrupt::TransmitterEmpty as u8);
    assert_eq!(line.read(IIR_FCR), Interrupt::ModemStatus as u8);
    assert_ne!(line.read(MSR) & 0x01, 0, "CTS changed");
    assert_eq!(line.read(IIR_FCR), IIR_NONE);
    assert_eq!(line.read(MSR) & 0x0f, 0);
}

#[test]
fn modem_lines_loop_back() {
    for control in 0..16u8 {
        let mut line = Line::new();
        line.write(MCR, 0x10 | control);
        let (dtr, rts, out1, out2) = (control & 1, control >> 1 & 1, control >> 2 & 1, control >> 3);
        assert_eq!(line.read(MSR) >> 4, dtr << 1 | rts | out1 << 2 | out2 << 3);
    }
    // RI tells its trailing edge alone.
    let mut line = Line::new();
    line.write(MCR, 0x14);
    assert_eq!(line.read(MSR) & 0x04, 0);
    line.write(MCR, 0x10);
    assert_eq!(line.read(MSR) & 0x04, 0x04);
}

#[test]
fn loopback_sends_to_itself_and_overruns() {
    let mut line = Line::new();
    line.write(IIR_FCR, 0x01);
    line.write(MCR, 0x10);
    line.input(b"outside");
    for byte in 0..17 {
        assert_eq!(line.read(LSR) & 0x02, 0, "no overrun before byte {byte}");
        line.write(DATA, byte);
    }
    assert_eq!(line.read(LSR) & 0x03, 0x03);
    for byte in 0..16 {
        assert_eq!(line.read(DATA), byte, "the FIFO's characters are unharmed");
    }
    assert_eq!(line.read(LSR), 0x60);
    assert!(line.uart.output().is_empty(), "nothing went out");
    line.write(MCR, 0);
    assert_eq!(line.read(DATA), b'o', "what came from outside waited");
}

#[test]
fn trigger_levels_and_the_character_timeout() {
    for (fcr, trigger) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        let mut uart = Uart::new();
        uart.write(IER, 0x01);
        uart.write(IIR_FCR, fcr);
        uart.input(&[0; 16]);
        uart.settle();
        for left in (1..=16).rev() {
            let expected = if left >= trigger { Interrupt::ReceivedData } else { Interrupt::CharacterTimeout };
            assert_eq!(uart.read(IIR_FCR), 0xc0 | expected as u8, "{left} left of trigger {trigger}");
            uart.read(DATA);
            let above = left > trigger;
            assert_eq!(uart.irq_level(), above, "reading resets a timeout, and data that falls below the trigger");
            uart.settle();
        }
        assert_eq!(uart.read(IIR_FCR), 0xc1);
    }
}

#[test]
fn a_fifo_reset_and_a_change_of_mode_clear_the_receiver() {
    for fcr in [0x03, 0x00] {
        let mut line = Line::new();
        line.write(IIR_FCR, 0x01);
        line.input(b"0123456789abcdefXY");
        line.write(IIR_FCR, fcr);
        assert_eq!(line.read(DATA), b'X', "FCR {fcr:#x}: what was still on the wire comes");
    }
    // Without FCR0 the other bits "will not be programmed".
    let mut line = Line::new();
    line.input(b"ab");
    line.write(IIR_FCR, 0x06);
    assert_eq!(line.read(DATA), b'a');
}

#[test]
fn a_driver_that_opens_the_port_loses_no_input() {
    let mut line = Line::new();
    // The console's DTR without RTS: Linux is about to throw the receiver's content away.
    line.write(MCR, 0x01);
    line.input(b"uname\n");
    line.write(IIR_FCR, 0x07);
    assert_eq!(line.read(LSR) & 1, 0);
    line.read(DATA);
    line.write(MCR, 0x0b);
    for expected in b"uname\n" {
        assert_eq!(line.read(DATA), *expected);
    }
}

#[test]
fn the_backlog_is_bounded() {
    let mut uart = Uart::new();
    let paste = std::vec![b'x'; BACKLOG_LEN + 100];
    assert_eq!(uart.input(&paste), BACKLOG_LEN);
    assert_eq!(uart.input(b"more"), 0);
}

proptest! {
    /// What goes in comes out, in order and once, whatever the guest does with the FIFOs' trigger.
    #[test]
    fn input_arrives_in_order(
        text in prop::collection::vec(any::<u8>(), 0..200),
        accesses in prop::collection::vec((1u16..8, 0u8..4), 0..200),
    ) {
        let mut line = Line::new();
        line.write(IIR_FCR, 0x01);
        line.input(&text);
        let mut received = std::vec::Vec::new();
        let mut accesses = accesses.into_iter();
        while line.read(LSR) & 1 != 0 {
            received.push(line.read(DATA));
            match accesses.next() {
                Some((IIR_FCR, trigger)) => line.write(IIR_FCR, 0x01 | trigger << 6),
                Some((offset, _)) => { line.read(offset); }
                None => {}
            }
        }
        prop_assert_eq!(received, text);
    }

    #[test]
    fn what_changes_nothing_changes_nothing(accesses in prop::collection::vec((0u16..8, any::<bool>(), any::<u8>()), 1..40)) {
        let mut line = Line::new();
        for (offset, write, value) in accesses {
            if write { line.write(offset, value) } else { line.read(offset); }
            line.input(&[value]);
            line.uart.settle();
            prop_assert!(!line.uart.settle(), "the line is at rest");
            for offset in (0..8).filter(|&offset| !line.uart.read_changes(offset)) {
                let mut read = line.uart.clone();
                read.read(offset);
                prop_assert_eq!(std::format!("{read:?}"), std::format!("{:?}", line.uart));
            }
            line.uart.clear_output();
        }
    }

    #[test]
    fn the_line_and_the_iir_agree(accesses in prop::collection::vec((0u16..8, any::<bool>(), any::<u8>()), 1..200)) {
        let mut line = Line::new();
        for (offset, write, value) in accesses {
            if write { line.write(offset, value) } else { line.read(offset); }
            line.input(&[value]);
            let high = line.uart.irq_level();
            prop_assert_eq!(line.uart.clone().read(IIR_FCR) & 1 == 0, high);
            line.uart.clear_output();
        }
    }
}
