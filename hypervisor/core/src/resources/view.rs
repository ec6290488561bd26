//! What the console shows of the allocator: plain data.

use super::{Allocator, Strategy};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How much of a resource there is and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UsageView {
    /// What there is.
    pub capacity: u64,
    /// What may be reserved: for memory, the capacity times the overcommit.
    pub limit: u64,
    /// What is reserved, for memory with the host's tables.
    pub reserved: u64,
    /// What could be reserved by a request that takes nothing back.
    pub available: u64,
}

/// A VM in [`ResourcesView`]. Memory is in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmResourcesView {
    /// Its number.
    pub vm: u32,
    /// Its name.
    pub name: String,
    /// What no strategy takes from it.
    pub min_bytes: u64,
    /// What it is to have.
    pub target_bytes: u64,
    /// What it may grow to.
    pub max_bytes: u64,
    /// What is backed by frames.
    pub populated_bytes: u64,
    /// What its balloon holds.
    pub ballooned_bytes: u64,
    /// What it has reserved, the host's tables for it included.
    pub reserved_bytes: u64,
    /// The host's tables for it.
    pub overhead_bytes: u64,
    /// What its guest is still to give back.
    pub pending_bytes: u64,
    /// What others are still to give back to it.
    pub owed_bytes: u64,
    /// Whether its guest has a balloon driver.
    pub can_shrink: bool,
    /// The CPU it has reserved, in percent of one.
    pub cpu_reservation_percent: u32,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its priority.
    pub priority: u8,
    /// Its weight.
    pub weight: u32,
    /// Why it waits for memory, if it does.
    pub waiting: Option<String>,
}

/// The allocator at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourcesView {
    /// The strategy.
    pub strategy: Strategy,
    /// How much memory may be reserved, in percent of what there is.
    pub overcommit_percent: u32,
    /// CPU, in percent of one.
    pub cpu: UsageView,
    /// Memory, in bytes.
    pub memory: UsageView,
    /// Guest memory that is backed by frames, in bytes.
    pub populated_bytes: u64,
    /// The VMs, by number.
    pub vms: Vec<VmResourcesView>,
}

impl Allocator {
    /// What is held by whom.
    #[must_use]
    pub fn view(&self) -> ResourcesView {
        let cpu_capacity = self.capacity.cpu_percent();
        let cpu_reserved = self.rows.iter().map(|row| u64::from(row.cpu_percent)).sum();
        let row_view = |row: &super::row::Row| VmResourcesView {
            vm: row.vm,
            name: row.name.clone(),
            min_bytes: row.min,
            target_bytes: row.target,
            max_bytes: row.max,
            populated_bytes: row.populated,
            ballooned_bytes: row.ballooned,
            reserved_bytes: row.reserved(),
            overhead_bytes: row.overhead,
            pending_bytes: row.pending(),
            owed_bytes: row.owed,
            can_shrink: row.can_shrink,
            cpu_reservation_percent: row.cpu_percent,
            vcpus: row.vcpus,
            priority: row.priority,
            weight: row.weight,
            waiting: row.waiting.map(|waiting| waiting.reason.to_string()),
        };
        ResourcesView {
            strategy: self.strategy,
            overcommit_percent: self.overcommit.percent(),
            cpu: UsageView {
                capacity: cpu_capacity,
                limit: cpu_capacity,
                reserved: cpu_reserved,
                available: cpu_capacity.saturating_sub(cpu_reserved),
            },
            memory: UsageView {
                capacity: self.capacity.memory_bytes,
                limit: self.limit(),
                reserved: self.sums.reserved,
                available: self.unclaimed(),
            },
            populated_bytes: self.rows.iter().map(|row| row.populated).sum(),
            vms: self.rows.iter().map(row_view).collect(),
        }
    }
}
