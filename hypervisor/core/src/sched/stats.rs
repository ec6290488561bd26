//! What the scheduler measured, as the console shows it. Times are in host TSC ticks.

use super::histogram::Histogram;
use super::{CpuId, RunState, VcpuId};

/// How long something took, over all times that it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// How often it happened.
    pub count: u64,
    /// The sum of all.
    pub total: u64,
    /// What half of all did not exceed (at most 25 % too high).
    pub p50: u64,
    /// What 99 % of all did not exceed (at most 25 % too high).
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count(),
            total: histogram.total(),
            p50: histogram.percentile(50),
            p99: histogram.percentile(99),
            max: histogram.max(),
        }
    }
}

/// What was counted for a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuStats {
    /// What it is about.
    pub state: RunState,
    /// The CPU that it runs on, else the one where it ran last.
    pub cpu: Option<CpuId>,
    /// CPU time that it used, as accounted for.
    pub used: u64,
    /// Steal time: it was ready and did not run. Tell the guest this figure.
    pub steal: u64,
    /// How often it was picked.
    pub runs: u64,
    /// Runs that followed another vCPU's on that CPU.
    pub switches: u64,
    /// Runs on another CPU than the one before.
    pub migrations: u64,
    /// The wait before each run.
    pub waits: Latency,
    /// From a wake to the run that follows it.
    pub wakes: Latency,
}

/// What was counted for a VM: the sums over its vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmStats {
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// CPU time that they used, what runs now included.
    pub used: u64,
    /// Time that they were ready and did not run.
    pub steal: u64,
    /// How often they were picked.
    pub runs: u64,
    /// Runs that followed another vCPU's on that CPU.
    pub switches: u64,
    /// Runs on another CPU than the one before.
    pub migrations: u64,
    /// The wait before each run.
    pub waits: Latency,
    /// From a wake to the run that follows it.
    pub wakes: Latency,
    /// Time since the VM was added.
    pub age: u64,
    /// CPU time received, in millionths of one CPU, since the set of VMs, a parameter, a mask or the policy last changed.
    pub share: u64,
    /// What the closed form gives it for that window, in millionths of one CPU: by weight, cap and reservation, out of all
    /// CPUs, and no more than its vCPUs wanted (ran or were ready).
    pub due: u64,
}

/// What was counted for a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuStats {
    /// What runs on it.
    pub running: Option<VcpuId>,
    /// Time that vCPUs used of it.
    pub busy: u64,
    /// Time that it was told to idle.
    pub idle: u64,
    /// Runs of another vCPU than before.
    pub switches: u64,
}

/// Figures over all VMs that have run. With `t_i` the mean time, in seconds, from when a vCPU of VM `i` becomes ready to
/// when it has had its run (the wait and the run), and `p_i` the CPU time that the VM receives per second since it was
/// added (1 is one CPU):
///
/// - `T = (1/n) * sum of 1/t_i`: runs that a VM's vCPU could have each second, in 1/s. It is called the mean latency, and
///   falls as latencies grow.
/// - `P = (1/n) * sum of p_i`: mean throughput, in CPUs.
/// - `R = (1/n) * sum of p_i/t_i`: mean rate, in CPUs per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// `n`: VMs that have run.
    pub vms: usize,
    /// `T`, in millionths of 1/s.
    pub mean_latency: u64,
    /// `P`, in millionths of a CPU.
    pub mean_throughput: u64,
    /// `R`, in millionths of a CPU per second.
    pub mean_rate: u64,
    /// Jain's index of fairness over `x_i = share_i / due_i`, `(sum x_i)^2 / (n * sum x_i^2)`, in millionths: 1,000,000 is
    /// all alike, `1/n` is one has all. VMs that wanted nothing are left out; with none left it is 1,000,000.
    pub jain: u64,
}
