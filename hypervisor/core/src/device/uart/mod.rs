//! A 16550A UART with a terminal at its other end.
//!
//! [`Uart`] is COM1 of a VM. Its line is infinitely fast: a byte written is sent at once, and bytes from the console wait in a
//! backlog outside the chip until the receiver has room. What a real line does between two accesses (a byte leaves, the next one
//! arrives, a character times out) happens in [`Uart::settle`], which the board calls after it has seen the interrupt line: so
//! a guest whose interrupt is edge triggered gets a new edge for it.

mod fifo;
pub mod spec;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use fifo::Fifo;
use spec::*;

/// Bytes of output kept until the owner takes them. When they are full, the transmitter is not empty.
pub const OUTPUT_LEN: usize = 4096;
/// Bytes of input that wait outside the chip (a large paste).
pub const BACKLOG_LEN: usize = 64 * 1024;

/// A 16550A.
#[derive(Clone, Debug)]
pub struct Uart {
    enabled: InterruptEnable,
    modem_control: ModemControl,
    modem_delta: ModemStatus,
    lcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    fifos_enabled: bool,
    trigger: usize,
    overrun: bool,
    receiver: Fifo,
    /// Character timeout: something was below the trigger level when the line fell silent.
    timeout: bool,
    /// The THRE interrupt, which reading the IIR takes back although the register stays empty.
    holding_interrupt: bool,
    /// A byte is in the transmitter and leaves at the next [`Self::settle`].
    sending: bool,
    backlog: VecDeque<u8>,
    output: Vec<u8>,
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart {
    /// The chip after a master reset.
    #[must_use]
    pub fn new() -> Self {
        Self {
            enabled: InterruptEnable::empty(),
            modem_control: ModemControl::empty(),
            modem_delta: ModemStatus::empty(),
            lcr: 0,
            scratch: 0,
            divisor: [0; 2],
            fifos_enabled: false,
            trigger: 1,
            overrun: false,
            receiver: Fifo::default(),
            timeout: false,
            holding_interrupt: false,
            sending: false,
            backlog: VecDeque::new(),
            output: Vec::with_capacity(OUTPUT_LEN),
        }
    }

    /// The master reset. Output that was sent before stays for the owner to take.
    pub fn reset(&mut self) {
        let output = core::mem::take(&mut self.output);
        *self = Self { output, ..Self::new() };
    }

    /// The INTR output.
    ///
    /// On a PC, OUT2 gates it. Guests that were written for emulators leave OUT2 clear and wait for interrupts all the same, and
    /// no guest relies on the gate, so it is not modelled.
    #[must_use]
    pub fn irq_level(&self) -> bool {
        !self.enabled.is_empty() && self.interrupt().is_some()
    }

    /// Appends bytes from the terminal; answers how many there was room for.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(BACKLOG_LEN - self.backlog.len().min(BACKLOG_LEN));
        self.backlog.extend(bytes.iter().take(count));
        count
    }

    /// What the guest has sent and the owner has not taken yet.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The owner has taken the output.
    pub fn clear_output(&mut self) {
        self.output.clear();
    }

    /// Time passes on the line: a byte leaves the transmitter, input arrives, what is left below the trigger level times out.
    /// Answers whether something changed.
    pub fn settle(&mut self) -> bool {
        let mut changed = false;
        if self.sending && self.has_room() {
            self.sending = false;
            self.holding_interrupt = true;
            changed = true;
        }
        if !self.backlog.is_empty() && self.receiver.is_empty() && self.listens() {
            self.refill();
            changed = true;
        }
        if self.fifos_enabled && !self.timeout && !self.receiver.is_empty() {
            self.timeout = true;
            changed = true;
        }
        changed
    }

    /// Moves as much of the backlog into the receiver as it holds.
    #[cold]
    fn refill(&mut self) {
        let room = if self.fifos_enabled { FIFO_LEN } else { 1 };
        for byte in self.backlog.drain(..room.min(self.backlog.len())) {
            self.receiver.push(byte);
        }
        if self.backlog.is_empty() {
            // An idle VM keeps no buffer of the size of its largest paste.
            self.backlog = VecDeque::new();
        }
    }

    /// Whether reading register `offset` changes anything. What a driver polls does not, so nobody has to look at the interrupt
    /// line behind it.
    #[must_use]
    pub const fn read_changes(&self, offset: u16) -> bool {
        match offset {
            LSR => self.overrun,
            IER | LCR | MCR | SCR => false,
            _ => true,
        }
    }

    /// A read of register `offset` (0 to 7).
    pub fn read(&mut self, offset: u16) -> u8 {
        match offset {
            DATA if self.divisor_latch() => self.divisor[0],
            IER if self.divisor_latch() => self.divisor[1],
            DATA => {
                self.timeout = false;
                self.receiver.pop().unwrap_or(0)
            }
            IER => self.enabled.bits(),
            IIR_FCR => self.read_iir(),
            LCR => self.lcr,
            MCR => self.modem_control.bits(),
            LSR => {
                let status = self.line_status();
                self.overrun = false;
                status.bits()
            }
            MSR => {
                let status = self.modem_lines() | self.modem_delta;
                self.modem_delta = ModemStatus::empty();
                status.bits()
            }
            SCR => self.scratch,
            _ => 0xff,
        }
    }

