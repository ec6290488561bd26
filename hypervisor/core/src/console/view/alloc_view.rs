//! What `alloc` shows: what there is of CPUs and memory, what is promised, what is used, and who waits.

use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// `alloc`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AllocView {
    /// The strategy's name.
    pub strategy: String,
    /// How much memory may be promised, in percent of what there is.
    pub overcommit_percent: u32,
    /// The CPUs.
    pub cpu: CpuResource,
    /// The memory.
    pub memory: MemoryResource,
    /// The VMs.
    pub vms: Vec<AllocRow>,
    /// The VMs that wait for memory.
    pub waiting: Vec<WaitingRow>,
}

/// The CPUs as a resource, in percent of one CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CpuResource {
    /// What there is: 100 for each CPU in use.
    pub capacity_percent: u64,
    /// What VMs have reserved.
    pub reserved_percent: u64,
    /// What VMs used lately.
    pub used_percent: u64,
}

/// The memory as a resource.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemoryResource {
    /// What there is for VMs.
    pub capacity_bytes: u64,
    /// What may be promised to VMs: the capacity times the overcommit.
    pub limit_bytes: u64,
    /// What is promised to VMs.
    pub reserved_bytes: u64,
    /// What VMs hold.
    pub used_bytes: u64,
}

/// A VM in `alloc`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AllocRow {
    /// The VM's name.
    pub vm: String,
    /// Its state.
    pub state: &'static str,
    /// Its priority, 0 to 99.
    pub priority: u8,
    /// The least memory that it keeps.
    pub min_bytes: u64,
    /// The memory that it is to have now.
    pub target_bytes: u64,
    /// The most memory that it can be given.
    pub max_bytes: u64,
    /// The guest memory that is backed by host frames.
    pub populated_bytes: u64,
    /// The memory that is promised to it.
    pub reserved_bytes: u64,
    /// The CPU time that is promised to it, in percent of one CPU.
    pub cpu_reserved_percent: u32,
}

/// A VM that waits for memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WaitingRow {
    /// The VM's name.
    pub vm: String,
    /// The memory without which it cannot go on.
    pub needed_bytes: u64,
    /// How long it has waited.
    pub waited_us: u64,
}
