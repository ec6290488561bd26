//! The RTC's three interrupts: periodic, alarm, update ended.

use super::Rtc;
use super::calendar::Calendar;
use super::spec::*;

impl Rtc {
    /// Sets the flags of all that happened since the last time.
    pub(super) fn update_flags(&mut self, chain: u64) {
        let since = self.flags_until;
        if chain <= since || self.divider_is_reset() {
            return;
        }
        self.flags_until = chain;
        if let Some(period) = periodic_cycles(self.register_a)
            && chain / period != since / period
        {
            self.register_c |= RegisterC::PERIODIC;
        }
        if self.halted.is_none() && chain / CRYSTAL_HZ != since / CRYSTAL_HZ {
            self.register_c |= RegisterC::UPDATE;
            let now_s = self.unix_s(chain);
            if self.next_alarm_s.is_some_and(|alarm_s| alarm_s <= now_s) {
                self.register_c |= RegisterC::ALARM;
                self.next_alarm_s = self.find_alarm(now_s);
            }
        }
        self.update_interrupt();
    }

    /// "IRQF = PF and PIE, or AF and AIE, or UF and UIE": the flags and their enables have the same bits.
    pub(super) fn update_interrupt(&mut self) {
        let flags = RegisterC::UPDATE | RegisterC::ALARM | RegisterC::PERIODIC;
        let requests = self.register_c.bits() & self.register_b.bits() & flags.bits();
        self.register_c.set(RegisterC::INTERRUPT, requests != 0);
    }

    /// The next interrupt. While IRQF is set there is none: the line rises again only after register C was read.
    pub(super) fn update_deadline(&mut self, chain: u64) {
        let mut next = u64::MAX;
        if !self.irq_level() && !self.divider_is_reset() {
            if self.register_b.contains(RegisterB::PERIODIC_INTERRUPT)
                && let Some(period) = periodic_cycles(self.register_a)
            {
                next = (chain / period + 1) * period;
            }
            if self.halted.is_none() {
                let second = chain / CRYSTAL_HZ;
                if self.register_b.contains(RegisterB::UPDATE_INTERRUPT) {
                    next = next.min((second + 1) * CRYSTAL_HZ);
                }
                if self.register_b.contains(RegisterB::ALARM_INTERRUPT)
                    && let Some(alarm_s) = self.next_alarm_s
                {
                    let seconds_ahead = alarm_s.saturating_sub(self.unix_s(chain)).max(1);
                    next = next.min((second + seconds_ahead) * CRYSTAL_HZ);
                }
            }
        }
        self.deadline = match next {
            u64::MAX => u64::MAX,
            chain_cycle => self.crystal.tick_of(chain_cycle.wrapping_add(self.divider_start)),
        };
    }

    /// The first second behind `after_s` that matches the alarm; `None` if no second of a day does. At most 24 + 60 + 60 steps:
    /// hours, then minutes, then seconds that do not match are skipped as a whole.
    pub(super) fn find_alarm(&self, after_s: u64) -> Option<u64> {
        let [second, minute, hour] = self.alarm;
        let matches =
            |alarm: u8, index: u8, time: &Calendar| alarm >= ALARM_DONT_CARE || alarm == self.show(index, time);
        let mut at_s = after_s.checked_add(1)?;
        let end_s = after_s.checked_add(86_400)?;
        while at_s <= end_s {
            let time = Calendar::from_unix(at_s);
            let step = if !matches(hour, HOURS, &time) {
                3600
            } else if !matches(minute, MINUTES, &time) {
                60
            } else if !matches(second, SECONDS, &time) {
                1
            } else {
                return Some(at_s);
            };
            at_s = at_s.checked_add(step - at_s % step)?;
        }
        None
    }
}
