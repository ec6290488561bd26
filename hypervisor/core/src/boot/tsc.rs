//! The frequency of the host's TSC: what CPUID claims against what was measured.
//!
//! Source: Intel SDM volume 3, "Time-Stamp Counter", and CPUID leaves 15H and 16H. CPUID gives an exact number where it is
//! true, but emulators let it tell the frequency of the CPU they imitate: it is believed only within 1 % of a
//! measurement.

use alloc::vec::Vec;
use core::fmt;
use thiserror::Error;

/// Where a frequency comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TscSource {
    /// CPUID leaf 15H: crystal frequency times ratio.
    Cpuid15,
    /// CPUID leaf 16H: the processor base frequency, in MHz.
    Cpuid16,
    /// A measurement against this timer.
    Measured(Timer),
}

/// The timers to measure against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the devices'")]
pub enum Timer {
    Hpet,
    PmTimer,
    Pit,
}

impl fmt::Display for TscSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpuid15 => "CPUID leaf 15H",
            Self::Cpuid16 => "CPUID leaf 16H",
            Self::Measured(Timer::Hpet) => "measured against the HPET",
            Self::Measured(Timer::PmTimer) => "measured against the ACPI PM timer",
            Self::Measured(Timer::Pit) => "measured against the PIT",
        })
    }
}

/// What CPUID says about the TSC. Leaves that are not there are all 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TscCpuid {
    /// Leaf 15H, EAX: denominator of the TSC/crystal ratio.
    pub denominator: u32,
    /// Leaf 15H, EBX: numerator of the ratio.
    pub numerator: u32,
    /// Leaf 15H, ECX: crystal frequency in Hz, or 0 where it is not said.
    pub crystal_hz: u32,
    /// Leaf 16H, bits 15:0 of EAX: processor base frequency in MHz.
    pub base_mhz: u16,
}

/// One measurement: so many TSC ticks went by while the timer counted so many of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// TSC ticks.
    pub tsc_ticks: u64,
    /// Ticks of the timer.
    pub timer_ticks: u64,
}

/// Measurements against one timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measurement<'a> {
    /// The timer.
    pub timer: Timer,
    /// Its frequency in Hz.
    pub timer_hz: u64,
    /// A few measurements; the median counts, so that an interruption of one does no harm.
    pub samples: &'a [Sample],
}

/// The TSC's frequency.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscFrequency {
    /// In Hz, never 0.
    pub hz: u64,
    /// Where it comes from.
    pub source: TscSource,
    /// What CPUID claims, in Hz, where the measurement contradicts it.
    pub contradicted_claim: Option<u64>,
}

impl fmt::Display for TscFrequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} MHz, {}", self.hz / 1_000_000, self.hz / 1000 % 1000, self.source)?;
        match self.contradicted_claim {
            Some(claim) => write!(f, " (CPUID claims {} MHz)", claim / 1_000_000),
            None => Ok(()),
        }
    }
}

/// CPUID says nothing, and there is no measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "the TSC's frequency is unknown: no CPUID leaf 15H or 16H, and no timer (HPET, ACPI PM timer, PIT) to measure it against"
)]
pub struct UnknownFrequency;

/// Slower or faster TSCs than this are taken for broken figures.
const PLAUSIBLE_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

/// Decides about the TSC's frequency.
///
/// # Errors
/// [`UnknownFrequency`].
pub fn tsc_frequency(
    cpuid: &TscCpuid,
    measurement: Option<&Measurement<'_>>,
) -> Result<TscFrequency, UnknownFrequency> {
    let claim = claimed(cpuid);
    let measured = measurement.and_then(|measurement| Some((median_hz(measurement)?, measurement.timer)));
    match (claim, measured) {
        (Some((claimed, source)), Some((measured, _))) if claimed.abs_diff(measured) <= measured / 100 => {
            Ok(TscFrequency { hz: claimed, source, contradicted_claim: None })
        }
        (claim, Some((hz, timer))) => {
            let contradicted_claim = claim.map(|(hz, _)| hz);
            Ok(TscFrequency { hz, source: TscSource::Measured(timer), contradicted_claim })
        }
        (Some((hz, source)), None) => Ok(TscFrequency { hz, source, contradicted_claim: None }),
        (None, None) => Err(UnknownFrequency),
    }
}

