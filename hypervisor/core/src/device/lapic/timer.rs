//! The local APIC timer (SDM volume 3, "APIC Timer"). One timer input clock is one tick of the guest's TSC.

/// The timer's mode: LVT timer register bits 18:17.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TimerMode {
    /// Counts down once. The reserved encoding 11b is taken as this one.
    OneShot,
    /// Counts down, reloads, goes on.
    Periodic,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline,
}

impl TimerMode {
    pub(super) const fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// The counter, kept as the tick at which it reaches 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    /// log2 of the divisor.
    shift: u32,
    initial: u32,
    deadline: Option<u64>,
}

impl Timer {
    /// As after a reset: one-shot, divide by 2, stopped.
    pub(super) const fn new() -> Self {
        Self { mode: TimerMode::OneShot, shift: 1, initial: 0, deadline: None }
    }

    /// The tick at which the timer fires next.
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// The initial-count register.
    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    /// Takes a write of the mode. "Transitioning between TSC-deadline mode and other timer modes also disarms the timer."
    /// Between one-shot and periodic mode a running count goes on: there are guests that write the count before the mode, and
    /// none can rely on being disarmed by it.
    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        if (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline) {
            self.deadline = None;
            self.initial = 0;
        }
        self.mode = mode;
    }

    /// Takes a write of the divide configuration register: bits 3, 1 and 0 are 000b for 2, 001b for 4, ... 110b for 128,
    /// 111b for 1. What is left of a running count goes on at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let shift = ((value & 3 | value >> 1 & 4) + 1) & 7;
        if shift == self.shift {
            return;
        }
        let left = self.current(now);
        self.shift = shift;
        if self.deadline.is_some() && self.mode != TimerMode::TscDeadline {
            self.deadline = Some(now.saturating_add(u64::from(left) << shift));
        }
    }

    /// Takes a write of the initial-count register: starts the count, or stops it with 0. Ignored in TSC-deadline mode.
    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = count;
        self.deadline = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// The current-count register. It "always reads 0" in TSC-deadline mode.
    pub(super) fn current(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline else { return 0 };
        let left = match self.mode {
            TimerMode::TscDeadline => 0,
            TimerMode::OneShot => deadline.saturating_sub(now),
            TimerMode::Periodic if now < deadline => deadline - now,
            TimerMode::Periodic => self.period() - (now - deadline) % self.period(),
        };
        // Rounded up: a count stands for its whole last input clock. At most `initial`, so it fits.
        u32::try_from(left.div_ceil(1 << self.shift)).unwrap_or(self.initial)
    }

    /// Takes a write of IA32_TSC_DEADLINE; 0 disarms. Ignored in the other modes.
    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.deadline = (value != 0).then_some(value);
        }
    }

    /// IA32_TSC_DEADLINE: 0 when the timer is disarmed, has fired, or is in another mode.
    pub(super) fn tsc_deadline(&self, now: u64) -> u64 {
        match self.deadline {
            Some(deadline) if self.mode == TimerMode::TscDeadline && now < deadline => deadline,
            _ => 0,
        }
    }

    /// Whether the timer reached 0 by `now`. A periodic timer goes on in phase; periods that passed unseen count as one.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if now < deadline {
            return false;
        }
        self.deadline = match self.mode {
            TimerMode::Periodic => {
                let period = self.period();
                Some(now.saturating_add(period - (now - deadline) % period))
            }
            TimerMode::OneShot | TimerMode::TscDeadline => None,
        };
        true
    }

    /// Ticks from the initial count to 0, at least 1.
    fn period(&self) -> u64 {
        (u64::from(self.initial) << self.shift).max(1)
    }
}
