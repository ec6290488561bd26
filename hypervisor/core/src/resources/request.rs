//! What is asked for, [`Request`], and what is given, [`Grants`].

use super::Refusal;
use crate::memory::PAGE_SIZE;
use crate::sched::{PRIORITY_MAX, WEIGHT_MAX};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The most vCPUs of a VM.
pub(super) const VCPUS_MAX: u32 = 64;

/// What one VM, or each of several alike, is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The VM's name, or what the replicas' names begin with.
    pub name: String,
    /// How many VMs, called NAME-1 to NAME-N; `None` is one called NAME.
    pub replicas: Option<u32>,
    /// The vCPUs of each (1 to 64); there may be more than CPUs.
    pub vcpus: u32,
    /// The CPU reserved for each, in percent of one CPU, at most 100 for each vCPU; 0 shares by weight.
    pub cpu_reservation_percent: u32,
    /// The memory of each in bytes, its first target. All three are whole frames.
    pub memory_bytes: u64,
    /// What no strategy takes from it.
    pub memory_min_bytes: u64,
    /// What it may grow to.
    pub memory_max_bytes: u64,
    /// Whose memory may be taken back for whom (0 to [`PRIORITY_MAX`]); higher takes from lower.
    pub priority: u8,
    /// The weight of its share (1 to [`WEIGHT_MAX`]).
    pub weight: u32,
    /// What the host needs for each VM beside its memory, in bytes: its tables. Whole frames.
    pub overhead_bytes: u64,
}

impl Request {
    /// How many VMs it asks for.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.replicas.unwrap_or(1)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (1..=self.count()).map(|index| match self.replicas {
            Some(_) => format!("{}-{index}", self.name),
            None => self.name.to_string(),
        })
    }

    /// What of it is out of its range.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let invalid = |what: String| Err(Refusal::Invalid { name: self.name.clone(), what });
        if self.count() == 0 {
            return invalid("0 replicas; ask for at least 1".into());
        }
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return invalid(format!("{} vCPUs; allowed are 1 to {VCPUS_MAX}", self.vcpus));
        }
        check_cpu(&self.name, self.cpu_reservation_percent, self.vcpus)?;
        check_memory(&self.name, self.memory_min_bytes, self.memory_bytes, self.memory_max_bytes)?;
        if !self.overhead_bytes.is_multiple_of(PAGE_SIZE) {
            return invalid(format!("tables of {} bytes; they must be whole 4 KiB frames", self.overhead_bytes));
        }
        check_priority(&self.name, self.priority)?;
        check_weight(&self.name, self.weight)
    }
}

/// Whether a CPU reservation is one that `vcpus` can use.
pub(super) fn check_cpu(name: &str, percent: u32, vcpus: u32) -> Result<(), Refusal> {
    let most = vcpus * 100;
    if percent <= most {
        return Ok(());
    }
    let what = format!("{percent} % of a CPU reserved; its {vcpus} vCPUs can use at most {most} %");
    Err(Refusal::Invalid { name: name.into(), what })
}

/// Whether sizes are whole frames in the order min <= target <= max, and none is 0.
pub(super) fn check_memory(name: &str, min: u64, target: u64, max: u64) -> Result<(), Refusal> {
    let invalid = |what: String| Err(Refusal::Invalid { name: name.into(), what });
    if let Some(bytes) = [min, target, max].into_iter().find(|bytes| *bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE)) {
        return invalid(format!("memory of {bytes} bytes; it must be a multiple of 4 KiB, and not 0"));
    }
    if min > target || target > max {
        let [min, target, max] = [min, target, max].map(super::Size::from);
        return invalid(format!("memory {target}; allowed are {min} (its minimum) to {max} (its maximum)"));
    }
    Ok(())
}

/// Whether a priority is one.
pub(super) fn check_priority(name: &str, priority: u8) -> Result<(), Refusal> {
    if priority <= PRIORITY_MAX {
        return Ok(());
    }
    Err(Refusal::Invalid { name: name.into(), what: format!("priority {priority}; allowed are 0 to {PRIORITY_MAX}") })
}

/// Whether a weight is one.
pub(super) fn check_weight(name: &str, weight: u32) -> Result<(), Refusal> {
    if (1..=WEIGHT_MAX).contains(&weight) {
        return Ok(());
    }
    Err(Refusal::Invalid { name: name.into(), what: format!("weight {weight}; allowed are 1 to {WEIGHT_MAX}") })
}

/// A VM that was granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Its number.
    pub vm: u32,
    /// Its name.
    pub name: String,
    /// Its memory target in bytes.
    pub target_bytes: u64,
    /// What others are still to give back of it, in bytes; it may start when this is 0.
    pub owed_bytes: u64,
}

/// A target that changed: the VM's balloon is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetChange {
    /// The VM.
    pub vm: u32,
    /// Its name.
    pub name: String,
    /// The old target in bytes.
    pub from_bytes: u64,
    /// The new target in bytes.
    pub to_bytes: u64,
    /// How much its guest is to give back until the target is reached, in bytes; 0 if it is reached.
    pub pending_bytes: u64,
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grants {
    /// The VMs, all of those asked for.
    pub vms: Vec<Grant>,
    /// The targets of others that changed for it, in the order in which they changed.
    pub changes: Vec<TargetChange>,
}

impl Grants {
    /// Whether all of it is there, so that every one of the VMs may start.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.vms.iter().all(|grant| grant.owed_bytes == 0)
    }
}
