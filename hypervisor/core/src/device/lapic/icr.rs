//! Sending interprocessor interrupts, and which local APIC a message is for (SDM volume 3, "Issuing Interprocessor
//! Interrupts", "Determining IPI Destination").

use super::message::widen_destination;
use super::spec::{self, Esr, Icr};
use super::{ApicMessage, ApicMode, BROADCAST, DeliveryMode, LocalApic, Shorthand};

/// The logical ID of an x2APIC: its cluster in bits 31:16, one bit of 15:0.
pub(super) const fn logical_x2apic_id(id: u32) -> u32 {
    (id >> 4 & 0xffff) << 16 | 1 << (id & 0xf)
}

impl LocalApic {
    /// The message that a write of the ICR left, for every local APIC of the VM whose [`LocalApic::matches`] agrees: the
    /// sender is asked like the others. With [`DeliveryMode::LowestPriority`] one of them is chosen by
    /// [`super::lowest_priority`]. A self-IPI leaves none. To be taken after each register write.
    #[must_use = "an IPI that is not delivered is lost"]
    pub const fn take_ipi(&mut self) -> Option<ApicMessage> {
        self.ipi.take()
    }

    /// Whether this local APIC is a destination of the message.
    #[must_use]
    pub fn matches(&self, message: &ApicMessage) -> bool {
        let mode = self.mode();
        if mode == ApicMode::Disabled {
            return false;
        }
        match message.shorthand {
            Shorthand::None => {}
            Shorthand::ToSelf => return message.source == self.id,
            Shorthand::AllIncludingSelf => return true,
            Shorthand::AllExcludingSelf => return message.source != self.id,
        }
        let destination = message.destination;
        if destination == BROADCAST {
            return true;
        }
        match (message.logical, mode) {
            (true, ApicMode::X2Apic) => {
                let own = self.page.read(spec::LDR);
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            (true, _) => self.matches_logical_xapic(destination),
            (false, ApicMode::X2Apic) => destination == self.id,
            (false, _) => destination == self.id & 0xff,
        }
    }

    /// The 8-bit message destination address against LDR and DFR.
    fn matches_logical_xapic(&self, destination: u32) -> bool {
        let (Ok(destination), [.., own]) = (u8::try_from(destination), self.page.read(spec::LDR).to_le_bytes()) else {
            return false;
        };
        match self.page.read(spec::DFR) >> 28 {
            0xf => destination & own != 0,
            // The upper half names a cluster (FH is all of them), the lower half has a bit for each APIC in it.
            0 => (destination >> 4 == own >> 4 || destination >> 4 == 0xf) && destination & own & 0xf != 0,
            _ => false,
        }
    }

    /// Stores the ICR's low half and sends what it says. In xAPIC mode the destination is in the high half already.
    pub(super) fn write_icr_low(&mut self, value: u32) {
        let icr = Icr::from_bits_truncate(value) - Icr::DELIVERY_STATUS;
        self.page.write(spec::ICR_LOW, icr.bits());
        let high = self.page.read(spec::ICR_HIGH);
        let destination = if self.mode() == ApicMode::X2Apic { high } else { widen_destination(high.to_le_bytes()[3]) };
        self.send(icr, destination);
    }

    /// Writes the x2APIC's 64-bit ICR. `None` is #GP.
    pub(super) fn write_icr_msr(&mut self, value: u64) -> Option<()> {
        let low = u32::try_from(value & 0xffff_ffff).ok()?;
        // Bit 12 is reserved in x2APIC mode, but Intel's processors ignore it.
        if low & !Icr::all().bits() != 0 {
            return None;
        }
        self.page.write(spec::ICR_HIGH, u32::try_from(value >> 32).ok()?);
        self.write_icr_low(low);
        Some(())
    }

    /// A self-IPI of `vector`: through the ICR or the x2APIC's SELF IPI register.
    pub(super) fn send_self_ipi(&mut self, vector: u8) {
        if vector < spec::FIRST_LEGAL_VECTOR {
            self.log_error(Esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.accept_vector(vector, false);
        }
    }

    /// Combinations that the table "Valid Combinations for the Pentium 4 and Intel Xeon Processors' Local xAPIC Interrupt
    /// Command Register" calls invalid send nothing.
    fn send(&mut self, icr: Icr, destination: u32) {
        let [vector, ..] = icr.bits().to_le_bytes();
        let Some(delivery) = DeliveryMode::from_bits(icr.bits() >> 8) else { return };
        let shorthand = Shorthand::from_bits(icr.bits() >> 18);
        if delivery == DeliveryMode::ExtInt || delivery == DeliveryMode::Smi {
            return;
        }
        if delivery.has_vector() && vector < spec::FIRST_LEGAL_VECTOR {
            self.log_error(Esr::SEND_ILLEGAL_VECTOR);
            return;
        }
        // INIT Level De-assert is "not supported in the Pentium 4 and Intel Xeon processors".
        if delivery == DeliveryMode::Init && icr.contains(Icr::LEVEL) && !icr.contains(Icr::ASSERT) {
            return;
        }
        let to_self = matches!(shorthand, Shorthand::ToSelf | Shorthand::AllIncludingSelf);
        if to_self && delivery != DeliveryMode::Fixed {
            return;
        }
        if shorthand == Shorthand::ToSelf {
            self.send_self_ipi(vector);
            return;
        }
        let logical = icr.contains(Icr::LOGICAL);
        // The trigger mode "is ignored for all other delivery modes" than INIT level de-assert: an IPI is an edge.
        self.ipi =
            Some(ApicMessage { destination, logical, delivery, vector, level: false, shorthand, source: self.id });
    }
}
