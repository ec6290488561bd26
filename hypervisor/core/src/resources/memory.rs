//! Memory targets set by the operator, and what guests' balloons report.

use super::admission::MemoryAsk;
use super::request::check_memory;
use super::{Allocator, Refusal, Size, Strategy, TargetChange};
use alloc::format;
use alloc::vec::Vec;

/// What [`Allocator::set_memory`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryChange {
    /// The VM's own target.
    pub own: TargetChange,
    /// What of a raise others are still to give back, in bytes; until then the VM has that much less.
    pub owed_bytes: u64,
    /// The targets of others that changed for it.
    pub others: Vec<TargetChange>,
}

impl Allocator {
    /// Changes a VM's memory target to `bytes`, from its minimum to its maximum. A raise is decided like a request of
    /// the VM's priority (under `capacity`, as by `need`).
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn set_memory(&mut self, vm: u32, bytes: u64) -> Result<MemoryChange, Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        check_memory(&row.name, row.min, bytes, row.max)?;
        let (before, priority) = (row.claim(), row.priority);
        let needed = bytes + row.overhead;
        let growth = (needed.max(row.populated + row.overhead)).saturating_sub(before);
        if bytes < row.target && row.populated > bytes && !row.can_shrink {
            return Err(Refusal::Populated {
                name: row.name.clone(),
                populated_bytes: row.populated,
                target_bytes: bytes,
            });
        }
        // Even a raise below what is populated may not fit: it calls back what a balloon was to deliver to others.
        let fits = bytes <= row.target || self.sums.claimed - before + needed <= self.limit();
        let mut others = Vec::new();
        if !fits {
            // The VM's own tables are among those of all.
            let strategy = if self.strategy == Strategy::Capacity { Strategy::Need } else { self.strategy };
            let ask = MemoryAsk { count: 1, each: bytes, overhead: 0, priority, strategy };
            if let Some(shortage) = self.memory_shortage(&ask, Some(vm)) {
                return Err(Refusal::Insufficient([shortage].into()));
            }
            others = self.take_back(needed, priority, Some(vm));
        }
        let own = self.retarget(vm, bytes).ok_or(Refusal::Unknown { vm })?;
        if !fits {
            self.change(vm, |row| (row.owed, row.promised) = (row.owed + growth, true));
        }
        self.settle();
        let owed_bytes = self.row(vm).map_or(0, |row| row.owed);
        Ok(MemoryChange { own, owed_bytes, others })
    }

    /// Changes between what a VM's target may move.
    ///
    /// # Errors
    /// A [`Refusal`] if they are not min <= target <= max, or more is populated than the maximum; nothing was changed.
    pub fn set_memory_bounds(&mut self, vm: u32, min_bytes: u64, max_bytes: u64) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        check_memory(&row.name, min_bytes, row.target, max_bytes)?;
        if row.populated > max_bytes {
            let [populated, max] = [row.populated, max_bytes].map(Size::from);
            let what = format!("maximum {max}; {populated} are populated, so set its memory lower first");
            return Err(Refusal::Invalid { name: row.name.clone(), what });
        }
        self.change(vm, |row| {
            (row.min, row.max) = (min_bytes, max_bytes);
            row.ceiling = row.ceiling.min(max_bytes);
            row.ballooned = row.ballooned.min(max_bytes);
        });
        Ok(())
    }

    /// Whether a VM's guest has a balloon driver now.
    pub fn set_can_shrink(&mut self, vm: u32, can_shrink: bool) {
        self.change(vm, |row| row.can_shrink = can_shrink);
    }

    /// A VM's balloon holds `bytes` now: memory that its guest will not touch. That the frames are gone that backed it is told
    /// by [`Allocator::measured`].
    pub fn ballooned(&mut self, vm: u32, bytes: u64) {
        self.change(vm, |row| {
            row.ballooned = bytes.min(row.max);
            if row.balloon_is_there() {
                row.ceiling = row.target;
            }
        });
    }

    /// A VM was stopped and all its frames are free. It keeps its reservation.
    pub fn ended(&mut self, vm: u32) {
        self.change(vm, |row| {
            (row.populated, row.ballooned, row.kept) = (0, 0, 0);
            (row.can_shrink, row.waiting, row.ceiling) = (false, None, row.target);
        });
        self.settle();
    }

    /// Lowers targets for `needed` bytes at this priority, as the strategy allows; `except` needs them instead of its
    /// claim.
    pub(super) fn take_back(&mut self, needed: u64, priority: u8, except: Option<u32>) -> Vec<TargetChange> {
        match self.strategy {
            Strategy::Priority => self.take_from_lower(needed, priority, except),
            Strategy::Need | Strategy::Utilization | Strategy::Capacity => Vec::new(),
        }
    }
}
