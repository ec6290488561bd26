//! ACPI power management: PM1a event and control registers, the power management timer, the power button.
//!
//! [`AcpiPm`] is the device at ports 600h to 60Bh; its interrupt is the SCI (IRQ 9, level, active high).

pub mod spec;
#[cfg(test)]
mod tests;

use super::oscillator::Oscillator;
use crate::time::TickClock;
use spec::*;

/// The fixed hardware of ACPI.
#[derive(Clone, Debug)]
pub struct AcpiPm {
    oscillator: Oscillator,
    status: Pm1Events,
    enable: Pm1Events,
    /// BM_RLD and SLP_TYP, the bits of the control register that keep what is written.
    control: u16,
    /// How often the timer's most significant bit had changed when TMR_STS was last looked at.
    half_turns: u64,
    deadline: u64,
}

impl AcpiPm {
    /// Power management at guest tick 0.
    #[must_use]
    pub const fn new(clock: TickClock) -> Self {
        Self {
            oscillator: Oscillator::new(clock, PM_TIMER_HZ),
            status: Pm1Events::empty(),
            enable: Pm1Events::empty(),
            control: 0,
            half_turns: 0,
            deadline: u64::MAX,
        }
    }

    /// The SCI: an event that is enabled has come.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.status.intersects(self.enable)
    }

    /// The tick at which the SCI rises next; `u64::MAX` for never.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Makes the SCI what it is at `now`.
    pub fn expire(&mut self, now: u64) {
        self.update_timer_status(now);
        self.update_deadline();
    }

    /// The operator presses the power button.
    pub fn press_power_button(&mut self) {
        self.status |= Pm1Events::POWER_BUTTON;
    }

    /// The power management timer.
    pub fn timer(&mut self, now: u64) -> u32 {
        let [a, b, c, d, ..] = self.oscillator.cycles(now).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// RTC_STS "is set when the RTC generates an alarm (asserts the RTC IRQ signal)".
    pub fn rtc_alarm(&mut self) {
        self.status |= Pm1Events::RTC;
    }

    /// Reads the byte at `port`; `None` where no register is.
    pub fn read(&mut self, port: u16, now: u64) -> Option<u8> {
        let register = match port {
            PM1A_EVENT..PM1A_CONTROL => {
                self.expire(now);
                if port & 2 == 0 { self.status.bits() } else { self.enable.bits() }
            }
            PM1A_CONTROL..=0x605 => self.control | SCI_EN,
            PM_TIMER..PM_END => return self.timer(now).to_le_bytes().get(usize::from(port & 3)).copied(),
            _ => return None,
        };
        register.to_le_bytes().get(usize::from(port & 1)).copied()
    }

    /// Writes the byte at `port`. Answers `None` where no register is, else whether the machine goes into S5.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> Option<bool> {
        let (value, written) = if port & 1 == 0 { (u16::from(value), 0x00ff) } else { (u16::from(value) << 8, 0xff00) };
        match port {
            PM1A_EVENT..PM1A_CONTROL => {
                self.update_timer_status(now);
                if port & 2 == 0 {
                    // "This bit is cleared by writing a one to the bit position."
                    self.status &= !Pm1Events::from_bits_truncate(value);
                } else {
                    self.enable = Pm1Events::from_bits_truncate(self.enable.bits() & !written | value);
                }
                self.update_deadline();
                Some(false)
            }
            PM1A_CONTROL..=0x605 => {
                self.control = (self.control & !written | value) & (BM_RLD | SLP_TYP);
                Some(value & SLP_EN != 0 && self.control & SLP_TYP == SLP_TYP_S5 << SLP_TYP_SHIFT)
            }
            // The timer is read only.
            PM_TIMER..PM_END => Some(false),
            _ => None,
        }
    }

    fn update_timer_status(&mut self, now: u64) {
        let half_turns = self.oscillator.cycles(now) / PM_TIMER_HALF;
        if half_turns != self.half_turns {
            self.half_turns = half_turns;
            self.status |= Pm1Events::TIMER;
        }
    }

    fn update_deadline(&mut self) {
        let waits = self.enable.contains(Pm1Events::TIMER) && !self.status.contains(Pm1Events::TIMER);
        self.deadline =
            if waits { self.oscillator.tick_of((self.half_turns + 1).saturating_mul(PM_TIMER_HALF)) } else { u64::MAX };
    }
}
