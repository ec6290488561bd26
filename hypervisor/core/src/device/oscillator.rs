//! An oscillator of fixed frequency, counted in guest TSC ticks: what the PIT, the RTC and the PM timer count.
//!
//! [`Oscillator::cycles`] and [`Oscillator::tick_of`] are inverse to each other and exact over any length of time; both are one
//! 64-bit multiplication and one 64-bit division on every path that a guest can take often.

use crate::time::TickClock;

/// From this many ticks behind the anchor on, the anchor moves up. Small enough that `ticks * hz` stays below 2^64 for the
/// fastest oscillator of a PC (3.58 MHz, below 2^22).
const ANCHOR_REACH: u64 = 1 << 40;

/// A free-running oscillator that starts at guest tick 0.
///
/// The product of ticks and frequency would leave 64 bits within the hour. So the count is taken from an anchor, which lies on a
/// whole second: there both clocks have a whole count, and nothing is lost by starting anew.
#[derive(Clone, Debug)]
pub struct Oscillator {
    clock: TickClock,
    hz: u64,
    anchor_tick: u64,
    anchor_cycle: u64,
}

impl Oscillator {
    /// An oscillator of `hz` cycles per second beside a TSC of `clock`'s frequency.
    #[must_use]
    pub const fn new(clock: TickClock, hz: u64) -> Self {
        Self { clock, hz, anchor_tick: 0, anchor_cycle: 0 }
    }

    /// The same oscillator, back at tick 0.
    #[must_use]
    pub const fn restarted(&self) -> Self {
        Self::new(self.clock, self.hz)
    }

    /// Whole cycles from tick 0 to `now`.
    #[must_use]
    pub fn cycles(&mut self, now: u64) -> u64 {
        let mut ticks = now.saturating_sub(self.anchor_tick);
        if ticks >= ANCHOR_REACH {
            ticks = self.move_anchor(ticks);
        }
        self.anchor_cycle.saturating_add(self.clock.ticks_to_periods(ticks, self.hz))
    }

    /// The first tick at which [`Self::cycles`] reaches `cycle`.
    #[must_use]
    pub fn tick_of(&self, cycle: u64) -> u64 {
        let ahead = cycle.saturating_sub(self.anchor_cycle);
        self.anchor_tick.saturating_add(self.clock.periods_to_ticks(ahead, self.hz))
    }

    /// Moves the anchor to the last whole second; answers the ticks from there on.
    #[cold]
    fn move_anchor(&mut self, ticks: u64) -> u64 {
        let seconds = ticks / self.clock.tsc_hz();
        self.anchor_tick = self.anchor_tick.saturating_add(seconds.saturating_mul(self.clock.tsc_hz()));
        self.anchor_cycle = self.anchor_cycle.saturating_add(seconds.saturating_mul(self.hz));
        ticks % self.clock.tsc_hz()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `floor(now * hz / tsc_hz)` in arithmetic that cannot overflow.
    fn model(now: u64, hz: u64, tsc_hz: u64) -> u64 {
        u64::try_from(u128::from(now) * u128::from(hz) / u128::from(tsc_hz)).unwrap()
    }

    proptest! {
        #[test]
        fn exact_over_any_time(
            hz in prop_oneof![Just(1_193_182u64), Just(3_579_545), Just(32_768)],
            tsc_hz in 1_000_000u64..6_000_000_000,
            steps in proptest::collection::vec(0u64..1 << 50, 1..20),
        ) {
            let mut oscillator = Oscillator::new(TickClock::new(tsc_hz), hz);
            let mut now = 0;
            for step in steps {
                now += step;
                let cycles = oscillator.cycles(now);
                prop_assert_eq!(cycles, model(now, hz, tsc_hz));
                // A slow TSC can skip cycles, but never shows one early.
                let tick = oscillator.tick_of(cycles + 1);
                prop_assert!(model(tick, hz, tsc_hz) > cycles);
                prop_assert!(tick > now && model(tick - 1, hz, tsc_hz) <= cycles);
            }
        }
    }
}
