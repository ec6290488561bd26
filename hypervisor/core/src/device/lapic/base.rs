//! IA32_APIC_BASE: enabling, disabling, x2APIC mode (SDM volume 3, "Local APIC Status and Location", "x2APIC State
//! Transitions").

use super::LocalApic;
use super::spec::{ApicBase, DEFAULT_BASE};

/// What IA32_APIC_BASE makes of the local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// EN = 0: "functionally equivalent to an IA-32 processor without an on-chip APIC".
    Disabled,
    /// EN = 1: registers in the page at FEE00000H.
    XApic,
    /// EN = 1, EXTD = 1: registers are MSRs.
    X2Apic,
}

impl ApicMode {
    /// The mode that the two enable bits choose; EXTD without EN is invalid.
    const fn from_base(base: ApicBase) -> Option<Self> {
        match (base.contains(ApicBase::EN), base.contains(ApicBase::EXTD)) {
            (false, false) => Some(Self::Disabled),
            (false, true) => None,
            (true, false) => Some(Self::XApic),
            (true, true) => Some(Self::X2Apic),
        }
    }
}

impl LocalApic {
    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base_msr(&self) -> u64 {
        self.base.bits()
    }

    /// The mode that IA32_APIC_BASE chose.
    #[must_use]
    pub const fn mode(&self) -> ApicMode {
        match ApicMode::from_base(self.base) {
            Some(mode) => mode,
            None => ApicMode::Disabled,
        }
    }

    /// Writes IA32_APIC_BASE. `None` is #GP: a reserved bit, or a transition that is not in the SDM's state diagram
    /// (disabled to x2APIC, x2APIC to xAPIC, EXTD without EN).
    ///
    /// One restriction against hardware: the APIC can be enabled at FEE00000H alone; enabling it at another base is #GP. A
    /// disabled APIC keeps whatever base is written, as it has no effect.
    ///
    /// Disabling resets the registers: "prior initialization to the APIC may be lost and the APIC may return to the state
    /// described in \"Local APIC State After Power-Up or Reset\"".
    pub fn set_base_msr(&mut self, value: u64) -> Option<()> {
        if value & self.base_reserved != 0 {
            return None;
        }
        let base = ApicBase::from_bits_retain(value);
        let (old, new) = (self.mode(), ApicMode::from_base(base)?);
        if new != ApicMode::Disabled && value & ApicBase::ADDRESS.bits() != DEFAULT_BASE {
            return None;
        }
        match (old, new) {
            (ApicMode::Disabled, ApicMode::X2Apic) | (ApicMode::X2Apic, ApicMode::XApic) => return None,
            (ApicMode::XApic | ApicMode::X2Apic, ApicMode::Disabled) => {
                self.base = base;
                self.reset_registers();
            }
            (ApicMode::XApic, ApicMode::X2Apic) => {
                self.base = base;
                self.enter_x2apic();
            }
            _ => self.base = base,
        }
        Some(())
    }
}
