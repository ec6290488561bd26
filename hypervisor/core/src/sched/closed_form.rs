//! What each VM is due: the answer that the fair policy is measured against.
//!
//! The machine's CPU time is worth `U_i(x) = w_i log x` to VM `i`. What is best for all together is
//!
//! `argmax_x sum of w_i log x_i`, subject to `sum of x_i <= C` and `floor_i <= x_i <= ceiling_i`
//!
//! where `C` is the number of CPUs, `floor_i` the VM's reservation and `ceiling_i` the least of its number of vCPUs, its
//! cap and what it wants. With a multiplier `1/lambda` for the first condition, `w_i / x_i = 1/lambda` wherever neither
//! bound holds, so
//!
//! `x_i = clamp(w_i * lambda, floor_i, ceiling_i)`
//!
//! with the one `lambda` that uses up `C` (or gives everyone its ceiling): water poured into vessels of width `w_i`, each
//! with a bottom and a lid. That is weighted max-min fairness. A VM whose weight would give it more than it can use (one
//! vCPU, three quarters of all weight, two CPUs) gets its ceiling, and the others share the rest by their weights.

use alloc::vec::Vec;

/// What one VM may get, in any unit of CPU that the capacity has too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its weight, at least 1.
    pub weight: u32,
    /// What it gets at least; no more than the ceiling counts.
    pub floor: u64,
    /// What it gets at most.
    pub ceiling: u64,
}

/// The shares of a capacity: for each claim `clamp(w_i * lambda, floor_i, ceiling_i)`, rounded down. Where the floors
/// alone exceed the capacity, each gets its floor's part of it.
///
/// # Examples
///
/// Two CPUs, in thousandths: weights 6 and 1 and 1, one vCPU each. The first cannot use three quarters of two CPUs.
///
/// ```
/// use lamina_core::sched::{Claim, closed_form};
/// let claim = |weight| Claim { weight, floor: 0, ceiling: 1000 };
/// assert_eq!(closed_form(&[claim(6), claim(1), claim(1)], 2000), [1000, 500, 500]);
/// ```
#[must_use]
pub fn closed_form(claims: &[Claim], capacity: u64) -> Vec<u64> {
    let floor = |claim: &Claim| claim.floor.min(claim.ceiling);
    let floors: u128 = claims.iter().map(|claim| u128::from(floor(claim))).sum();
    if floors > u128::from(capacity) {
        let part = |claim: &Claim| u128::from(floor(claim)) * u128::from(capacity) / floors;
        return claims.iter().map(|claim| u64::try_from(part(claim)).unwrap_or(u64::MAX)).collect();
    }
    // The greatest lambda that does not exceed the capacity, in steps of 2^-FRACTION. At the upper end all have their ceiling.
    let (mut low, mut high) = (0, u128::from(claims.iter().map(|claim| claim.ceiling).max().unwrap_or(0)) << FRACTION);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let sum: u128 = claims.iter().map(|claim| u128::from(share(claim, middle))).sum();
        if sum > u128::from(capacity) {
            high = middle - 1;
        } else {
            low = middle;
        }
    }
    claims.iter().map(|claim| share(claim, low)).collect()
}

const FRACTION: u32 = 24;

/// `clamp(w * lambda, floor, ceiling)`
fn share(claim: &Claim, lambda: u128) -> u64 {
    let poured = u128::from(claim.weight.max(1)).saturating_mul(lambda) >> FRACTION;
    u64::try_from(poured).unwrap_or(u64::MAX).clamp(claim.floor.min(claim.ceiling), claim.ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_claim() -> impl Strategy<Value = Claim> {
        (1u32..10_000, 0u64..2_000_000, 0u64..8_000_000).prop_map(|(weight, floor, ceiling)| Claim {
            weight,
            floor: if floor % 3 == 0 { floor } else { 0 },
            ceiling,
        })
    }

    proptest! {
        /// The conditions of Karush, Kuhn and Tucker: who is between its bounds has the common ratio `x / w`, who is at its
        /// ceiling a smaller one, who is at its floor a greater one.
        #[test]
        fn it_is_optimal(claims in proptest::collection::vec(any_claim(), 1..12), capacity in 1_000_000u64..16_000_000) {
            let shares = closed_form(&claims, capacity);
            let floors: u64 = claims.iter().map(|claim| claim.floor.min(claim.ceiling)).sum();
            prop_assume!(floors <= capacity);
            let (sum, most): (u64, u64) = (shares.iter().sum(), claims.iter().map(|claim| claim.ceiling).sum());
            prop_assert!(sum <= capacity);
            // Rounding down loses less than one unit a claim, and what 2^-24 of lambda is to the weights.
            prop_assert!(sum + 2 * claims.len() as u64 >= capacity.min(most), "{sum} of {capacity}, at most {most}");
            let ratio = |index: usize| shares[index] as f64 / f64::from(claims[index].weight);
            let slack = |index: usize| 1.5 / f64::from(claims[index].weight);
            for (one, claim) in claims.iter().enumerate() {
                prop_assert!(shares[one] <= claim.ceiling && shares[one] >= claim.floor.min(claim.ceiling));
                let grows = |index: usize| shares[index] < claims[index].ceiling;
                let shrinks = |index: usize| shares[index] > claims[index].floor.min(claims[index].ceiling);
                for other in 0..claims.len() {
                    // Nothing is gained by giving some of `other`'s to `one`.
                    if grows(one) && shrinks(other) {
                        prop_assert!(ratio(one) + slack(one) >= ratio(other) - slack(other), "{claims:?} {shares:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn floors_that_do_not_fit_are_scaled() {
        let claim = |floor| Claim { weight: 1, floor, ceiling: 1000 };
        assert_eq!(closed_form(&[claim(900), claim(600), claim(0)], 1000), [600, 400, 0]);
        assert!(closed_form(&[], 1000).is_empty());
    }
}
