//! Register accesses: the xAPIC page, the x2APIC MSRs, and what an APIC-write VM exit leaves to do.

use super::spec::{self, Esr, Lvt, Svr};
use super::timer::TimerMode;
use super::{ApicMode, LocalApic};

/// Whether a RDMSR of this x2APIC MSR may be served by the CPU straight from the virtual-APIC page ("Virtualizing MSR-Based
/// APIC Accesses"). The others must exit: they give #GP, are not kept in the page, or are wider than their dword.
#[must_use]
pub const fn x2apic_read_is_plain(msr: u32) -> bool {
    matches!(msr, 0x802 | 0x803 | 0x808 | 0x80d | 0x80f..=0x828 | 0x832..=0x838 | 0x83e)
}

impl LocalApic {
    /// Reads the register at `offset` in the xAPIC page (bits 3:0 of the offset within a register are the caller's to shift).
    /// In another mode than xAPIC there is no such page: all ones.
    pub fn mmio_read(&mut self, offset: u16, now: u64) -> u32 {
        if self.mode() != ApicMode::XApic {
            return u32::MAX;
        }
        let register = offset & !0xf;
        let value = match register {
            spec::EOI | spec::APR => Some(0),
            _ => self.read_register(register, now),
        };
        match value {
            Some(value) if offset & 0xc == 0 => value,
            Some(_) => 0,
            None => {
                self.log_error(Esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the register at `offset` in the xAPIC page. Only a dword at a multiple of 16 is a register write; others are
    /// ignored.
    pub fn mmio_write(&mut self, offset: u16, value: u32, now: u64) {
        if self.mode() == ApicMode::XApic && offset & 0xf == 0 {
            self.write_register(offset, value, now);
        }
    }

    /// An APIC-write VM exit: the CPU stored the guest's value at `offset` in the page, the rest of the write remains.
    pub fn after_write(&mut self, offset: u16, now: u64) {
        let register = offset & !0xf;
        match self.mode() {
            ApicMode::Disabled => {}
            _ if register >= spec::END => {}
            ApicMode::X2Apic if register == spec::SELF_IPI => {
                let [vector, ..] = self.page.read(spec::SELF_IPI).to_le_bytes();
                self.send_self_ipi(vector);
            }
            ApicMode::XApic | ApicMode::X2Apic => self.write_register(register, self.page.read(register), now),
        }
    }

    /// RDMSR of an x2APIC MSR (800H to 8FFH) or of IA32_TSC_DEADLINE. `None` is #GP.
    #[must_use]
    pub fn msr_read(&self, msr: u32, now: u64) -> Option<u64> {
        if msr == spec::MSR_TSC_DEADLINE {
            return Some(self.timer.tsc_deadline(now));
        }
        match self.x2apic_offset(msr)? {
            spec::DFR | spec::ICR_HIGH => None,
            spec::ICR_LOW => {
                Some(u64::from(self.page.read(spec::ICR_HIGH)) << 32 | u64::from(self.page.read(spec::ICR_LOW)))
            }
            offset => self.read_register(offset, now).map(u64::from),
        }
    }

    /// WRMSR of an x2APIC MSR (800H to 8FFH) or of IA32_TSC_DEADLINE. `None` is #GP.
    pub fn msr_write(&mut self, msr: u32, value: u64, now: u64) -> Option<()> {
        if msr == spec::MSR_TSC_DEADLINE {
            self.expire(now);
            self.timer.set_tsc_deadline(value);
            self.expire(now);
            return Some(());
        }
        let offset = self.x2apic_offset(msr)?;
        if offset == spec::ICR_LOW {
            return self.write_icr_msr(value);
        }
        let value = u32::try_from(value).ok()?;
        if value & !x2apic_defined(offset)? != 0 {
            return None;
        }
        match offset {
            spec::SELF_IPI => self.send_self_ipi(value.to_le_bytes()[0]),
            _ => self.write_register(offset, value, now),
        }
        Some(())
    }

    /// The register of an x2APIC MSR, when the APIC is in that mode.
    fn x2apic_offset(&self, msr: u32) -> Option<u16> {
        if !(spec::MSR_BASE..=spec::MSR_LAST).contains(&msr) || self.mode() != ApicMode::X2Apic {
            return None;
        }
        u16::try_from((msr & 0xff) << 4).ok()
    }

    /// The readable registers of both modes; `None` for what is reserved or write-only.
    fn read_register(&self, offset: u16, now: u64) -> Option<u32> {
        Some(match offset {
            spec::PPR => u32::from(self.processor_priority()),
            spec::CURRENT_COUNT => self.timer.current(now),
            spec::ID | spec::VERSION | spec::TPR | spec::LDR | spec::DFR | spec::SVR => self.page.read(offset),
            spec::ISR..=spec::IRR_LAST | spec::ESR | spec::ICR_LOW | spec::ICR_HIGH => self.page.read(offset),
            spec::LVT_TIMER..=spec::INITIAL_COUNT | spec::DIVIDE => self.page.read(offset),
            _ => return None,
        })
    }

    /// The writable registers of both modes. `value` may be in the page already: each arm leaves what belongs there.
    fn write_register(&mut self, offset: u16, value: u32, now: u64) {
        match offset {
            spec::TPR => self.page.write(offset, value & spec::TPR_MASK),
            spec::EOI => self.end_of_interrupt(),
            spec::ICR_LOW => self.write_icr_low(value),
            spec::ICR_HIGH | spec::LDR => self.page.write(offset, value & spec::XAPIC_DESTINATION),
            spec::DFR => self.page.write(offset, value | spec::DFR_ONES),
            spec::SVR => self.write_svr(value),
            spec::ESR => {
                // "This write clears any previously logged errors and updates the ESR with any errors detected since the
                // last write to the ESR. This write also rearms the APIC error interrupt triggering mechanism."
                self.page.write(offset, self.errors.bits());
                self.errors = Esr::empty();
                self.error_armed = true;
            }
            spec::LVT_TIMER..=spec::LVT_ERROR => self.write_lvt(offset, value, now),
            spec::INITIAL_COUNT => {
                self.expire(now);
                self.timer.set_initial(value, now);
                self.page.write(offset, self.timer.initial());
            }
            spec::DIVIDE => {
                self.expire(now);
                self.page.write(offset, value & spec::DIVIDE_MASK);
                self.timer.set_divide(value, now);
            }
            // Read only. A CPU that virtualises the APIC stores the guest's value all the same: put the right one back.
            spec::ID => self.page.write(offset, self.id << 24),
            spec::VERSION | spec::APR | spec::PPR | spec::CURRENT_COUNT | spec::ISR..=spec::IRR_LAST => {}
            _ => self.log_error(Esr::ILLEGAL_REGISTER),
        }
    }

    /// "While in [the software-disabled] state [...] the mask bits for all the LVT entries are set. Attempts to reset these
    /// bits will be ignored."
    fn write_svr(&mut self, value: u32) {
        let svr = Svr::from_bits_truncate(value);
        self.page.write(spec::SVR, svr.bits());
        if !svr.contains(Svr::ENABLED) {
            for lvt in spec::LVTS {
                self.page.write(lvt, self.page.read(lvt) | Lvt::MASKED.bits());
            }
            self.timer_lvt |= Lvt::MASKED;
        }
    }

    fn write_lvt(&mut self, offset: u16, value: u32, now: u64) {
        let Some(writable) = spec::lvt_writable(offset) else { return };
        let mut lvt = Lvt::from_bits_truncate(value) & writable;
        if !self.software_enabled() {
            lvt |= Lvt::MASKED;
        }
        if offset == spec::LVT_TIMER {
            self.expire(now);
            self.timer.set_mode(TimerMode::from_lvt(lvt.bits()));
            self.timer_lvt = lvt;
            self.page.write(spec::INITIAL_COUNT, self.timer.initial());
        }
        self.page.write(offset, lvt.bits());
        if offset == spec::LVT_LINT0 {
            self.set_lint0_remote_irr(self.lint0_remote_irr && lvt.contains(Lvt::LEVEL));
            self.update_lint0_level();
        }
    }
}

/// The bits of an x2APIC register that may be written as 1 ("Local APIC Register Address Map Supported by x2APIC"); `None` for
/// a register that cannot be written. Read-only flags of a writable register may be written and are ignored.
fn x2apic_defined(offset: u16) -> Option<u32> {
    Some(match offset {
        spec::TPR => spec::TPR_MASK,
        spec::EOI | spec::ESR => 0,
        spec::SVR => Svr::all().bits(),
        spec::INITIAL_COUNT => u32::MAX,
        spec::DIVIDE => spec::DIVIDE_MASK,
        spec::SELF_IPI => 0xff,
        _ => (spec::lvt_writable(offset)? | Lvt::DELIVERY_STATUS | Lvt::REMOTE_IRR).bits(),
    })
}
