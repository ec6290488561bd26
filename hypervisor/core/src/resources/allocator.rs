//! [`Allocator`]: the table of VMs, its sums, and what the operator sets. `admission.rs` grants and refuses.

use super::request::{check_cpu, check_priority, check_weight};
use super::row::Row;
use super::{Capacity, Overcommit, Refusal, Strategy, TargetChange};
use crate::memory::PAGE_SIZE;
use alloc::vec::Vec;

/// Sums over the table, kept so that a touch need not add anything up. In bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    /// Of [`Row::claim`].
    pub(super) claimed: u64,
    /// Of [`Row::reserved`].
    pub(super) reserved: u64,
    /// Of [`Row::kept`].
    pub(super) kept: u64,
}

/// Decides who may hold how much. See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocator {
    pub(super) capacity: Capacity,
    pub(super) overcommit: Overcommit,
    pub(super) strategy: Strategy,
    /// By number, ascending.
    pub(super) rows: Vec<Row>,
    pub(super) sums: Sums,
    /// The place in the line of the next VM that has to wait.
    pub(super) next_turn: u64,
    /// When targets last followed use, in microseconds.
    pub(super) rebalanced_us: Option<u64>,
}

impl Allocator {
    /// An allocator of `capacity` without VMs.
    #[must_use]
    pub fn new(capacity: Capacity, overcommit: Overcommit, strategy: Strategy) -> Self {
        let memory_bytes = capacity.memory_bytes & !(PAGE_SIZE - 1);
        Self {
            capacity: Capacity { memory_bytes, ..capacity },
            overcommit,
            strategy,
            rows: Vec::new(),
            sums: Sums::default(),
            next_turn: 0,
            rebalanced_us: None,
        }
    }

    /// Forgets a VM: all it held is given back. Whether there was one.
    pub fn remove(&mut self, vm: u32) -> bool {
        let Ok(index) = self.find(vm) else { return false };
        let row = self.rows.remove(index);
        self.sums.claimed -= row.claim();
        self.sums.reserved -= row.reserved();
        self.sums.kept -= row.kept;
        self.settle();
        true
    }

    /// Changes the CPU reservation of a VM.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn set_cpu_reservation(&mut self, vm: u32, percent: u32) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        check_cpu(&row.name, percent, row.vcpus)?;
        if let Some(shortage) = self.cpu_shortage(1, percent, Some(vm)) {
            return Err(Refusal::Insufficient([shortage].into()));
        }
        self.change(vm, |row| row.cpu_percent = percent);
        Ok(())
    }

    /// Changes the weight of a VM's share.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn set_weight(&mut self, vm: u32, weight: u32) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        check_weight(&row.name, weight)?;
        self.change(vm, |row| row.weight = weight);
        Ok(())
    }

    /// Changes a VM's priority.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn set_priority(&mut self, vm: u32, priority: u8) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        check_priority(&row.name, priority)?;
        self.change(vm, |row| row.priority = priority);
        Ok(())
    }

    /// Changes the strategy. Nothing is granted or taken back by that alone.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// The strategy.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Changes how much memory may be reserved.
    ///
    /// # Errors
    /// [`Refusal::Overcommitted`] if more is reserved already; nothing was changed.
    pub fn set_overcommit(&mut self, overcommit: Overcommit) -> Result<(), Refusal> {
        let limit_bytes = overcommit.limit(self.capacity.memory_bytes);
        // What was promised counts: it must still be possible to deliver it.
        let reserved_bytes = self.rows.iter().map(Row::settled_claim).sum::<u64>().max(self.sums.reserved);
        if reserved_bytes > limit_bytes {
            return Err(Refusal::Overcommitted { overcommit, reserved_bytes, limit_bytes });
        }
        self.overcommit = overcommit;
        for row in &mut self.rows {
            row.kept = 0;
        }
        self.sums.kept = 0;
        self.settle();
        Ok(())
    }

    /// A VM's memory target in bytes: what its balloon is to leave it.
    #[must_use]
    pub fn target_bytes(&self, vm: u32) -> Option<u64> {
        self.row(vm).map(|row| row.target)
    }

    /// What is populated of a VM's memory, in bytes.
    #[must_use]
    pub fn populated_bytes(&self, vm: u32) -> Option<u64> {
        self.row(vm).map(|row| row.populated)
    }

    /// What may be reserved in all, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.overcommit.limit(self.capacity.memory_bytes)
    }

    /// What is neither reserved nor promised to anybody, in bytes.
    pub(super) fn unclaimed(&self) -> u64 {
        self.limit().saturating_sub(self.sums.claimed)
    }

    /// What is not reserved: debts can be paid from it.
    pub(super) fn headroom(&self) -> u64 {
        self.limit().saturating_sub(self.sums.reserved)
    }

    fn find(&self, vm: u32) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&vm, |row| row.vm)
    }

    /// How much memory may be reserved, in percent of what there is.
    #[must_use]
    pub const fn overcommit_percent(&self) -> u32 {
        self.overcommit.percent()
    }

    /// What a VM's guest is still to give back, in bytes.
    #[must_use]
    pub fn pending_bytes(&self, vm: u32) -> Option<u64> {
        self.row(vm).map(Row::pending)
    }

    pub(super) fn row(&self, vm: u32) -> Option<&Row> {
        self.find(vm).ok().and_then(|index| self.rows.get(index))
    }

    /// The one way to change a VM's row: it keeps the sums.
    pub(super) fn change<R>(&mut self, vm: u32, change: impl FnOnce(&mut Row) -> R) -> Option<R> {
        let index = self.find(vm).ok()?;
        let row = self.rows.get_mut(index)?;
        self.sums.claimed -= row.claim();
        self.sums.reserved -= row.reserved();
        self.sums.kept -= row.kept;
        let result = change(row);
        self.sums.claimed += row.claim();
        self.sums.reserved += row.reserved();
        self.sums.kept += row.kept;
        Some(result)
    }

    /// Gives a VM another target and tells what changed.
    pub(super) fn retarget(&mut self, vm: u32, target: u64) -> Option<TargetChange> {
        self.change(vm, |row| {
            let from_bytes = row.target;
            row.set_target(target);
            let pending_bytes = row.pending();
            TargetChange { vm, name: row.name.clone(), from_bytes, to_bytes: target, pending_bytes }
        })
    }

    pub(super) fn insert(&mut self, row: Row) {
        self.sums.claimed += row.claim();
        self.sums.reserved += row.reserved();
        if let Err(index) = self.find(row.vm) {
            self.rows.insert(index, row);
        }
    }

    /// Pays the debts that can be paid whole: the highest priority first, then the oldest VM. Allocates nothing.
    pub(super) fn settle(&mut self) {
        while self.sums.claimed > self.sums.reserved {
            let headroom = self.headroom();
            let payable = self.rows.iter().filter(|row| row.owed != 0 && row.owed <= headroom);
            let Some(vm) = payable.min_by_key(|row| (u8::MAX - row.priority, row.vm)).map(|row| row.vm) else { return };
            self.change(vm, |row| row.owed = 0);
        }
    }
}
