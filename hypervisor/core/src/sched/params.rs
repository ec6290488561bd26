//! What the operator sets of a VM's share of the CPUs.

/// The scheduling parameters of a VM. Each policy uses those that it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmParams {
    /// The time slice, in host TSC ticks (at least 1).
    pub quantum: u64,
    /// The weight of the VM's share (1 to [`WEIGHT_MAX`]).
    pub weight: u32,
    /// The most that the VM's vCPUs get together, in percent of one CPU (150 is one and a half CPUs); `None` is no limit.
    pub cap_percent: Option<u32>,
    /// What the VM's vCPUs get together at least when they want it, in percent of one CPU; 0 is nothing reserved.
    pub reservation_percent: u32,
    /// The priority (0 to [`PRIORITY_MAX`]); higher is more urgent.
    pub priority: u8,
}

/// The weight of a VM that is given none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// The greatest weight.
pub const WEIGHT_MAX: u32 = 10_000;
/// The priority of a VM that is given none.
pub const PRIORITY_DEFAULT: u8 = 50;
/// The highest priority.
pub const PRIORITY_MAX: u8 = 99;
