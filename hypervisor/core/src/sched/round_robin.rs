//! Round robin: `T_next = T_current + T_quantum`, each VM with a quantum of its own.
//!
//! One order of arrival. The first that a CPU may run gets it until its slice ends, then goes to the tail. A vCPU that
//! the host took the CPU from before that keeps its place, and with it the remainder. One that yields goes to the tail,
//! one that wakes too, both with a fresh slice.
//!
//! The bound: while a vCPU waits, each CPU of its mask runs only vCPUs that were ready or running before it, and each of
//! these for at most what is left of one quantum. So with `m` CPUs in its mask it waits at most
//!
//! `W_i <= (1/m) * sum of q_j over all other vCPUs j`
//!
//! (plus what the run loops overrun their slices by). Nobody can enter the queue before it: waking often does not help,
//! and neither does being interrupted, for the remainder was the interrupted one's already.

use super::policy::{Policy, Put, VcpuQueue, quantum_slice};
use super::table::{Slot, Table};
use super::{CpuId, PolicyKind};

/// The round-robin policy.
#[derive(Default)]
pub(super) struct RoundRobin {
    queue: VcpuQueue,
}

impl Policy for RoundRobin {
    fn kind(&self) -> PolicyKind {
        PolicyKind::RoundRobin
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
        let slot = self.queue.pick(&table.classes, cpu)?;
        Some((slot, quantum_slice(table, slot)))
    }

    fn steps(&self) -> u64 {
        self.queue.steps()
    }
}
