//! First come, first served: whoever has been ready longest runs until it blocks. `until` has no end.
//!
//! A vCPU that the host took the CPU from keeps its place. One that yields goes to the tail: a guest's vCPU that spins on
//! a lock whose holder waits behind it would otherwise spin for ever. A vCPU that never blocks nor yields keeps its CPU;
//! that is what the policy promises, and the reason for the others.

use super::policy::{Policy, Put, VcpuQueue};
use super::table::{Slot, Table};
use super::{CpuId, PolicyKind};

/// The policy of the order of arrival.
#[derive(Default)]
pub(super) struct Fcfs {
    queue: VcpuQueue,
}

impl Policy for Fcfs {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Fcfs
    }

    fn make_room(&mut self, table: &Table) {
        self.queue.make_room(table);
    }

    fn put(&mut self, table: &Table, slot: Slot, _how: Put, _now: u64) {
        self.queue.put(table, slot, 0);
    }

    fn take(&mut self, _table: &Table, slot: Slot) {
        self.queue.take(slot);
    }

    fn pick(&mut self, table: &Table, cpu: CpuId, _now: u64) -> Option<(Slot, u64)> {
        Some((self.queue.pick(&table.classes, cpu)?, u64::MAX))
    }

    fn steps(&self) -> u64 {
        self.queue.steps()
    }
}
