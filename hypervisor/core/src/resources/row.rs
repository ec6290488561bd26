//! [`Row`]: one VM in the allocator's table, and what follows from its figures.

use super::WaitReason;
use alloc::string::String;

/// A VM that waits for memory, paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    /// Its place in the line: lower is older.
    pub(super) turn: u64,
    /// What it touched, in bytes.
    pub(super) bytes: u64,
    /// Why it waits.
    pub(super) reason: WaitReason,
}

/// A VM. All memory is in bytes, whole frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) vm: u32,
    pub(super) name: String,
    pub(super) vcpus: u32,
    pub(super) cpu_percent: u32,
    pub(super) priority: u8,
    pub(super) weight: u32,
    pub(super) overhead: u64,
    pub(super) min: u64,
    pub(super) target: u64,
    pub(super) max: u64,
    /// Guest memory backed by frames.
    pub(super) populated: u64,
    /// What the guest's balloon holds: memory that it will not touch.
    pub(super) ballooned: u64,
    /// Whether the guest has a balloon driver.
    pub(super) can_shrink: bool,
    /// The target that a guest comes from whose balloon is on its way up; else the target itself.
    pub(super) ceiling: u64,
    /// What of the claim others are still to give back.
    pub(super) owed: u64,
    /// Whether the VM was owed something and nobody was told yet that it is there.
    pub(super) promised: bool,
    pub(super) waiting: Option<Waiting>,
    /// Host memory kept for the touch that the VM was paused for, from its resumption on.
    pub(super) kept: u64,
}

impl Row {
    /// What the VM is to hold in all, debts to it included.
    pub(super) fn claim(&self) -> u64 {
        self.target.max(self.populated) + self.overhead
    }

    /// What it holds in all.
    pub(super) fn reserved(&self) -> u64 {
        self.claim() - self.owed
    }

    /// What its guest is still to give back.
    pub(super) fn pending(&self) -> u64 {
        self.populated.saturating_sub(self.target)
    }

    /// The least that its target can become without anything being forced from the guest.
    pub(super) fn floor(&self) -> u64 {
        if self.can_shrink { self.min } else { self.min.max(self.populated) }
    }

    /// The claim that is left when its balloon has delivered what it is asked for.
    pub(super) fn settled_claim(&self) -> u64 {
        self.target.max(self.floor()) + self.overhead
    }

    /// Gives it a target. A raise is owed by `owed` bytes; what a lower target sets free pays debts to it first.
    pub(super) fn set_target(&mut self, target: u64) {
        let before = self.claim();
        if target < self.target && self.can_shrink {
            self.ceiling = self.ceiling.max(self.target);
        }
        self.target = target;
        if !self.can_shrink || self.ceiling < target || self.balloon_is_there() {
            self.ceiling = target;
        }
        self.owed -= self.owed.min(before.saturating_sub(self.claim()));
    }

    /// Whether the guest's balloon is as large as the target asks.
    pub(super) fn balloon_is_there(&self) -> bool {
        self.ballooned.saturating_add(self.target) >= self.max
    }

    /// Whether its memory may grow by a page of `bytes`, with `headroom` bytes that nobody has reserved.
    pub(super) fn may_populate(&self, bytes: u64, headroom: u64) -> bool {
        let Some(populated) = self.populated.checked_add(bytes) else { return false };
        let reserved = self.reserved().saturating_sub(self.overhead);
        let coming_down = self.can_shrink && self.owed == 0 && populated <= self.ceiling;
        populated <= reserved || (coming_down && populated - reserved <= headroom)
    }
}
