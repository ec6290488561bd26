//! The interrupt messages that travel between local APICs, and from an I/O APIC to them.
//!
//! [`ApicMessage`] is what the bus carries; who it is for is answered by `LocalApic::matches`, and [`lowest_priority`] is the
//! arbitration for a message that one of several may take. Neighbours: `icr.rs` and [`crate::device::ioapic`] make messages,
//! `interrupts.rs` accepts them.

use super::LocalApic;

/// The destination that means "every local APIC", in physical and in logical mode. 8-bit senders (xAPIC, I/O APIC) write it
/// as FFH; it is widened when the message is made.
pub const BROADCAST: u32 = 0xffff_ffff;

/// The delivery mode of a message, numbered as in the ICR, the LVT and the I/O APIC's redirection table
/// (SDM volume 3, "Interrupt Command Register (ICR)", "Local Vector Table").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeliveryMode {
    /// Delivers the vector to every destination.
    Fixed = 0,
    /// Delivers the vector to the one destination that runs at the lowest priority.
    LowestPriority = 1,
    /// System-management interrupt. A guest has no SMM here: it is dropped.
    Smi = 2,
    /// Non-maskable interrupt; the vector is ignored.
    Nmi = 4,
    /// INIT request.
    Init = 5,
    /// Start-up IPI; the vector is the page number at which the CPU starts.
    StartUp = 6,
    /// An interrupt whose vector the external controller (the 8259A) supplies.
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode of the 3-bit field value in bits 2:0; 3 is reserved.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }

    /// Whether the message's vector goes to the IRR.
    #[must_use]
    pub const fn has_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// The destination shorthand of an IPI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Shorthand {
    /// `destination` and `logical` say who it is for.
    #[default]
    None = 0,
    /// The sender alone.
    ToSelf = 1,
    /// Every local APIC, the sender too.
    AllIncludingSelf = 2,
    /// Every local APIC but the sender.
    AllExcludingSelf = 3,
}

impl Shorthand {
    /// The shorthand of the 2-bit field value in bits 1:0.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::ToSelf,
            2 => Self::AllIncludingSelf,
            _ => Self::AllExcludingSelf,
        }
    }
}

/// One interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicMessage {
    /// APIC ID (physical) or message destination address (logical); [`BROADCAST`] is everybody. Unused with a shorthand.
    pub destination: u32,
    /// Whether `destination` is a logical one.
    pub logical: bool,
    /// How it is delivered.
    pub delivery: DeliveryMode,
    /// The vector.
    pub vector: u8,
    /// Level-triggered: the receiver's EOI is broadcast to the I/O APIC.
    pub level: bool,
    /// The destination shorthand; [`Shorthand::None`] for messages that are no IPI.
    pub shorthand: Shorthand,
    /// APIC ID of the sending local APIC; [`BROADCAST`] when an I/O APIC sends (no local APIC has that ID).
    pub source: u32,
}

impl ApicMessage {
    /// A message from an I/O APIC or an MSI: 8-bit destination, no shorthand.
    #[must_use]
    pub const fn from_device(destination: u8, logical: bool, delivery: DeliveryMode, vector: u8, level: bool) -> Self {
        let destination = widen_destination(destination);
        Self { destination, logical, delivery, vector, level, shorthand: Shorthand::None, source: BROADCAST }
    }
}

/// An 8-bit destination as a 32-bit one: FFH is the broadcast of either width.
pub(super) const fn widen_destination(destination: u8) -> u32 {
    if destination == 0xff { BROADCAST } else { destination as u32 }
}

/// Of the local APICs that match a lowest-priority message, the one to take it: the lowest processor priority (PPR), the
/// first of equals; one whose APIC is software-disabled only when there is no other. `None` if there is no candidate.
///
/// `candidates` are pairs of the caller's key (say, the vCPU's number) and the matching local APIC.
pub fn lowest_priority<'a, K>(candidates: impl IntoIterator<Item = (K, &'a LocalApic)>) -> Option<K> {
    candidates
        .into_iter()
        .min_by_key(|(_, apic)| (!apic.software_enabled(), apic.processor_priority()))
        .map(|(key, _)| key)
}
