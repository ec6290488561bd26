//! Round robin: `T_next = T_current + T_quantum`, each vCPU with a quantum of its own.
//!
//! One queue. The head runs until its slice ends, then goes to the tail. A vCPU that the host took the CPU from before
//! that goes back to the head with the remainder. One that yields goes to the tail, one that wakes too, both with a
//! fresh slice.
//!
//! The bound: a vCPU that becomes ready gets the CPU once each other vCPU that was ready before it has used at most one
//! quantum, so after at most the sum of the others' quanta (plus what the run loop overruns a slice by). Nobody can
//! enter the queue before it: waking often does not help, and neither does being interrupted, for the remainder
//! was the interrupted one's already.

use super::{Decision, Policy, RunState, VcpuCounters, VcpuId, Why};
use alloc::collections::{BTreeMap, VecDeque};

struct Entry {
    counters: VcpuCounters,
    /// What is left of its slice.
    remaining: u64,
    /// Since when it is ready.
    ready_since: u64,
}

/// The round-robin policy.
#[derive(Default)]
pub struct RoundRobin {
    entries: BTreeMap<VcpuId, Entry>,
    /// The ready vCPUs, each once, next one first.
    queue: VecDeque<VcpuId>,
}

impl RoundRobin {
    /// The policy, without any vCPU yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new(), queue: VecDeque::new() }
    }
}

impl Entry {
    fn ready(&mut self, now: u64) {
        self.counters.state = RunState::Ready;
        self.ready_since = now;
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn add(&mut self, vcpu: VcpuId, quantum: u64) {
        let quantum = quantum.max(1);
        let counters =
            VcpuCounters { state: RunState::Blocked, quantum, runs: 0, used: 0, waits: 0, wait_total: 0, wait_max: 0 };
        let fresh = Entry { counters, remaining: quantum, ready_since: 0 };
        self.entries.entry(vcpu).or_insert(fresh).counters.quantum = quantum;
        // All can be ready at once; with room for them here, queueing on the exit path never allocates.
        self.queue.reserve(self.entries.len().saturating_sub(self.queue.len()));
    }

    fn remove(&mut self, vcpu: VcpuId) {
        self.entries.remove(&vcpu);
        self.queue.retain(|&queued| queued != vcpu);
    }

    fn set_quantum(&mut self, vcpu: VcpuId, quantum: u64) {
        if let Some(entry) = self.entries.get_mut(&vcpu) {
            entry.counters.quantum = quantum.max(1);
        }
    }

    fn wake(&mut self, vcpu: VcpuId, now: u64) {
        if let Some(entry) = self.entries.get_mut(&vcpu)
            && entry.counters.state == RunState::Blocked
        {
            entry.remaining = entry.counters.quantum;
            entry.ready(now);
            self.queue.push_back(vcpu);
        }
    }

    fn block(&mut self, vcpu: VcpuId) {
        if let Some(entry) = self.entries.get_mut(&vcpu) {
            entry.counters.state = RunState::Blocked;
            self.queue.retain(|&queued| queued != vcpu);
        }
    }

    fn pick_next(&mut self, now: u64) -> Decision {
        while let Some(vcpu) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&vcpu) else { continue };
            let waited = now.saturating_sub(entry.ready_since);
            let counters = &mut entry.counters;
            counters.state = RunState::Running;
            counters.runs += 1;
            counters.waits += 1;
            counters.wait_total = counters.wait_total.saturating_add(waited);
            counters.wait_max = counters.wait_max.max(waited);
            return Decision::Run { vcpu, until: now.saturating_add(entry.remaining) };
        }
        Decision::Idle
    }

    fn account(&mut self, vcpu: VcpuId, used: u64, why: Why, now: u64) {
        let Some(entry) = self.entries.get_mut(&vcpu) else { return };
        entry.counters.used = entry.counters.used.saturating_add(used);
        if entry.counters.state != RunState::Running {
            // Blocked while it ran, by the operator.
            return;
        }
        entry.remaining = entry.remaining.saturating_sub(used);
        match why {
            Why::Blocked => entry.counters.state = RunState::Blocked,
            Why::Preempted if entry.remaining > 0 => {
                entry.ready(now);
                self.queue.push_front(vcpu);
            }
            Why::Preempted | Why::Yielded => {
                entry.remaining = entry.counters.quantum;
                entry.ready(now);
                self.queue.push_back(vcpu);
            }
        }
    }

    fn counters(&self, vcpu: VcpuId) -> Option<VcpuCounters> {
        self.entries.get(&vcpu).map(|entry| entry.counters)
    }
}
