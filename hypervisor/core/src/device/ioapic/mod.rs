//! The I/O APIC (82093AA with the EOI register of version 20h): 24 interrupt lines to [`ApicMessage`]s.
//!
//! [`IoApic::set_line`] and register writes make messages ready; the owner drains [`IoApic::take_message`] after each call and
//! hands them to the local APICs. A pin holds at most one message, as in the chip, so nothing here grows.

pub mod spec;
#[cfg(test)]
mod tests;

use crate::bus::Width;
use crate::device::lapic::{ApicMessage, DeliveryMode};
use spec::{PINS, Redirection, VERSION};

/// One redirection table entry; remote IRR is the only read-only flag kept in `low`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    low: Redirection,
    destination: u8,
}

impl Entry {
    /// "Interrupt Mask [...] 1 = masked" is the only bit set after a reset.
    const RESET: Self = Self { low: Redirection::MASKED, destination: 0 };

    /// The delivery mode, if it is one that the chip sends. 011b and 110b are reserved.
    fn delivery(self) -> Option<DeliveryMode> {
        let mode = DeliveryMode::from_bits((self.low & Redirection::DELIVERY_MODE).bits() >> 8)?;
        (mode != DeliveryMode::StartUp).then_some(mode)
    }

    fn vector(self) -> u8 {
        self.low.bits().to_le_bytes()[0]
    }

    /// Whether remote IRR applies. SMI, NMI, INIT and ExtINT have no EOI: "treated as an edge triggered interrupt even if
    /// it is programmed [...] level" (82093AA, "IOREDTBL").
    fn is_level(self) -> bool {
        self.low.contains(Redirection::LEVEL) && self.delivery().is_some_and(DeliveryMode::has_vector)
    }

    fn is_masked(self) -> bool {
        self.low.contains(Redirection::MASKED)
    }

    fn message(self) -> Option<ApicMessage> {
        let logical = self.low.contains(Redirection::LOGICAL);
        let delivery = self.delivery()?;
        Some(ApicMessage::from_device(self.destination, logical, delivery, self.vector(), self.is_level()))
    }
}

/// An I/O APIC of [`PINS`] inputs.
#[derive(Clone, Debug)]
pub struct IoApic {
    /// IOAPICID bits 27:24.
    id: u8,
    select: u8,
    entries: [Entry; PINS as usize],
    /// The electrical level of each pin, bit `n` for pin `n`.
    lines: u32,
    /// Pins whose message waits to be taken.
    pending: u32,
}

