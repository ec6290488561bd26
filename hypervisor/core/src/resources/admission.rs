//! Admission: what is granted and what is refused.

use super::refusal::{Holder, Refusal, Shortage};
use super::row::Row;
use super::{Allocator, Grant, Grants, Request, Strategy, strategies};
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

impl Allocator {
    /// Grants all that is asked for, or nothing. The VMs get the numbers from `first_vm` on.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub fn request(&mut self, request: &Request, first_vm: u32) -> Result<Grants, Refusal> {
        request.check()?;
        let asked = strategies::asked(self.strategy, request);
        let ask = MemoryAsk {
            count: request.count(),
            each: asked,
            overhead: request.overhead_bytes,
            priority: request.priority,
            strategy: self.strategy,
        };
        let cpu = self.cpu_shortage(request.count(), request.cpu_reservation_percent, None);
        let shortages: Vec<Shortage> = cpu.into_iter().chain(self.memory_shortage(&ask, None)).collect();
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

    /// Whether all that a VM was granted is there, so that it can be started.
    ///
    /// # Errors
    /// [`Refusal::Owed`] with who is to give back the rest, or [`Refusal::Unknown`].
    pub fn may_start(&self, vm: u32) -> Result<(), Refusal> {
        let row = self.row(vm).ok_or(Refusal::Unknown { vm })?;
        if row.owed == 0 {
            return Ok(());
        }
        let pending = self.rows.iter().map(|row| (row.name.as_str(), row.pending()));
        Err(Refusal::Owed { name: row.name.clone(), owed_bytes: row.owed, from: largest_first(pending) })
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
    pub(super) fn cpu_shortage(&self, count: u32, each: u32, except: Option<u32>) -> Option<Shortage> {
        let others = || self.rows.iter().filter(|row| Some(row.vm) != except);
        let held: u64 = others().map(|row| u64::from(row.cpu_percent)).sum();
        let available_percent = self.capacity.cpu_percent().saturating_sub(held);
        if u64::from(count) * u64::from(each) <= available_percent {
            return None;
        }
        let holders = largest_first(others().map(|row| (row.name.as_str(), u64::from(row.cpu_percent))));
        Some(Shortage::Cpu { count, each_percent: each, available_percent, cpus: self.capacity.cpus, holders })
    }

    /// What of the memory asked for lacks; what `except` holds is its own.
    pub(super) fn memory_shortage(&self, ask: &MemoryAsk, except: Option<u32>) -> Option<Shortage> {
        let keeps = |row: &Row| strategies::keeps(ask.strategy, row, ask.priority);
        let others = || self.rows.iter().filter(|row| Some(row.vm) != except);
        let tables: u64 = self.rows.iter().map(|row| row.overhead).sum();
        let held = others().map(keeps).sum::<u64>() + tables;
        let available_bytes = self.limit().saturating_sub(held);
        if ask.total() <= u128::from(available_bytes) {
            return None;
        }
        let holders = others().map(|row| (row.name.as_str(), keeps(row)));
        Some(Shortage::Memory {
            count: ask.count,
            each_bytes: ask.each,
            overhead_bytes: ask.overhead,
            available_bytes,
            memory_bytes: self.capacity.memory_bytes,
            overcommit: self.overcommit,
            // No VM's name has a space in it.
            holders: largest_first(holders.chain([("host tables", tables)])),
        })
    }
}

/// Memory that is asked for.
pub(super) struct MemoryAsk {
    /// For how many VMs.
    pub(super) count: u32,
    /// For each of them, in bytes.
    pub(super) each: u64,
    /// The host's tables for each, in bytes.
    pub(super) overhead: u64,
    /// Their priority.
    pub(super) priority: u8,
    /// Who decides.
    pub(super) strategy: Strategy,
}

impl MemoryAsk {
    fn total(&self) -> u128 {
        u128::from(self.count) * (u128::from(self.each) + u128::from(self.overhead))
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
