//! Who gets the CPU next, and for how long.
//!
//! A [`Policy`] decides; it knows vCPUs by number and time in host TSC ticks, nothing else. The run loop asks
//! [`Policy::pick_next`], runs what it is told until the tick it is told, and reports with [`Policy::account`].
//! [`RoundRobin`] is `T_next = T_current + T_quantum`.
//!
//! What the caller owes a policy:
//! - `now` never goes back;
//! - of each CPU's picks, one `account` follows every `Run` before the next `pick_next`;
//! - deciding that a vCPU has nothing to do and reporting it `Blocked` happen under the same lock as [`Policy::wake`],
//!   so no wake is lost between the two.

mod cpus;
mod kind;
mod params;
mod round_robin;
#[cfg(test)]
mod tests;

pub use cpus::{CpuId, CpuSet, CpuSetError, MAX_CPUS};
pub use kind::PolicyKind;
pub use params::{PRIORITY_DEFAULT, PRIORITY_MAX, VmParams, WEIGHT_DEFAULT, WEIGHT_MAX};
pub use round_robin::RoundRobin;

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
        /// The tick at which its time slice ends, always later than `now`.
        until: u64,
    },
    /// Nobody wants the CPU: halt until an interrupt.
    Idle,
}

/// Why a vCPU left the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It would go on if it could: its slice ended, or the host needed the CPU before that.
    Preempted,
    /// It waits for an interrupt (HLT).
    Blocked,
    /// It gave the rest of its slice away.
    Yielded,
}

/// What the vCPU is about, as its policy sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// Not to be run: waiting for an interrupt, paused, not started.
    Blocked,
    /// Waiting for the CPU.
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

/// What a policy has counted for one vCPU. All times are in host TSC ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuCounters {
    /// What it is about.
    pub state: RunState,
    /// Its time slice.
    pub quantum: u64,
    /// How often it was picked.
    pub runs: u64,
    /// Time that it used.
    pub used: u64,
    /// How often it had to wait for the CPU: every run is preceded by one wait, of 0 or more ticks.
    pub waits: u64,
    /// The sum of these waits.
    pub wait_total: u64,
    /// The longest of them.
    pub wait_max: u64,
}

/// Chooses among vCPUs. Unknown vCPUs are ignored by every call: they may just have been removed.
pub trait Policy: Send {
    /// The policy's name, as the console shows it.
    fn name(&self) -> &'static str;

    /// Takes a vCPU in, blocked, with a time slice of `quantum` ticks (at least 1). One that is there already keeps its
    /// counters and its place, and gets the quantum.
    fn add(&mut self, vcpu: VcpuId, quantum: u64);

    /// Forgets a vCPU; it is not picked again.
    fn remove(&mut self, vcpu: VcpuId);

    /// Changes a vCPU's time slice, from its next slice on.
    fn set_quantum(&mut self, vcpu: VcpuId, quantum: u64);

    /// A blocked vCPU has something to do: it is queued. Does nothing to one that is ready or running.
    fn wake(&mut self, vcpu: VcpuId, now: u64);

    /// A vCPU is not to run for now (its VM was paused or stopped). One that is running is not queued again when it is
    /// accounted for.
    fn block(&mut self, vcpu: VcpuId);

    /// Who runs next, from `now` on.
    fn pick_next(&mut self, now: u64) -> Decision;

    /// The vCPU that was picked has left the CPU at `now` after using `used` ticks of it.
    fn account(&mut self, vcpu: VcpuId, used: u64, why: Why, now: u64);

    /// What was counted for a vCPU.
    fn counters(&self, vcpu: VcpuId) -> Option<VcpuCounters>;
}