impl IoApic {
    /// An I/O APIC as after a reset, with all lines low. `id` is the 4-bit I/O APIC ID that firmware would have written.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self { id: id & 0xf, select: 0, entries: [Entry::RESET; PINS as usize], lines: 0, pending: 0 }
    }

    /// Back to the state after a reset, keeping the ID. The lines are the devices' and stay.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new(self.id) };
    }

    /// Reads `width` at `offset` in the I/O APIC's page. What is no register reads 0.
    #[must_use]
    pub fn mmio_read(&self, offset: u32, width: Width) -> u32 {
        let value = match offset & !3 {
            spec::IOREGSEL => u32::from(self.select),
            spec::IOWIN => self.read_register(self.select),
            _ => 0,
        };
        (value >> ((offset & 3) * 8)) & u32::try_from(width.mask()).unwrap_or(u32::MAX)
    }

    /// Writes `width` at `offset` in the I/O APIC's page. "All APIC registers are accessed using 32-bit loads and stores": a
    /// narrower value is taken as zero-extended, a write inside a register is ignored.
    pub fn mmio_write(&mut self, offset: u32, width: Width, value: u32) {
        let value = value & u32::try_from(width.mask()).unwrap_or(u32::MAX);
        match offset {
            spec::IOREGSEL => self.select = value.to_le_bytes()[0],
            spec::IOWIN => self.write_register(self.select, value),
            spec::EOIR => self.end_of_interrupt(value.to_le_bytes()[0]),
            _ => {}
        }
    }

    /// Sets the electrical level of input `pin`. A pin that does not exist is ignored.
    pub fn set_line(&mut self, pin: u8, level: bool) {
        let Some(&entry) = self.entries.get(usize::from(pin)) else { return };
        let bit = 1 << pin;
        let was_active = self.is_active(pin, entry);
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        let active = self.is_active(pin, entry);
        if entry.is_level() {
            self.update_level(pin);
        } else if active && !was_active && !entry.is_masked() {
            // A masked edge is lost: "When this bit is 1, the interrupt signal is masked. Edge-sensitive interrupts
            // signaled on a masked interrupt pin are ignored (i.e., not delivered or held pending)."
            self.pending |= bit;
        }
    }

    /// The EOI message of a local APIC (or a write to EOIR): ends the level-triggered interrupts with `vector`. A line that
    /// is still active sends its interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(usize::from(pin)) else { continue };
            if entry.low.contains(Redirection::REMOTE_IRR) && entry.vector() == vector {
                entry.low.remove(Redirection::REMOTE_IRR);
                self.update_level(pin);
            }
        }
    }

    /// The next message to send, lowest pin first. A level-triggered one sets the entry's remote IRR.
    pub fn take_message(&mut self) -> Option<ApicMessage> {
        while self.pending != 0 {
            let pin = self.pending.trailing_zeros();
            self.pending &= self.pending - 1;
            let Some(entry) = usize::try_from(pin).ok().and_then(|pin| self.entries.get_mut(pin)) else { continue };
            let Some(message) = entry.message() else { continue };
            entry.low.set(Redirection::REMOTE_IRR, message.level);
            return Some(message);
        }
        None
    }

    /// Whether [`IoApic::take_message`] has something to give.
    #[must_use]
    pub const fn has_message(&self) -> bool {
        self.pending != 0
    }

    /// Whether an input that is not masked sends messages for which `wanted` holds.
    #[must_use]
    pub fn sends(&self, wanted: impl Fn(DeliveryMode) -> bool) -> bool {
        self.entries.iter().any(|entry| !entry.is_masked() && entry.delivery().is_some_and(&wanted))
    }

    fn is_active(&self, pin: u8, entry: Entry) -> bool {
        (self.lines >> pin & 1 != 0) != entry.low.contains(Redirection::ACTIVE_LOW)
    }

    /// Makes a level-triggered pin's message ready, or takes it back when the line was let go before it was sent.
    fn update_level(&mut self, pin: u8) {
        let Some(&entry) = self.entries.get(usize::from(pin)) else { return };
        let send = entry.is_level()
            && self.is_active(pin, entry)
            && !entry.is_masked()
            && !entry.low.contains(Redirection::REMOTE_IRR);
        self.pending = if send { self.pending | 1 << pin } else { self.pending & !(1 << pin) };
    }

    fn read_register(&self, index: u8) -> u32 {
        match index {
            spec::INDEX_ID | spec::INDEX_ARBITRATION => u32::from(self.id) << 24,
            spec::INDEX_VERSION => VERSION,
            _ => {
                let Some((pin, entry)) = pin_of(index).and_then(|pin| Some((pin, self.entries.get(usize::from(pin))?)))
                else {
                    return 0;
                };
                if index & 1 != 0 {
                    return u32::from(entry.destination) << 24;
                }
                let mut low = entry.low;
                low.set(Redirection::DELIVERY_STATUS, self.pending >> pin & 1 != 0);
                low.bits()
            }
        }
    }

    fn write_register(&mut self, index: u8, value: u32) {
        if index == spec::INDEX_ID {
            self.id = (value & spec::ID_MASK).to_le_bytes()[3];
            return;
        }
        let Some(pin) = pin_of(index) else { return };
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else { return };
        if index & 1 != 0 {
            entry.destination = (value & spec::DESTINATION_MASK).to_le_bytes()[3];
            return;
        }
        let remote_irr = entry.low & Redirection::REMOTE_IRR;
        entry.low = Redirection::from_bits_truncate(value) & Redirection::WRITABLE | remote_irr;
        let (is_level, is_masked) = (entry.is_level(), entry.is_masked());
        if is_level {
            self.update_level(pin);
            return;
        }
        // "Its meaning is undefined for edge triggered interrupts": it clears. Systems without the EOI register (Linux
        // among them) end a stuck level interrupt by switching the entry to edge and back.
        entry.low.remove(Redirection::REMOTE_IRR);
        if is_masked {
            self.pending &= !(1 << pin);
        }
    }
}

/// The pin whose redirection entry has `index` as one of its halves. It may lie beyond the last pin.
const fn pin_of(index: u8) -> Option<u8> {
    match index.checked_sub(spec::INDEX_REDIRECTION) {
        Some(offset) => Some(offset / 2),
        None => None,
    }
}
