//! The 16550A UART's registers (National Semiconductor PC16550D datasheet, "Registers").

use bitflags::bitflags;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Depth of the receiver and the transmitter FIFO.
pub const FIFO_LEN: usize = 16;

/// RBR (read), THR (write); divisor latch low with DLAB.
pub const DATA: u16 = 0;
/// Interrupt enable; divisor latch high with DLAB.
pub const IER: u16 = 1;
/// IIR (read), FCR (write).
pub const IIR_FCR: u16 = 2;
/// Line control.
pub const LCR: u16 = 3;
/// Modem control.
pub const MCR: u16 = 4;
/// Line status.
pub const LSR: u16 = 5;
/// Modem status.
pub const MSR: u16 = 6;
/// Scratch.
pub const SCR: u16 = 7;

/// LCR: divisor latch access bit.
pub const LCR_DLAB: u8 = 1 << 7;

bitflags! {
    /// Interrupt Enable Register. "Bits 4 through 7: these four bits are always logic 0."
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct InterruptEnable: u8 {
        /// Received data available (and the FIFO's timeout).
        const RECEIVED_DATA = 1 << 0;
        /// Transmitter holding register empty.
        const TRANSMITTER_EMPTY = 1 << 1;
        /// Receiver line status.
        const LINE_STATUS = 1 << 2;
        /// Modem status.
        const MODEM_STATUS = 1 << 3;
    }

    /// FIFO Control Register, without the trigger level in bits 7:6.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FifoControl: u8 {
        /// Both FIFOs are on; "must be a 1 when other FCR bits are written to or they will not be programmed".
        const ENABLE = 1 << 0;
        /// Clear the receiver FIFO.
        const RESET_RECEIVER = 1 << 1;
        /// Clear the transmitter FIFO.
        const RESET_TRANSMITTER = 1 << 2;
    }

    /// Modem Control Register. "Bits 5 through 7: these bits are permanently set to logic 0."
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ModemControl: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send.
        const RTS = 1 << 1;
        /// Output 1.
        const OUT1 = 1 << 2;
        /// Output 2, on a PC the enable of the interrupt line.
        const OUT2 = 1 << 3;
        /// Loopback.
        const LOOP = 1 << 4;
    }

    /// Line Status Register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LineStatus: u8 {
        /// Data ready.
        const DATA_READY = 1 << 0;
        /// A character was lost; cleared by reading the register.
        const OVERRUN = 1 << 1;
        /// Transmitter holding register (or FIFO) empty.
        const HOLDING_EMPTY = 1 << 5;
        /// Holding and shift register empty.
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// Modem Status Register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ModemStatus: u8 {
        /// CTS changed.
        const DELTA_CTS = 1 << 0;
        /// DSR changed.
        const DELTA_DSR = 1 << 1;
        /// RI fell.
        const TRAILING_EDGE_RI = 1 << 2;
        /// DCD changed.
        const DELTA_DCD = 1 << 3;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
    }
}

/// What the Interrupt Identification Register names, in the order of priority ("Interrupt Control Functions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Interrupt {
    /// Receiver line status: reset by reading the LSR.
    LineStatus = 0x06,
    /// Received data available: reset by reading below the trigger level.
    ReceivedData = 0x04,
    /// Character timeout: data is in the FIFO, below the trigger level, and no more came. Reset by reading the RBR.
    CharacterTimeout = 0x0c,
    /// Transmitter holding register empty: reset by reading this IIR, or by writing the THR.
    TransmitterEmpty = 0x02,
    /// Modem status: reset by reading the MSR.
    ModemStatus = 0x00,
}

/// IIR: no interrupt is pending.
pub const IIR_NONE: u8 = 0x01;
/// IIR: "these two bits are set when FCR0 = 1".
pub const IIR_FIFOS_ENABLED: u8 = 0xc0;

/// The receiver FIFO's trigger level, from FCR bits 7:6.
#[must_use]
pub const fn trigger_level(fcr: u8) -> usize {
    match fcr >> 6 {
        0 => 1,
        1 => 4,
        2 => 8,
        _ => 14,
    }
}
