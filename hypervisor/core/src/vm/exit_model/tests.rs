//! The exit model over traces that a VM could have left.

use super::*;
use proptest::prelude::*;

const SECOND_US: u64 = 1_000_000;
const EXTERNAL_INTERRUPT: usize = 1;
const HLT: usize = 12;
const IO: usize = 30;
const MSR_WRITE: usize = 32;
const EPT_VIOLATION: usize = 48;
const PREEMPTION_TIMER: usize = 52;

/// A VM whose counters grow.
struct Trace {
    counters: [u64; REASON_COUNT],
    model: ExitModel,
}

impl Trace {
    fn new() -> Self {
        Self { counters: [0; REASON_COUNT], model: ExitModel::new() }
    }

    /// A second with so many exits for each reason.
    fn second(&mut self, exits: &[(usize, u64)]) -> Option<Suspicion> {
        for &(reason, count) in exits {
            self.counters[reason] += count;
        }
        self.model.observe(&self.counters, SECOND_US)
    }
}

/// What an idle or lightly loaded Linux does in a second; the numbers say how busy it is with each thing.
fn linux(ticks: u64, serial: u64, faults: u64) -> [(usize, u64); 6] {
    [
        (EXTERNAL_INTERRUPT, 10 + serial / 50),
        (HLT, 40 + ticks / 2),
        (IO, serial),
        (MSR_WRITE, 50 + ticks),
        (EPT_VIOLATION, faults),
        (PREEMPTION_TIMER, 30 + ticks),
    ]
}

#[test]
fn the_logarithm_and_its_inverse() {
    for (n, expected) in [(1, 0.0), (2, 1.0), (3, 1.585), (1000, 9.966), (u64::MAX, 64.0)] {
        let found = log2(n) as f64 / ONE as f64;
        assert!((expected - found).abs() < 0.09, "log2({n}) is {found}");
    }
    assert_eq!((log2(0), exp2(0), exp2(-5), exp2(i64::MAX / 2)), (0, 1, 0, u64::MAX));
    for n in [1, 2, 3, 100, 65_537, 1 << 40] {
        let back = exp2(log2(n));
        assert!(back.abs_diff(n) <= n >> 15, "{n} came back as {back}");
    }
}

#[test]
fn the_constants_are_what_they_are_called() {
    let near = |value: i64, expected: f64| (value as f64 / ONE as f64 - expected).abs() < 0.001;
    let log2_e = core::f64::consts::LOG2_E;
    assert!(near(LOG2_E, log2_e) && near(LOG2_E_SQUARED, log2_e * log2_e));
    assert!(near(LOG2_2_PI, (2.0 * core::f64::consts::PI).log2()));
    assert!(near(LOG2_PRIOR, -10.0 - (REASON_COUNT as f64).log2()));
    assert!(near(LOG2_WIDTH, (32.0 - (STORM_PER_S as f64).log2()).log2()));
}

#[test]
fn a_storm_of_each_reason_is_told_in_its_first_window_and_named() {
    for reason in [IO, MSR_WRITE, EPT_VIOLATION, HLT, 0] {
        let mut trace = Trace::new();
        for second in 0..30 {
            assert_eq!(trace.second(&linux(250 + second % 7, 100, 20)), None);
        }
        trace.counters[reason] += 60_000;
        let found = trace.second(&linux(250, 100, 20)).expect("60,000 exits in a second");
        assert_eq!(usize::from(found.reason), reason);
        assert!(found.per_s >= 60_000 && found.usual_per_s < 400, "{found:?}");
        assert_eq!(trace.model.suspicion(), Some(found));
        assert_eq!(trace.second(&linux(250, 100, 20)), None, "it is over");
    }
}

#[test]
fn a_storm_that_lasts_stays_suspect_for_a_while_and_becomes_usual() {
    let mut trace = Trace::new();
    for _ in 0..20 {
        trace.second(&linux(250, 100, 20));
    }
    let storm: std::vec::Vec<bool> = (0..600).map(|_| trace.second(&linux(250, 50_000, 20)).is_some()).collect();
    assert!(storm[..5].iter().all(|suspect| *suspect), "{storm:?}");
    assert!(storm[500..].iter().all(|suspect| !suspect), "{storm:?}");
}

#[test]
fn nothing_is_judged_before_it_is_learned_and_no_silence_is_suspect() {
    let mut trace = Trace::new();
    for second in 0..u64::from(WINDOWS_TO_LEARN) {
        assert_eq!(trace.second(&[(IO, 10_000 << second)]), None);
    }
    let mut trace = Trace::new();
    for _ in 0..50 {
        assert_eq!(trace.second(&linux(1_000, 5_000, 1_000)), None);
    }
    for _ in 0..50 {
        assert_eq!(trace.second(&[]), None);
    }
}

#[test]
fn the_odds_are_those_of_the_formula() {
    let usual = Usual { mean: log2(101), variance: ONE / 4 };
    let x = (40_001.0_f64).log2() - (101.0_f64).log2();
    let variance = 0.25 + 1.0 / 16.0 + core::f64::consts::LOG2_E.powi(2) / 101.0;
    let normal = (-x * x / (2.0 * variance)).exp() / (2.0 * core::f64::consts::PI * variance).sqrt();
    let expected = ((1.0 / 1024.0 / 80.0) * (1.0 / 20.0) / normal).log2();
    let found = f64::from(usual.log2_odds(40_000, SECOND_US).unwrap());
    // The logarithm's error is in it twice, at a distance of some 15 deviations.
    assert!((found - expected).abs() < expected / 20.0, "{found} instead of {expected}");
}

proptest! {
    /// A Linux whose load comes and goes by a factor of some four stays unsuspected, for hours.
    #[test]
    fn a_linux_like_mix_stays_unsuspected(
        seconds in proptest::collection::vec((100u64..400, 20u64..200, 0u64..500), 300),
    ) {
        let mut trace = Trace::new();
        for (ticks, serial, faults) in seconds {
            prop_assert_eq!(trace.second(&linux(ticks, serial, faults)), None);
        }
    }

    /// Also one with thousands of exits for a reason, as long as that is its usual way.
    #[test]
    fn a_busy_mix_stays_unsuspected(seconds in proptest::collection::vec((8_000u64..20_000, 2_000u64..12_000), 300)) {
        let mut trace = Trace::new();
        for (serial, faults) in seconds {
            prop_assert_eq!(trace.second(&linux(250, serial, faults)), None);
        }
    }

    /// A storm of one reason is told within two windows, whatever the load was before.
    #[test]
    fn a_storm_is_told_within_two_windows(
        seconds in proptest::collection::vec((100u64..400, 60u64..200, 0u64..500), 20..100),
        storm in 100_000u64..2_000_000,
    ) {
        let mut trace = Trace::new();
        for (ticks, serial, faults) in seconds {
            trace.second(&linux(ticks, serial, faults));
        }
        // The storm may begin in the middle of a window.
        let told = [storm / 8, storm].map(|exits| {
            trace.counters[IO] += exits;
            trace.second(&linux(250, 100, 20))
        });
        let found = told.into_iter().flatten().next();
        prop_assert_eq!(found.map(|found| usize::from(found.reason)), Some(IO));
    }

    /// Counters are the host's, but nothing that they could show breaks the model.
    #[test]
    fn any_counters_are_survived(
        windows in proptest::collection::vec((proptest::collection::vec(any::<u64>(), REASON_COUNT), any::<u64>()), 1..30),
    ) {
        let mut model = ExitModel::new();
        for (counters, us) in windows {
            model.observe(counters.as_slice().try_into().unwrap(), us);
        }
    }
}
