//! The watchdog: a guest that armed it and does not feed it any more has stopped working.
//!
//! Operating systems find it by the ACPI table WDAT and have a driver for what that describes (`wdat_wdt` in Linux). It
//! counts the guest's own clock, which stands still while the VM is paused. It costs nothing until it is armed.

pub mod spec;
#[cfg(test)]
mod tests;

use crate::time::TickClock;
use spec::*;

/// The device.
#[derive(Clone, Debug)]
pub struct Watchdog {
    clock: TickClock,
    /// The period that counts from the next feeding on.
    next_count: u32,
    /// The period that counts, in [`COUNT_MS`].
    count: u32,
    /// When it was fed last.
    fed_at: u64,
    control: Control,
    status: Status,
    deadline: u64,
    fired: bool,
}

impl Watchdog {
    /// A watchdog that does not run. `fired_before` says that it ended the life before this one.
    #[must_use]
    pub const fn new(clock: TickClock, fired_before: bool) -> Self {
        Self {
            clock,
            next_count: COUNT_AT_POWER_ON,
            count: COUNT_AT_POWER_ON,
            fed_at: 0,
            control: Control::empty(),
            status: if fired_before { Status::FIRED } else { Status::empty() },
            deadline: u64::MAX,
            fired: false,
        }
    }

    /// The tick at which it fires; `u64::MAX` for never.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// Fires, if it is due.
    pub const fn expire(&mut self, now: u64) {
        if self.deadline <= now {
            self.deadline = u64::MAX;
            self.fired = true;
        }
    }

    /// Takes it back that it has fired: it waits until it is fed, and its period counts from then on.
    pub const fn forgive(&mut self) {
        self.fired = false;
    }

    /// The period in milliseconds within which it was not fed, once it has fired.
    #[must_use]
    pub const fn fired(&self) -> Option<u32> {
        if self.fired { Some(self.count * COUNT_MS) } else { None }
    }

    /// Reads the double word at `port`; `None` where no register is.
    #[must_use]
    pub fn read(&self, port: u16, now: u64) -> Option<u32> {
        Some(match port {
            COUNT => self.next_count,
            LEFT if self.control.contains(Control::RUN) => self.left(now),
            LEFT => 0,
            CONTROL => self.control.bits(),
            STATUS => self.status.bits(),
            _ => return None,
        })
    }

    /// Writes the double word at `port`; whether a register is there.
    pub fn write(&mut self, port: u16, value: u32, now: u64) -> bool {
        match port {
            COUNT => self.next_count = value.clamp(COUNT_MIN, COUNT_MAX),
            LEFT => self.feed(now),
            CONTROL => {
                let ran = self.control.contains(Control::RUN);
                self.control = Control::from_bits_truncate(value);
                match self.control.contains(Control::RUN) {
                    true if !ran => self.feed(now),
                    true => {}
                    false => self.deadline = u64::MAX,
                }
            }
            STATUS => self.status -= Status::from_bits_truncate(value),
            _ => return false,
        }
        true
    }

    /// The period begins anew. One that has fired is over, unless that is taken back.
    fn feed(&mut self, now: u64) {
        if self.control.contains(Control::RUN) && !self.fired {
            self.count = self.next_count;
            self.fed_at = now;
            self.deadline = now.saturating_add(self.clock.periods_to_ticks(self.count.into(), COUNT_HZ));
        }
    }

    fn left(&self, now: u64) -> u32 {
        let passed = self.clock.ticks_to_periods(now.saturating_sub(self.fed_at), COUNT_HZ);
        self.count.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX))
    }
}
