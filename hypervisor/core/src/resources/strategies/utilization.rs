//! `utilization`: memory follows measured use.
//!
//! Each [`Sample`] is a VM's working set `W`: the pages that it used of late, by the accessed bits of its EPT. At most once
//! in [`REBALANCE_PERIOD_US`]:
//!
//! ```text
//! used     = W, or what is populated if the guest has no balloon; what a paused VM waits for is added
//! want     = clamp(used + max(used / 4, 1 MiB), min, max)
//! want > target:  target' = want                        at once
//! want < target:  target' = target - (target - want) / 8     slowly: half the way down in five or six periods
//! ```
//!
//! in whole frames. Targets are lowered first. If what then nobody holds does not suffice for all who want more, it is
//! shared out among them by weight. VMs without a sample, or without a populated page, stay as they are.

use super::super::row::Row;
use super::super::share::{Share, share_out};
use super::super::{Allocator, TargetChange};
use crate::memory::PAGE_SIZE;
use alloc::vec::Vec;

/// How often targets follow use at most, in microseconds.
pub const REBALANCE_PERIOD_US: u64 = 1_000_000;
/// A VM is to have a quarter more than it uses.
const HEADROOM_DIVISOR: u64 = 4;
/// And at least this much more, in bytes.
const HEADROOM_MIN: u64 = 1 << 20;
/// Which part of what a VM has too much it gives back in one period.
const DECREASE_DIVISOR: u64 = 8;

/// What was measured of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The VM.
    pub vm: u32,
    /// The memory that it used of late, in bytes.
    pub working_set_bytes: u64,
}

fn whole_frames(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE)
}

fn want(row: &Row, working_set: u64) -> u64 {
    let populated = if row.can_shrink { 0 } else { row.populated };
    let used = working_set.min(row.max).max(populated);
    let used = row.waiting.map_or(used, |waiting| used.max(row.populated).saturating_add(waiting.bytes));
    let headroom = (used / HEADROOM_DIVISOR).max(HEADROOM_MIN);
    whole_frames(used.saturating_add(headroom)).min(row.max).max(row.min)
}

impl Allocator {
    /// Moves the targets of those who were measured.
    pub(super) fn follow_use(&mut self, now_us: u64, samples: &[Sample]) -> Vec<TargetChange> {
        if self.rebalanced_us.is_some_and(|then| now_us.saturating_sub(then) < REBALANCE_PERIOD_US) {
            return Vec::new();
        }
        self.rebalanced_us = Some(now_us);
        let mut changes = Vec::new();
        let mut growing = Vec::new();
        for sample in samples {
            let Some(row) = self.row(sample.vm).filter(|row| row.populated != 0) else { continue };
            let (target, want) = (row.target, want(row, sample.working_set_bytes));
            if want < target {
                let step = whole_frames((target - want) / DECREASE_DIVISOR).max(PAGE_SIZE);
                changes.extend(self.retarget(sample.vm, target - step));
            } else if want > target {
                let (vm, weight) = (sample.vm, row.weight);
                growing.push(Share { vm, base: target, floor: target, ceiling: want, weight, given: target });
            }
        }
        let held: u64 = growing.iter().map(|share| share.base).sum();
        share_out(held + self.unclaimed(), &mut growing);
        for share in growing.iter().filter(|share| share.given > share.base) {
            changes.extend(self.retarget(share.vm, share.given));
        }
        changes
    }
}
