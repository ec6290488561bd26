//! Priority with ageing: the highest `p_i + waited_i / A` runs, for its VM's quantum.
//!
//! `A` is [`ageing_step`]: 10 ms for each level. All that wait age at the same speed, so who is before whom does not
//! change while they wait, and the key `K_i = s_i + (P - p_i) * A` (`s_i`: when it was queued, `P`: the highest priority)
//! orders them once and for all; the least is next. Where keys are equal, who came first.
//!
//! A vCPU that wakes takes the CPU from a running one whose key is greater: of all CPUs that it may use, from the one
//! with the greatest. The interrupted one keeps its key and the remainder of its slice; one whose slice is over, or that
//! yields, is queued anew and ages from 0.
//!
//! The bound: from `s_i + (P - p_i) * A` on nobody can be queued before it, and everyone who is before it then has at
//! most one quantum left. So with `m` CPUs in its mask it waits at most
//!
//! `W_i <= (P - p_i) * A + (1/m) * sum of q_j over all other vCPUs j`
//!
//! which is finite for all: nobody starves. A waker with a priority above all others runs at once (after the kick), unless
//! others have waited so long that they passed it: even then after at most the second term, for its own first one is
//! `(P - p_i) * A = 0` when `p_i = P`.

use super::policy::{Policy, Put, VcpuQueue, quantum_slice};
use super::table::{Slot, Table};
use super::{CpuId, PRIORITY_MAX, PolicyKind};

/// The policy of priorities.
#[derive(Default)]
pub(super) struct Priority {
    queue: VcpuQueue,
}

/// How long one waits to rise by one level, in ticks: 10 ms.
pub(super) const fn ageing_step(tsc_hz: u64) -> u64 {
    let step = tsc_hz / 100;
    if step == 0 { 1 } else { step }
}

/// What orders the vCPUs; less is sooner.
fn key(table: &Table, slot: Slot) -> u128 {
    let below = table.params_of(slot).map_or(PRIORITY_MAX, |params| PRIORITY_MAX.saturating_sub(params.priority));
    let placed_at = table.vcpu(slot).map_or(0, |vcpu| vcpu.placed_at);
    u128::from(placed_at) + u128::from(below) * u128::from(ageing_step(table.tsc_hz))
}

impl Policy for Priority {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Priority
    }

    fn make_room(&mut self, table: &Table) {
        self.queue.make_room(table);
    }

    fn put(&mut self, table: &Table, slot: Slot, _how: Put, _now: u64) {
        self.queue.put(table, slot, key(table, slot));
    }

    fn take(&mut self, _table: &Table, slot: Slot) {
        self.queue.take(slot);
    }

    fn pick(&mut self, table: &Table, cpu: CpuId, _now: u64) -> Option<(Slot, u64)> {
        let slot = self.queue.pick(&table.classes, cpu)?;
        Some((slot, quantum_slice(table, slot)))
    }

    fn preemptive(&self) -> bool {
        true
    }

    fn preempts(&self, table: &Table, slot: Slot, cpu: CpuId, _now: u64) -> Option<u128> {
        let running = table.cpu(cpu)?.running?;
        key(table, running).checked_sub(key(table, slot)).filter(|margin| *margin > 0)
    }

    fn steps(&self) -> u64 {
        self.queue.steps()
    }
}
