//! `priority`: what lacks for a request is taken back from VMs of lower priority.
//!
//! The lowest priority gives first, and among equals who has most to give, so that few are disturbed. Nobody gives more
//! than lacks, nor anything of its minimum, nor (without a balloon) anything that it has populated.

use super::super::row::Row;
use super::super::{Allocator, TargetChange};
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Lower ones keep their floor, the others all.
pub(super) fn keeps(row: &Row, priority: u8) -> u64 {
    if row.priority < priority { row.floor() } else { row.claim() - row.overhead }
}

impl Allocator {
    /// Lowers targets of VMs below `priority` until there will be `needed` bytes once balloons have delivered; `except`
    /// needs them instead of its claim.
    pub(in super::super) fn take_from_lower(
        &mut self,
        needed: u64,
        priority: u8,
        except: Option<u32>,
    ) -> Vec<TargetChange> {
        let gives = |row: &&Row| row.priority < priority;
        let others = || self.rows.iter().filter(|row| Some(row.vm) != except);
        // What balloons are already on their way to deliver is not asked for twice.
        let to_be: u64 = others().map(|row| if gives(&row) { row.settled_claim() } else { row.claim() }).sum();
        let mut lacking = (to_be + needed).saturating_sub(self.limit());
        let mut givers: Vec<(u8, Reverse<u64>, u32, u64)> = others()
            .filter(gives)
            .map(|row| {
                let holds = row.settled_claim() - row.overhead;
                (row.priority, Reverse(holds - row.floor()), row.vm, holds)
            })
            .collect();
        givers.sort_unstable();
        let mut changes = Vec::new();
        for (_, Reverse(surplus), vm, holds) in givers {
            let taken = surplus.min(lacking);
            lacking -= taken;
            if taken != 0 {
                changes.extend(self.retarget(vm, holds - taken));
            }
        }
        changes
    }
}
