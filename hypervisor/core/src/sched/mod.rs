//! Who gets which CPU next, and for how long.
//!
//! [`Scheduler`] decides for all CPUs; it knows vCPUs by number and time in host TSC ticks, nothing else. Each CPU's run
//! loop asks [`Scheduler::pick_next`], runs what it is told until the tick it is told, and reports with
//! [`Scheduler::account`]. Where a call answers with a CPU, that CPU should decide anew: it is to be kicked (an IPI that
//! ends its guest's turn or its idling), account for what it ran, and ask again.
//!
//! Four policies share the table of vCPUs, the counters and this contract, so that [`Scheduler::set_policy`] can change
//! from one to another while all run:
//!
//! | policy | next is | for |
//! |---|---|---|
//! | [`PolicyKind::Fair`] | the least virtual time `v_i = used_i / w_i`, by VM | its quantum, scaled by its weight |
//! | [`PolicyKind::RoundRobin`] | the head of the queue, `T_next = T_current + T_quantum` | its VM's quantum |
//! | [`PolicyKind::Fcfs`] | who came first | until it blocks or yields |
//! | [`PolicyKind::Priority`] | the highest `priority + waited / A` | its VM's quantum |
//!
//! What it costs: ready vCPUs wait in binary heaps, one for each distinct affinity mask, and a CPU looks only at those
//! whose mask includes it. Counted on 64 CPUs with masks all alike, in comparisons and moves for a whole turn (`pick_next`,
//! `account`, now and then a `wake`), mean and greatest of 4 turns per VM:
//!
//! | VMs | fair, a tenth of them capped, a tenth reserved | the other policies |
//! |---|---|---|
//! | 10 | 4, 12 | 2, 9 |
//! | 100 | 14, 47 | 13, 16 |
//! | 1,000 | 25, 94 | 24, 28 |
//! | 10,000 | 33, 122 | 34, 40 |
//!
//! (`tests/cost.rs` holds it to `4 log2 n` and `12 log2 n`; `examples/sched_cost.rs` prints such a table with nanoseconds.)
//! A wake that finds no CPU idle looks at each CPU of its mask once more, under the policies that preempt.
//!
//! What the caller owes:
//! - all calls are made under one lock, and `now` never goes back, except that the TSCs of two CPUs may differ by a few
//!   ticks;
//! - one `account` follows every `Run` before that CPU's next `pick_next`;
//! - deciding that a vCPU has nothing to do and reporting it `Blocked` happen under the same lock as
//!   [`Scheduler::wake`], so no wake is lost between the two.
//!
//! Unknown vCPUs and VMs are ignored by every call: they may just have been removed. Only `new`, `add_vm`,
//! `set_affinity`, `set_policy` and the figures allocate.

mod classes;
mod closed_form;
mod control;
mod cpus;
mod fair;
mod fcfs;
mod figures;
mod histogram;
mod kind;
mod params;
mod policy;
mod priority;
mod queue;
mod round_robin;
mod scheduler;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod timers;

pub use closed_form::{Claim, closed_form};
pub use control::NoSuchCpu;
pub use cpus::{CpuId, CpuSet, CpuSetError, MAX_CPUS};
pub use kind::PolicyKind;
pub use params::{PRIORITY_DEFAULT, PRIORITY_MAX, VmParams, WEIGHT_DEFAULT, WEIGHT_MAX};
pub use scheduler::Scheduler;
pub use stats::{CpuStats, Latency, Summary, VcpuStats, VmStats};

/// A vCPU, by the number of its VM and its index in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuId {
    /// The VM's number; never used for another VM while this one exists.
    pub vm: u32,
    /// The vCPU's index in the VM, from 0.
    pub index: u16,
}

/// What a CPU does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Run this vCPU.
    Run {
        /// Which one.
        vcpu: VcpuId,
        /// The tick at which its time slice ends, always later than `now`; `u64::MAX` where it has no end.
        until: u64,
        /// An idle CPU that is to decide anew besides: somebody else waits, or will once a cap lets it, and this CPU, which
        /// would have seen to that, now has other things to do.
        call: Option<CpuId>,
    },
    /// Nobody may have the CPU: halt until an interrupt.
    Idle {
        /// When to ask again though nothing wakes: a VM's cap lets it run again then. Always later than `now`.
        until: Option<u64>,
    },
}

/// Why a vCPU left the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It would go on if it could: its slice ended, or the host needed the CPU before that.
    Preempted,
    /// It waits for an interrupt (HLT).
    Blocked,
    /// It gave the rest of its slice away (a loop of PAUSE: it waits for another vCPU).
    Yielded,
}

/// What the vCPU is about, as the scheduler sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Not to be run: waiting for an interrupt, paused, not started.
    Blocked,
    /// Waiting for a CPU.
    Ready,
    /// Picked, not yet accounted for.
    Running,
}

impl RunState {
    /// The state's name, as the console shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Running => "running",
        }
    }
}
