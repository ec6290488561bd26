//! `capacity`: every VM has its minimum, and what is left is shared out by weight.
//!
//! ```text
//! target = clamp(min + weight * L, floor, max)
//! floor  = min, or what is populated if that is more and the guest has no balloon
//! ```
//!
//! with the greatest level `L` at which all targets fit into the memory (times the overcommit) less the host's tables.
//! Targets are lowered first; they are raised as far as there is memory that nobody holds, so what a balloon is still to
//! deliver is shared out by a later call.

use super::super::row::Row;
use super::super::share::{Share, share_out};
use super::super::{Allocator, TargetChange};
use alloc::vec::Vec;

/// Everybody keeps its floor.
pub(super) fn keeps(row: &Row) -> u64 {
    row.floor()
}

impl Allocator {
    /// Shares out all there is.
    pub(in super::super) fn share_capacity(&mut self) -> Vec<TargetChange> {
        let tables: u64 = self.rows.iter().map(|row| row.overhead).sum();
        let share = |row: &Row| Share {
            vm: row.vm,
            base: row.min,
            floor: row.floor(),
            ceiling: row.max,
            weight: row.weight,
            given: row.target,
        };
        let mut shares: Vec<Share> = self.rows.iter().map(share).collect();
        share_out(self.limit().saturating_sub(tables), &mut shares);
        let mut changes = Vec::new();
        for share in &shares {
            if self.row(share.vm).is_some_and(|row| share.given < row.target) {
                changes.extend(self.retarget(share.vm, share.given));
            }
        }
        for share in &shares {
            let Some(target) = self.row(share.vm).map(|row| row.target) else { continue };
            let raised = share.given.min(target + self.unclaimed());
            if raised > target {
                changes.extend(self.retarget(share.vm, raised));
            }
        }
        changes
    }
}