/// What CPUID claims. "If EBX[31:0] is 0, the TSC/core crystal clock ratio is not enumerated. If ECX is 0, the nominal core
/// crystal clock frequency is not enumerated": then the TSC runs at the base frequency.
fn claimed(cpuid: &TscCpuid) -> Option<(u64, TscSource)> {
    let plausible = |(hz, source)| PLAUSIBLE_HZ.contains(&hz).then_some((hz, source));
    let product = u64::from(cpuid.crystal_hz) * u64::from(cpuid.numerator);
    let from_crystal = product.checked_div(u64::from(cpuid.denominator)).map(|hz| (hz, TscSource::Cpuid15));
    let from_base = (u64::from(cpuid.base_mhz) * 1_000_000, TscSource::Cpuid16);
    from_crystal.and_then(plausible).or_else(|| plausible(from_base))
}

fn median_hz(measurement: &Measurement<'_>) -> Option<u64> {
    let hz = |sample: &Sample| {
        let product = u128::from(sample.tsc_ticks) * u128::from(measurement.timer_hz);
        let hz = u64::try_from(product.checked_div(u128::from(sample.timer_ticks))?).ok()?;
        PLAUSIBLE_HZ.contains(&hz).then_some(hz)
    };
    let mut frequencies: Vec<u64> = measurement.samples.iter().filter_map(hz).collect();
    frequencies.sort_unstable();
    frequencies.get(frequencies.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// What Bochs claims: 24 MHz times 292 / 2, and a base of 3,500 MHz.
    const BOCHS_CLAIM: TscCpuid = TscCpuid { denominator: 2, numerator: 292, crystal_hz: 24_000_000, base_mhz: 3500 };
    const NO_CLAIM: TscCpuid = TscCpuid { denominator: 0, numerator: 0, crystal_hz: 0, base_mhz: 0 };

    /// Measurements of a 50 MHz TSC against the PIT, one of them disturbed.
    fn pit(samples: &[Sample]) -> Measurement<'_> {
        Measurement { timer: Timer::Pit, timer_hz: 1_193_182, samples }
    }

    const SAMPLES_50_MHZ: [Sample; 3] = [
        Sample { tsc_ticks: 500_010, timer_ticks: 11_932 },
        Sample { tsc_ticks: 9_000_000, timer_ticks: 11_932 },
        Sample { tsc_ticks: 499_990, timer_ticks: 11_932 },
    ];

    #[test]
    fn the_measurement_wins_over_a_claim_that_is_off() {
        let frequency = tsc_frequency(&BOCHS_CLAIM, Some(&pit(&SAMPLES_50_MHZ))).unwrap();
        assert!(frequency.hz.abs_diff(50_000_000) < 10_000, "{frequency:?}");
        assert_eq!(frequency.source, TscSource::Measured(Timer::Pit));
        assert_eq!(frequency.contradicted_claim, Some(3_504_000_000));
        assert!(frequency.to_string().ends_with(" MHz, measured against the PIT (CPUID claims 3504 MHz)"));
    }

    #[test]
    fn a_claim_within_one_percent_is_exact() {
        let cpuid = TscCpuid { crystal_hz: 25_000_000, numerator: 2, denominator: 1, ..NO_CLAIM };
        let frequency = tsc_frequency(&cpuid, Some(&pit(&SAMPLES_50_MHZ))).unwrap();
        assert_eq!((frequency.hz, frequency.source), (50_000_000, TscSource::Cpuid15));
        assert_eq!(frequency.to_string(), "50.000 MHz, CPUID leaf 15H");
    }

    #[test]
    fn without_a_crystal_the_base_frequency_counts() {
        let cpuid = TscCpuid { crystal_hz: 0, base_mhz: 2100, ..BOCHS_CLAIM };
        let frequency = tsc_frequency(&cpuid, None).unwrap();
        assert_eq!((frequency.hz, frequency.source), (2_100_000_000, TscSource::Cpuid16));
    }

    #[test]
    fn junk_measurements_count_for_nothing() {
        let junk = [
            Sample { tsc_ticks: 0, timer_ticks: 5 },
            Sample { tsc_ticks: 5, timer_ticks: 0 },
            Sample { tsc_ticks: u64::MAX, timer_ticks: 1 },
        ];
        assert_eq!(tsc_frequency(&NO_CLAIM, Some(&pit(&junk))), Err(UnknownFrequency));
        assert_eq!(tsc_frequency(&NO_CLAIM, Some(&pit(&[]))), Err(UnknownFrequency));
        let everything = TscCpuid { denominator: 1, numerator: u32::MAX, crystal_hz: u32::MAX, base_mhz: 0 };
        assert_eq!(tsc_frequency(&everything, None), Err(UnknownFrequency));
    }
}
