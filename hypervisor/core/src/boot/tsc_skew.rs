//! Whether two CPUs' time-stamp counters are in step, from messages that went to and fro between them.
//!
//! The CPU that asks reads its own TSC, the other answers with its own, the first reads its own again. If the other's counter
//! is `skew` ahead, its answer lies between the two readings once `skew` is taken off. Each such round bounds the skew
//! from both sides, and the bounds of all rounds hold together.

/// One message and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// The asking CPU's TSC before it asked.
    pub asked: u64,
    /// The other CPU's TSC when it answered.
    pub answered: u64,
    /// The asking CPU's TSC when it had the answer.
    pub heard: u64,
}

/// The smallest skew, in ticks by which the other CPU's TSC is ahead (behind, where negative), that explains these rounds: 0
/// where the counters may well be in step, or where there is no round.
#[must_use]
pub fn least_skew(rounds: &[Round]) -> i64 {
    // Counters are compared as numbers modulo 2^64: what matters is which is ahead.
    let ahead = |of: u64, by: u64| of.wrapping_sub(by).cast_signed();
    let at_least = rounds.iter().map(|round| ahead(round.answered, round.heard)).max();
    let at_most = rounds.iter().map(|round| ahead(round.answered, round.asked)).min();
    match (at_least, at_most) {
        (Some(at_least), _) if at_least > 0 => at_least,
        (_, Some(at_most)) if at_most < 0 => at_most,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{Round, least_skew};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn no_round_tells_nothing() {
        assert_eq!(least_skew(&[]), 0);
    }

    #[test]
    fn the_quickest_round_tells_most() {
        let slow = Round { asked: 1000, answered: 1900, heard: 3000 };
        let quick = Round { asked: 5000, answered: 5900, heard: 5100 };
        assert_eq!(least_skew(&[slow]), 0);
        assert_eq!(least_skew(&[slow, quick]), 800);
        let behind = Round { asked: 5000, answered: 4000, heard: 5100 };
        assert_eq!(least_skew(&[behind]), -1000);
    }

    proptest! {
        /// Whatever the delays, the answer is never further from 0 than the true skew, on its side of 0, and never further off
        /// than the quickest round took.
        #[test]
        fn the_true_skew_is_bounded(
            start: u64,
            skew in -1_000_000i64..1_000_000,
            delays in prop::collection::vec((0u64..5000, 0u64..5000), 1..16),
        ) {
            let rounds: Vec<Round> = delays
                .iter()
                .map(|&(there, back)| Round {
                    asked: start,
                    answered: start.wrapping_add(there).wrapping_add_signed(skew),
                    heard: start.wrapping_add(there + back),
                })
                .collect();
            let found = least_skew(&rounds);
            let quickest = delays.iter().map(|(there, back)| there + back).min().unwrap_or(0);
            prop_assert!(found.abs() <= skew.abs() && found.signum() * skew.signum() >= 0, "{found} for {skew}");
            prop_assert!(skew.abs_diff(found) <= quickest, "{found} for {skew}, quickest {quickest}");
        }
    }
}
