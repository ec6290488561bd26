//! Pages touched, pages backed, and the line of those who wait for memory.

use super::row::Waiting;
use super::{Allocator, Overcommit, Size};
use crate::memory::PAGE_SIZE;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The answer to a touch of a page that is not backed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// Back it, and say so with [`Allocator::measured`] before anybody else touches anything.
    Back,
    /// Pause the VM until [`Allocator::memory_came_back`] names it, and report why.
    Wait(WaitReason),
}

/// Why a VM has to wait for memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitReason {
    /// It has all it is to have.
    BeyondTarget {
        /// Its target in bytes.
        target_bytes: u64,
    },
    /// Others are still to give back what it touched.
    Owed {
        /// How much, in bytes.
        owed_bytes: u64,
    },
    /// The host has no memory left for it.
    HostMemory {
        /// What is free for it, in bytes.
        free_bytes: u64,
    },
    /// There is no such VM.
    Unknown,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondTarget { target_bytes } => {
                write!(f, "it touched memory beyond its {}; set its memory higher", Size::from(*target_bytes))
            }
            Self::Owed { owed_bytes } => {
                write!(f, "it touched memory of which others are still to give back {}", Size::from(*owed_bytes))
            }
            Self::HostMemory { free_bytes } => {
                let free = Size::from(*free_bytes);
                write!(f, "the host's memory is used up ({free} left); stop or shrink a VM, and it goes on")
            }
            Self::Unknown => f.write_str("it is not known to the allocator"),
        }
    }
}

/// A VM that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingVm {
    /// Its number.
    pub vm: u32,
    /// Its name.
    pub name: String,
    /// What it touched, in bytes.
    pub bytes: u64,
    /// Why it waits.
    pub reason: WaitReason,
}

/// Who can go on now that memory came back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Back {
    /// The paused VMs to resume, in this order. What they were paused for is kept for them.
    pub resume: Vec<u32>,
    /// The VMs that have now got all that was owed to them.
    pub ready: Vec<u32>,
}

impl Allocator {
    /// A VM touches a page of `bytes` that is not backed, and the host has `free_host_bytes`. Ask for a page of 4 KiB
    /// before pausing a VM for a larger one. Allocates nothing.
    pub fn touch(&mut self, vm: u32, bytes: u64, free_host_bytes: u64) -> Touch {
        let Some(row) = self.row(vm) else { return Touch::Wait(WaitReason::Unknown) };
        let free_bytes = free_host_bytes.saturating_sub(self.sums.kept - row.kept);
        let reason = if !row.may_populate(bytes, self.headroom()) {
            match row.owed {
                0 => WaitReason::BeyondTarget { target_bytes: row.target },
                owed_bytes => WaitReason::Owed { owed_bytes },
            }
        } else if bytes > free_bytes {
            WaitReason::HostMemory { free_bytes }
        } else {
            return Touch::Back;
        };
        let next_turn = self.next_turn;
        self.change(vm, |row| {
            // Another of its vCPUs may have been first: then it has its place already.
            let turn = row.waiting.map_or(next_turn, |waiting| waiting.turn);
            row.waiting = Some(Waiting { turn, bytes, reason });
            row.kept = 0;
        });
        self.next_turn += 1;
        Touch::Wait(reason)
    }

    /// A VM has `bytes` of frames now: more, as [`Allocator::granted_bytes`] or [`Allocator::touch`] allowed, or less, since its
    /// balloon gave some back. Allocates nothing.
    pub fn measured(&mut self, vm: u32, bytes: u64) {
        self.change(vm, |row| {
            row.kept = row.kept.saturating_sub(bytes.saturating_sub(row.populated));
            row.populated = bytes;
        });
        self.settle();
    }

    /// How much of a VM's memory may be backed without asking again, in bytes. Of what nobody has reserved, each VM that is on
    /// its way down to a lower target may count on an equal part.
    #[must_use]
    pub fn granted_bytes(&self, vm: u32) -> Option<u64> {
        let row = self.row(vm)?;
        let reserved = row.reserved().saturating_sub(row.overhead);
        let comes_down = |row: &super::row::Row| row.can_shrink && row.owed == 0 && row.ceiling > row.target;
        if !comes_down(row) {
            return Some(reserved);
        }
        let sharers = self.rows.iter().filter(|row| comes_down(row)).count().max(1) as u64;
        let part = self.headroom() / sharers / PAGE_SIZE * PAGE_SIZE;
        Some(row.ceiling.min(reserved + part).max(reserved))
    }

    /// Who can go on: to be asked after anything that may have given memory back, with what the host has free now.
    ///
    /// Host memory goes to the line's oldest first: who does not fit holds up those behind. A VM beyond its target holds
    /// up nobody.
    pub fn memory_came_back(&mut self, free_host_bytes: u64) -> Back {
        let mut line: Vec<(Waiting, u32)> =
            self.rows.iter().filter_map(|row| row.waiting.map(|waiting| (waiting, row.vm))).collect();
        line.sort_unstable_by_key(|(waiting, _)| waiting.turn);
        let mut free = free_host_bytes.saturating_sub(self.sums.kept);
        let mut headroom = self.headroom();
        let mut host_is_full = false;
        let mut resume = Vec::new();
        for (waiting, vm) in line {
            let Some(row) = self.row(vm) else { continue };
            if !row.may_populate(waiting.bytes, headroom) {
                continue;
            }
            if host_is_full || waiting.bytes > free {
                host_is_full = true;
                let reason = WaitReason::HostMemory { free_bytes: free };
                self.change(vm, |row| row.waiting = Some(Waiting { reason, ..waiting }));
                continue;
            }
            free -= waiting.bytes;
            headroom -= (row.populated + waiting.bytes + row.overhead).saturating_sub(row.reserved());
            // Without overcommit there is always host memory for what is reserved.
            let kept = if self.overcommit == Overcommit::NONE { 0 } else { waiting.bytes };
            self.change(vm, |row| (row.waiting, row.kept) = (None, kept));
            resume.push(vm);
        }
        let ready: Vec<u32> = self.rows.iter().filter(|row| row.promised && row.owed == 0).map(|row| row.vm).collect();
        for vm in &ready {
            self.change(*vm, |row| row.promised = false);
        }
        Back { resume, ready }
    }

    /// The operator resumed a VM that waits: it leaves the line, and gets a new place if it still has to wait.
    pub fn resumed(&mut self, vm: u32) {
        self.change(vm, |row| row.waiting = None);
    }

    /// Those who wait for memory, oldest first.
    #[must_use]
    pub fn waiting(&self) -> Vec<WaitingVm> {
        let mut rows: Vec<_> = self.rows.iter().filter_map(|row| row.waiting.map(|waiting| (waiting, row))).collect();
        rows.sort_unstable_by_key(|(waiting, _)| waiting.turn);
        let waiting_vm = |(waiting, row): (Waiting, &super::row::Row)| WaitingVm {
            vm: row.vm,
            name: row.name.clone(),
            bytes: waiting.bytes,
            reason: waiting.reason,
        };
        rows.into_iter().map(waiting_vm).collect()
    }
}
