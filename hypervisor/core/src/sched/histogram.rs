//! [`Histogram`]: how often a time was how long, in a fixed size.
//!
//! Buckets grow with the value: each power of two is cut into four, so a percentile is at most 25 % above the truth.

/// Four buckets per power of two.
const SUB_BITS: u32 = 2;
/// Values below this many ticks are one bucket (the first): nothing is scheduled that fast.
const FLOOR_BITS: u32 = 7;
/// Values from this power of two on are one bucket (the last): at 4 GHz more than an hour.
const CEILING_BITS: u32 = 44;
const BUCKETS: usize = ((CEILING_BITS - FLOOR_BITS) << SUB_BITS) as usize + 2;

/// Times in ticks.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: [u32; BUCKETS],
    count: u64,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, total: 0, max: 0 }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, ticks: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(ticks)) {
            *bucket = bucket.saturating_add(1);
        }
        self.count = self.count.saturating_add(1);
        self.total = self.total.saturating_add(ticks);
        self.max = self.max.max(ticks);
    }

    /// Counts in what another one counted.
    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.count = self.count.saturating_add(other.count);
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    /// A time that at least `percent` of all did not exceed: the upper end of the bucket where that is reached, and never
    /// more than the longest of all. 0 where nothing was counted.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let all: u64 = self.buckets.iter().map(|&count| u64::from(count)).sum();
        let wanted = (all.saturating_mul(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return upper_end(index).min(self.max);
            }
        }
        0
    }
}

fn bucket_of(ticks: u64) -> usize {
    let Some(power) = ticks.checked_ilog2().filter(|power| *power >= FLOOR_BITS) else { return 0 };
    if power >= CEILING_BITS {
        return BUCKETS - 1;
    }
    let sub = (ticks >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    1 + (((power - FLOOR_BITS) << SUB_BITS) as usize) + usize::try_from(sub).unwrap_or(0)
}

/// The greatest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let Some(index) = bucket.checked_sub(1).and_then(|index| u32::try_from(index).ok()) else {
        return (1 << FLOOR_BITS) - 1;
    };
    let power = FLOOR_BITS + (index >> SUB_BITS);
    let sub = u64::from(index & ((1 << SUB_BITS) - 1));
    (1 << power) + ((sub + 1) << (power - SUB_BITS)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_percentile_is_at_most_a_quarter_too_high(mut values in proptest::collection::vec(1u64 << 7..1 << 40, 1..200), percent in 1u64..=100) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let rank = (values.len() as u64 * percent).div_ceil(100).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let said = histogram.percentile(percent);
            prop_assert!(said >= exact && said <= exact + exact / 4, "{said} for {exact}");
            prop_assert_eq!(histogram.max(), *values.last().unwrap());
            prop_assert_eq!(histogram.total(), values.iter().sum::<u64>());
        }

        #[test]
        fn merging_is_counting_both(one in proptest::collection::vec(any::<u64>(), 0..50), other in proptest::collection::vec(any::<u64>(), 0..50)) {
            let (mut left, mut right, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
            one.iter().for_each(|value| left.add(*value));
            other.iter().for_each(|value| right.add(*value));
            one.iter().chain(&other).for_each(|value| both.add(*value));
            left.merge(&right);
            prop_assert_eq!(left.buckets, both.buckets);
            prop_assert_eq!((left.count, left.max), (both.count, both.max));
        }
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        let ends: Vec<u64> = (0..BUCKETS).map(upper_end).collect();
        for (bucket, pair) in ends.windows(2).enumerate() {
            assert!(pair[0] < pair[1]);
            assert_eq!(bucket_of(pair[0]), bucket);
            assert_eq!(bucket_of(pair[0] + 1), bucket + 1);
        }
        assert_eq!(Histogram::default().percentile(50), 0);
    }
}
