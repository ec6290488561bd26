//! Time, in ticks of the TSC.
//!
//! The host's clock is its TSC. A guest's clock is the guest's TSC: it starts at 0 when the VM is reset and
//! stands still while the VM is paused. Every device is told the time as `now`, in guest TSC ticks, and
//! answers with deadlines in the same unit, so a deadline is exact and no clock is read twice.

/// Converts between TSC ticks and the clocks of devices, without division in the hot direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TickClock {
    tsc_hz: u64,
}

impl TickClock {
    /// A clock for a TSC of `tsc_hz` ticks per second. A frequency of 0 is taken as 1.
    #[must_use]
    pub const fn new(tsc_hz: u64) -> Self {
        Self { tsc_hz: if tsc_hz == 0 { 1 } else { tsc_hz } }
    }

    /// TSC ticks per second.
    #[must_use]
    pub const fn tsc_hz(self) -> u64 {
        self.tsc_hz
    }

    /// How many whole periods of a `hz` clock pass in `ticks` TSC ticks. Saturates.
    #[must_use]
    pub fn ticks_to_periods(self, ticks: u64, hz: u64) -> u64 {
        scale(ticks, hz, self.tsc_hz, 0)
    }

    /// The fewest TSC ticks in which `periods` whole periods of a `hz` clock pass. Saturates.
    #[must_use]
    pub fn periods_to_ticks(self, periods: u64, hz: u64) -> u64 {
        let hz = if hz == 0 { 1 } else { hz };
        scale(periods, self.tsc_hz, hz, hz - 1)
    }

    /// TSC ticks as nanoseconds, rounded down.
    #[must_use]
    pub fn ticks_to_ns(self, ticks: u64) -> u64 {
        self.ticks_to_periods(ticks, 1_000_000_000)
    }

    /// Nanoseconds as TSC ticks, rounded up.
    #[must_use]
    pub fn ns_to_ticks(self, ns: u64) -> u64 {
        self.periods_to_ticks(ns, 1_000_000_000)
    }
}

/// `(value * numerator + round) / denominator`, saturating. 64-bit arithmetic where it suffices: a 128-bit
/// division is a call of some hundred instructions.
fn scale(value: u64, numerator: u64, denominator: u64, round: u64) -> u64 {
    if let Some(product) = value.checked_mul(numerator).and_then(|product| product.checked_add(round)) {
        return product / denominator;
    }
    let product = u128::from(value) * u128::from(numerator) + u128::from(round);
    u64::try_from(product / u128::from(denominator)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_deadline_is_never_early(hz in 1u64..5_000_000_000, tsc_hz in 1_000_000u64..6_000_000_000, periods in 0u64..1 << 40) {
            let clock = TickClock::new(tsc_hz);
            let ticks = clock.periods_to_ticks(periods, hz);
            prop_assert!(clock.ticks_to_periods(ticks, hz) >= periods);
            if ticks > 0 {
                prop_assert!(clock.ticks_to_periods(ticks - 1, hz) < periods.max(1));
            }
        }
    }

    #[test]
    fn a_second_is_a_second() {
        let clock = TickClock::new(2_400_000_000);
        assert_eq!(clock.ticks_to_ns(2_400_000_000), 1_000_000_000);
        assert_eq!(clock.ticks_to_periods(2_400_000_000, 1_193_182), 1_193_182);
        assert_eq!(clock.ns_to_ticks(u64::MAX), u64::MAX);
    }
}
