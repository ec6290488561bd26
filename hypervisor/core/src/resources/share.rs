//! Sharing memory out by weight, between a floor and a ceiling for each.

use crate::memory::PAGE_SIZE;

/// Somebody who gets a share. All in bytes, whole frames; base and floor are at most the ceiling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Share {
    pub(super) vm: u32,
    /// What it has before anything is shared out.
    pub(super) base: u64,
    /// What it keeps in any case.
    pub(super) floor: u64,
    /// More is of no use to it.
    pub(super) ceiling: u64,
    pub(super) weight: u32,
    /// What it got.
    pub(super) given: u64,
}

/// The level is counted in frames for a weight of 2^20, so that one step of it moves nobody by more than a frame.
const LEVEL_SHIFT: u32 = 20;

impl Share {
    fn at(&self, level: u128) -> u64 {
        let frames = (u128::from(self.weight) * level) >> LEVEL_SHIFT;
        let wished = u128::from(self.base) + frames * u128::from(PAGE_SIZE);
        u64::try_from(wished).unwrap_or(u64::MAX).min(self.ceiling).max(self.floor)
    }
}

/// Shares out `pool` bytes: `given = clamp(base + weight * L, floor, ceiling)` with the greatest level `L` at which the
/// sum is within the pool, and what rounding leaves of it a frame each to the first. Sorts nothing; costs
/// O(n log(largest ceiling)). If the floors alone are more than the pool, everybody has the floor.
pub(super) fn share_out(pool: u64, shares: &mut [Share]) {
    let sum_at = |shares: &[Share], level: u128| shares.iter().map(|share| u128::from(share.at(level))).sum::<u128>();
    let widest = shares.iter().map(|share| share.ceiling - share.base.min(share.ceiling)).max().unwrap_or(0);
    let (mut low, mut high) = (0, u128::from(widest / PAGE_SIZE + 1) << LEVEL_SHIFT);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if sum_at(shares, middle) <= u128::from(pool) { low = middle } else { high = middle - 1 }
    }
    let mut left = u128::from(pool).saturating_sub(sum_at(shares, low));
    for share in shares.iter_mut() {
        share.given = share.at(low);
        if share.given < share.ceiling && left >= u128::from(PAGE_SIZE) && share.at(low + 1) > share.given {
            share.given += PAGE_SIZE;
            left -= u128::from(PAGE_SIZE);
        }
    }
}
