//! The I/O APIC's registers (Intel 82093AA datasheet, "I/O APIC Register Descriptions"; EOI register: ICH datasheets,
//! "EOIR - EOI Register", I/O APIC version 20h).

use bitflags::bitflags;

/// Inputs of the I/O APIC.
pub const PINS: u8 = 24;

/// I/O register select: the index of the register that IOWIN shows.
pub const IOREGSEL: u32 = 0x00;
/// I/O window: the selected register.
pub const IOWIN: u32 = 0x10;
/// EOI: a write of a vector ends the level-triggered interrupts with it.
pub const EOIR: u32 = 0x40;

/// Index of IOAPICID: bits 27:24 are the ID.
pub const INDEX_ID: u8 = 0x00;
/// Index of IOAPICVER.
pub const INDEX_VERSION: u8 = 0x01;
/// Index of IOAPICARB: bits 27:24 are the arbitration ID.
pub const INDEX_ARBITRATION: u8 = 0x02;
/// Index of the low half of redirection entry 0; the entries follow, two indices each.
pub const INDEX_REDIRECTION: u8 = 0x10;

/// IOAPICVER: version 20H (has the EOI register) in bits 7:0, the number of the last entry in bits 23:16.
pub const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;
/// The bits of IOAPICID and IOAPICARB that exist.
pub const ID_MASK: u32 = 0x0f00_0000;
/// The bits of a redirection entry's high half that exist: the destination.
pub const DESTINATION_MASK: u32 = 0xff00_0000;

bitflags! {
    /// The low half of a redirection table entry. Vector (7:0) and delivery mode (10:8) are numbers beside the flags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Redirection: u32 {
        /// INTVEC: the vector.
        const VECTOR = 0xff;
        /// DELMOD: the delivery mode.
        const DELIVERY_MODE = 7 << 8;
        /// DESTMOD: logical destination.
        const LOGICAL = 1 << 11;
        /// DELIVS (read only): the message waits to be sent.
        const DELIVERY_STATUS = 1 << 12;
        /// INTPOL: active low.
        const ACTIVE_LOW = 1 << 13;
        /// Remote IRR (read only): a local APIC took the level interrupt and has not ended it.
        const REMOTE_IRR = 1 << 14;
        /// Trigger mode: level.
        const LEVEL = 1 << 15;
        /// Interrupt mask.
        const MASKED = 1 << 16;
    }
}

impl Redirection {
    /// What software can write.
    pub const WRITABLE: Self =
        Self::from_bits_truncate(0x1_ffff & !(Self::DELIVERY_STATUS.bits() | Self::REMOTE_IRR.bits()));
}
