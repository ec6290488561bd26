//! [`Allocator`]: the table of VMs, what is granted and what is refused.

use super::refusal::{Holder, Refusal, Shortage};
use super::request::{check_cpu, check_priority, check_weight};
use super::row::Row;
use super::{Capacity, Grant, Grants, Overcommit, Request, Size, Strategy, TargetChange, strategies};
use crate::memory::PAGE_SIZE;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
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

    /// Grants all that is asked for, or nothing. The VMs get the numbers from `first_vm` on.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn request(&mut self, request: &Request, first_vm: u32) -> Result<Grants, Refusal> {
        request.check()?;
        let asked = strategies::asked(self.strategy, request);
        let shortages: Vec<Shortage> =
            self.cpu_shortage(request.count(), request.cpu_reservation_percent, None).into_iter().collect();
        let memory = self.memory_shortage(request.count(), asked, request.overhead_bytes, request.priority, None);
        let shortages: Vec<Shortage> = shortages.into_iter().chain(memory).collect();
        if !shortages.is_empty() {
            return Err(Refusal::Insufficient(shortages));
        }
        self.check_identities(request, first_vm)?;

        let needed = u64::from(request.count()) * (asked + request.overhead_bytes);
        let fits = needed <= self.unclaimed();
        let mut changes = Vec::new();
        if !fits && self.strategy == Strategy::Priority {
            changes = self.take_back(needed, request.priority, None);
        }
        for (vm, name) in (first_vm..).zip(request.names()) {
            let mut row = new_row(vm, name, asked, request);
            // Debts are paid as soon as there is enough; some may be there already.
            row.owed = if fits { 0 } else { row.claim() };
            row.promised = !fits;
            self.insert(row);
        }
        if self.strategy == Strategy::Capacity {
            changes = self.share_capacity();
            changes.retain(|change| change.vm < first_vm || change.vm - first_vm >= request.count());
        }
        self.settle();
        let granted = self.rows.iter().filter(|row| row.vm >= first_vm && row.vm - first_vm < request.count());
        let vms = granted
            .map(|row| Grant { vm: row.vm, name: row.name.clone(), target_bytes: row.target, owed_bytes: row.owed })
            .collect();
        Ok(Grants { vms, changes })
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

    /// Whether all that a VM was granted is there, so that it can be started.
    ///
    /// # Errors
    /// [`Refusal::Owed`] with who is to give back the rest, or [`Refusal::Unknown`].
    pub fn may_start(&self, vm: u32) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        if row.owed == 0 {
            return Ok(());
        }
        let mut from = String::new();
        for debtor in self.rows.iter().filter(|row| row.pending() != 0) {
            let separator = if from.is_empty() { "" } else { ", " };
            from += &format!("{separator}{} {}", debtor.name, Size::from(debtor.pending()));
        }
        Err(Refusal::Owed { name: row.name.clone(), owed_bytes: row.owed, from })
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
        self.settle();
        Ok(())
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

    fn insert(&mut self, row: Row) {
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

    fn check_identities(&self, request: &Request, first_vm: u32) -> Result<(), Refusal> {
        let last = u64::from(first_vm) + u64::from(request.count()) - 1;
        if last > u64::from(u32::MAX) {
            return Err(Refusal::NumberTaken { vm: u32::MAX });
        }
        if let Some(row) = self.rows.iter().find(|row| row.vm >= first_vm && u64::from(row.vm) <= last) {
            return Err(Refusal::NumberTaken { vm: row.vm });
        }
        let taken: BTreeSet<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
        match request.names().find(|name| taken.contains(name.as_str())) {
            Some(name) => Err(Refusal::NameTaken { name }),
            None => Ok(()),
        }
    }

    /// What lacks for `count` VMs of `each` percent, those of `except` apart.
    fn cpu_shortage(&self, count: u32, each: u32, except: Option<u32>) -> Option<Shortage> {
        let others = || self.rows.iter().filter(|row| Some(row.vm) != except);
        let held: u64 = others().map(|row| u64::from(row.cpu_percent)).sum();
        let available_percent = self.capacity.cpu_percent().saturating_sub(held);
        if u64::from(count) * u64::from(each) <= available_percent {
            return None;
        }
        let holders = largest_first(others().map(|row| (row.name.as_str(), u64::from(row.cpu_percent))));
        Some(Shortage::Cpu { count, each_percent: each, available_percent, cpus: self.capacity.cpus, holders })
    }

    /// What lacks for `count` VMs of `each` and `overhead` bytes at this priority; what `except` holds is theirs.
    pub(super) fn memory_shortage(
        &self,
        count: u32,
        each: u64,
        overhead: u64,
        priority: u8,
        except: Option<u32>,
    ) -> Option<Shortage> {
        let keeps = |row: &Row| strategies::keeps(self.strategy, row, priority);
        let others = || self.rows.iter().filter(|row| Some(row.vm) != except);
        let tables: u64 = self.rows.iter().map(|row| row.overhead).sum();
        let held = others().map(keeps).sum::<u64>() + tables;
        let available_bytes = self.limit().saturating_sub(held);
        if u128::from(count) * (u128::from(each) + u128::from(overhead)) <= u128::from(available_bytes) {
            return None;
        }
        let holders = others().map(|row| (row.name.as_str(), keeps(row)));
        Some(Shortage::Memory {
            count,
            each_bytes: each,
            overhead_bytes: overhead,
            available_bytes,
            memory_bytes: self.capacity.memory_bytes,
            overcommit: self.overcommit,
            // No VM's name has a space in it.
            holders: largest_first(holders.chain([("host tables", tables)])),
        })
    }
}

fn largest_first<'a>(holders: impl Iterator<Item = (&'a str, u64)>) -> Vec<Holder> {
    let some = holders.filter(|(_, amount)| *amount != 0);
    let mut holders: Vec<Holder> = some.map(|(name, amount)| Holder { name: name.into(), amount }).collect();
    holders.sort_by_key(|holder| core::cmp::Reverse(holder.amount));
    holders
}

fn new_row(vm: u32, name: String, target: u64, request: &Request) -> Row {
    Row {
        vm,
        name,
        vcpus: request.vcpus,
        cpu_percent: request.cpu_reservation_percent,
        priority: request.priority,
        weight: request.weight,
        overhead: request.overhead_bytes,
        min: request.memory_min_bytes,
        target,
        max: request.memory_max_bytes,
        populated: 0,
        ballooned: 0,
        can_shrink: false,
        ceiling: target,
        owed: 0,
        promised: false,
        waiting: None,
        kept: 0,
    }
}
