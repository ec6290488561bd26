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
