//! [`Policy`]: what one policy must answer. The [`Scheduler`](super::Scheduler) keeps states, counters and CPUs.

use super::classes::Classes;
use super::queue::{Key, Queue};
use super::table::{Slot, Table};
use super::{CpuId, PolicyKind};

/// Why a vCPU is put into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// It was blocked and has something to do.
    Woken,
    /// Its slice was cut short by the host: it keeps its place and what is left of the slice.
    Continues,
    /// Its slice is over, or it gave the rest away.
    Again,
    /// It is ready as before: the policy, its VM's parameters or its mask changed.
    Moved,
}

/// The vCPU is held back until one of the same VM leaves its CPU.
pub(super) const AFTER_A_SIBLING: u64 = u64::MAX;

/// Chooses among ready vCPUs. Never allocates but in `make_room`.
pub(super) trait Policy: Send {
    /// Which one it is.
    fn kind(&self) -> PolicyKind;

    /// Makes room for all of the table's vCPUs.
    fn make_room(&mut self, table: &Table);

    /// Queues a vCPU that is ready; its place in the order of arrival is set.
    fn put(&mut self, table: &Table, slot: Slot, how: Put, now: u64);

    /// Takes a ready vCPU out of the queue.
    fn take(&mut self, table: &Table, slot: Slot);

    /// Takes the vCPU that this CPU is to run out of the queue; with its slice in ticks, at least 1.
    fn pick(&mut self, table: &Table, cpu: CpuId, now: u64) -> Option<(Slot, u64)>;

    /// Whether a waker may take a CPU that is in use.
    fn preemptive(&self) -> bool {
        false
    }

    /// How much more urgent the ready vCPU is than what runs on `cpu`, which should be taken from it; `None` where it
    /// should not.
    fn preempts(&self, _table: &Table, _slot: Slot, _cpu: CpuId, _now: u64) -> Option<u128> {
        None
    }

    /// Whether this vCPU, whose slice is over, should take another CPU if its own has other things to do.
    fn cannot_wait(&self, _table: &Table, _slot: Slot) -> bool {
        false
    }

    /// Comparisons and moves made so far in ordered structures.
    fn steps(&self) -> u64;

    /// A vCPU left its CPU after `used` ticks.
    fn charge(&mut self, _table: &Table, _slot: Slot, _used: u64, _now: u64) {}

    /// A new VM has this place; what was known of an earlier one there is forgotten.
    fn vm_added(&mut self, _table: &Table, _vm: usize, _now: u64) {}

    /// When a vCPU that is held back now may run on this CPU.
    fn next_due(&self, _table: &Table, _cpu: CpuId) -> Option<u64> {
        None
    }

    /// Until when this ready vCPU is held back; [`AFTER_A_SIBLING`] where no time ends that.
    fn held_until(&self, _table: &Table, _slot: Slot) -> Option<u64> {
        None
    }

    /// From when on a CPU is needed for those that wait with this mask: 0 where one of them may run.
    fn wanted_from(&self, _class: usize) -> Option<u64> {
        None
    }

    /// The vCPU that may run since this one of the same VM left its CPU or the queue.
    fn heir(&self, _table: &Table, _slot: Slot) -> Option<Slot> {
        None
    }
}

/// A queue of vCPUs whose key does not change while they wait.
#[derive(Default)]
pub(super) struct VcpuQueue(Queue);

impl VcpuQueue {
    pub(super) fn make_room(&mut self, table: &Table) {
        self.0.make_room(table.vcpus.len(), &table.classes);
    }

    pub(super) fn put(&mut self, table: &Table, slot: Slot, major: u128) {
        if let Some(vcpu) = table.vcpu(slot) {
            self.0.insert(slot, vcpu.class, Key { major, minor: vcpu.place });
        }
    }

    pub(super) fn take(&mut self, slot: Slot) {
        self.0.remove(slot);
    }

    /// Takes out the first that this CPU may run.
    pub(super) fn pick(&mut self, classes: &Classes, cpu: CpuId) -> Option<Slot> {
        let (_, slot) = self.0.first_of(classes.of_cpu(cpu))?;
        self.0.remove(slot);
        Some(slot)
    }

    pub(super) const fn steps(&self) -> u64 {
        self.0.steps()
    }
}

/// The slice of a policy that gives each vCPU its VM's quantum: what is left of it, else a fresh one.
pub(super) fn quantum_slice(table: &Table, slot: Slot) -> u64 {
    let quantum = table.params_of(slot).map_or(1, |params| params.quantum);
    match table.vcpu(slot).map_or(0, |vcpu| vcpu.remaining) {
        0 => quantum,
        left => left.min(quantum),
    }
}
