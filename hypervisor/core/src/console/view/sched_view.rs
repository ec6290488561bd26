//! What `sched` shows: the policy, each VM's share against its due, its waits, and the CPUs.

use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// `sched`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SchedView {
    /// The policy's name.
    pub policy: String,
    /// The time that the figures are of.
    pub measured_us: u64,
    /// The VMs.
    pub vms: Vec<SchedRow>,
    /// The CPUs in use.
    pub cpus: Vec<CpuRow>,
    /// The figures over all VMs: T, P and R.
    pub figures: Vec<FigureRow>,
    /// Jain's index of the shares against what is due, in millionths: 1000000 is perfectly fair. Null without shares.
    pub jain_millionths: Option<u32>,
}

/// A VM in `sched`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SchedRow {
    /// The VM's name.
    pub vm: String,
    /// Its state.
    pub state: &'static str,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The weight of its share.
    pub weight: u32,
    /// The most that it gets, in percent of one CPU; null is no limit.
    pub cap_percent: Option<u32>,
    /// What it gets at least, in percent of one CPU.
    pub reservation_percent: u32,
    /// Its priority, 0 to 99.
    pub priority: u8,
    /// Its time slice.
    pub quantum_us: u64,
    /// The CPU time that it used.
    pub cpu_time_us: u64,
    /// What it got of the measured time, in thousandths of one CPU.
    pub share_millicpu: u64,
    /// What was due to it by the policy; null where the policy promises nothing.
    pub due_millicpu: Option<u64>,
    /// How long its vCPUs waited for a CPU once they could run.
    pub wait: Latency,
    /// How long they waited after an interrupt had woken them.
    pub wakeup: Latency,
    /// How often one of them was put on a CPU that another vCPU had.
    pub switches: u64,
    /// How often one of them was put on another CPU than its last one.
    pub migrations: u64,
    /// How long its vCPUs could have run and another one did, all together.
    pub steal_us: u64,
}

/// How waits are distributed, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// Half of them were no longer.
    pub p50_ns: u64,
    /// 99 of 100 were no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// A CPU of the machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuRow {
    /// Its number; 0 booted.
    pub cpu: u16,
    /// The ID of its local APIC.
    pub apic_id: u32,
    /// How long it ran vCPUs, their exits included.
    pub busy_us: u64,
    /// How long it was halted.
    pub idle_us: u64,
    /// How often another vCPU than the last one was put on it.
    pub switches: u64,
    /// What runs on it, as `NAME/VCPU`.
    pub running: Option<String>,
}

/// A figure over all VMs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FigureRow {
    /// Its symbol, `T`, `P` or `R`.
    pub symbol: &'static str,
    /// Its value, in thousandths of the unit.
    pub value_thousandths: u64,
    /// Its unit.
    pub unit: &'static str,
    /// Its formula and what stands in it, in words.
    pub about: &'static str,
}
