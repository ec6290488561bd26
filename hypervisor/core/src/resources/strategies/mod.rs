//! The strategies, one file each: what a VM keeps against a request, and how targets move.

mod capacity;
mod need;
mod priority;
mod utilization;

use super::row::Row;
use super::{Allocator, Request, Strategy, TargetChange};
use alloc::vec::Vec;
pub use utilization::{REBALANCE_PERIOD_US, Sample};

/// The memory of each VM that must fit for the request to be granted, in bytes.
pub(super) fn asked(strategy: Strategy, request: &Request) -> u64 {
    match strategy {
        Strategy::Need | Strategy::Priority | Strategy::Utilization => request.memory_bytes,
        Strategy::Capacity => request.memory_min_bytes,
    }
}

/// What a VM keeps of its memory against a request of `priority`, in bytes.
pub(super) fn keeps(strategy: Strategy, row: &Row, priority: u8) -> u64 {
    match strategy {
        Strategy::Need | Strategy::Utilization => need::keeps(row),
        Strategy::Priority => priority::keeps(row, priority),
        Strategy::Capacity => capacity::keeps(row),
    }
}

impl Allocator {
    /// Moves targets as the strategy has it, after what was measured until `now_us` (microseconds of a clock that never
    /// goes back). To be called periodically; `need` and `priority` move nothing.
    pub fn rebalance(&mut self, now_us: u64, samples: &[Sample]) -> Vec<TargetChange> {
        let changes = match self.strategy {
            Strategy::Need | Strategy::Priority => Vec::new(),
            Strategy::Utilization => self.follow_use(now_us, samples),
            Strategy::Capacity => self.share_capacity(),
        };
        self.settle();
        changes
    }
}