    /// A write to register `offset` (0 to 7).
    pub fn write(&mut self, offset: u16, value: u8) {
        match offset {
            DATA if self.divisor_latch() => self.divisor[0] = value,
            IER if self.divisor_latch() => self.divisor[1] = value,
            DATA => self.transmit(value),
            IER => self.write_ier(value),
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.write_mcr(value),
            SCR => self.scratch = value,
            // "The LSR is intended for read operations only"; the MSR's delta bits are nothing to write either.
            _ => {}
        }
    }

    /// The pending and enabled interrupt of the highest priority.
    fn interrupt(&self) -> Option<Interrupt> {
        let enabled = |bit| self.enabled.contains(bit);
        if self.overrun && enabled(InterruptEnable::LINE_STATUS) {
            return Some(Interrupt::LineStatus);
        }
        if !self.receiver.is_empty() && enabled(InterruptEnable::RECEIVED_DATA) {
            if !self.fifos_enabled || self.receiver.len() >= self.trigger {
                return Some(Interrupt::ReceivedData);
            }
            if self.timeout {
                return Some(Interrupt::CharacterTimeout);
            }
        }
        if self.holding_interrupt && enabled(InterruptEnable::TRANSMITTER_EMPTY) {
            return Some(Interrupt::TransmitterEmpty);
        }
        if !self.modem_delta.is_empty() && enabled(InterruptEnable::MODEM_STATUS) {
            return Some(Interrupt::ModemStatus);
        }
        None
    }

    /// "Reading the IIR (if source of interrupt)" resets the THRE interrupt.
    fn read_iir(&mut self) -> u8 {
        let interrupt = self.interrupt();
        if interrupt == Some(Interrupt::TransmitterEmpty) {
            self.holding_interrupt = false;
        }
        let fifos = if self.fifos_enabled { IIR_FIFOS_ENABLED } else { 0 };
        fifos | interrupt.map_or(IIR_NONE, |interrupt| interrupt as u8)
    }

    /// Enabling the THRE interrupt while the register is empty raises it: drivers start to send that way, and test for it.
    fn write_ier(&mut self, value: u8) {
        let enabled = InterruptEnable::from_bits_truncate(value);
        let newly = enabled - self.enabled;
        self.enabled = enabled;
        if newly.contains(InterruptEnable::TRANSMITTER_EMPTY) && !self.sending {
            self.holding_interrupt = true;
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let control = FifoControl::from_bits_truncate(value);
        let enable = control.contains(FifoControl::ENABLE);
        // "When changing from FIFO mode to 16450 mode and vice versa, data is automatically cleared from the FIFOs."
        if enable != self.fifos_enabled || (enable && control.contains(FifoControl::RESET_RECEIVER)) {
            self.receiver.clear();
            self.timeout = false;
        }
        self.fifos_enabled = enable;
        self.trigger = if enable { trigger_level(value) } else { 1 };
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.modem_control = ModemControl::from_bits_truncate(value);
        let after = self.modem_lines();
        let changed = before ^ after;
        if changed.contains(ModemStatus::CTS) {
            self.modem_delta |= ModemStatus::DELTA_CTS;
        }
        if changed.contains(ModemStatus::DSR) {
            self.modem_delta |= ModemStatus::DELTA_DSR;
        }
        if changed.contains(ModemStatus::DCD) {
            self.modem_delta |= ModemStatus::DELTA_DCD;
        }
        if (before - after).contains(ModemStatus::RI) {
            self.modem_delta |= ModemStatus::TRAILING_EDGE_RI;
        }
    }

    /// Sends a byte to the terminal, or to the own receiver in loopback. A byte for which there is no room is lost, as one that
    /// is written to a full FIFO.
    fn transmit(&mut self, byte: u8) {
        self.holding_interrupt = false;
        self.sending = true;
        if self.modem_control.contains(ModemControl::LOOP) {
            let room = self.fifos_enabled || self.receiver.is_empty();
            if !(room && self.receiver.push(byte)) {
                self.overrun = true;
            }
        } else if self.has_room() {
            self.output.push(byte);
        }
    }

    fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_LEN
    }

    fn line_status(&self) -> LineStatus {
        let mut status = LineStatus::empty();
        status.set(LineStatus::DATA_READY, !self.receiver.is_empty());
        status.set(LineStatus::OVERRUN, self.overrun);
        status.set(LineStatus::HOLDING_EMPTY | LineStatus::TRANSMITTER_EMPTY, !self.sending);
        status
    }

    /// The modem inputs: a terminal that is always there, or in loopback the own outputs ("DTR, RTS, OUT1 and OUT2 are internally
    /// connected to the four MODEM control inputs").
    fn modem_lines(&self) -> ModemStatus {
        if !self.modem_control.contains(ModemControl::LOOP) {
            return ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD;
        }
        let mut lines = ModemStatus::empty();
        lines.set(ModemStatus::DSR, self.modem_control.contains(ModemControl::DTR));
        lines.set(ModemStatus::CTS, self.modem_control.contains(ModemControl::RTS));
        lines.set(ModemStatus::RI, self.modem_control.contains(ModemControl::OUT1));
        lines.set(ModemStatus::DCD, self.modem_control.contains(ModemControl::OUT2));
        lines
    }

    /// Whether the terminal may send. It minds RTS, but only of a guest that drives the modem lines at all: DTR without RTS is "not
    /// now" (a driver that is opening the port throws away what comes then). In loopback the input is disconnected.
    fn listens(&self) -> bool {
        let control = self.modem_control;
        !control.contains(ModemControl::LOOP)
            && (control.contains(ModemControl::RTS) || !control.contains(ModemControl::DTR))
    }

    const fn divisor_latch(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }
}
