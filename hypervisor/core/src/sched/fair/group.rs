//! [`Groups`]: the ready vCPUs of one VM with one affinity mask, first come first.
//!
//! A group is named by its leader's slot. The lists are links between slots, so that nothing allocates.

use crate::sched::CpuId;
use crate::sched::table::{Slot, Table};
use alloc::vec::Vec;

/// How often a group's first may be passed over for one whose caches are on the CPU that asks, and how far down the list
/// that one may be.
const PATIENCE: u8 = 1;
const REACH: usize = 4;

#[derive(Clone, Copy, Default)]
struct Link {
    before: Option<Slot>,
    after: Option<Slot>,
    listed: bool,
}

/// A group's list.
#[derive(Clone, Copy, Default)]
struct Group {
    first: Option<Slot>,
    last: Option<Slot>,
    /// How often the first was passed over.
    passed: u8,
    /// The greatest virtual time at which the group waits, however far ahead its VM is.
    limit: u128,
}

/// All groups, by leader.
#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    links: Vec<Link>,
}

impl Groups {
    pub(super) fn make_room(&mut self, slots: usize) {
        if self.links.len() < slots {
            self.links.resize(slots, Link::default());
            self.groups.resize(slots, Group::default());
        }
    }

    /// The first of a group.
    pub(super) fn first(&self, leader: Slot) -> Option<Slot> {
        self.groups.get(leader)?.first
    }

    pub(super) fn limit(&self, leader: Slot) -> u128 {
        self.groups.get(leader).map_or(u128::MAX, |group| group.limit)
    }

    pub(super) fn set_limit(&mut self, leader: Slot, limit: u128) {
        if let Some(group) = self.groups.get_mut(leader) {
            group.limit = limit;
        }
    }

    /// Lists a vCPU, at the head or the tail.
    pub(super) fn insert(&mut self, leader: Slot, slot: Slot, at_head: bool) {
        let Some(group) = self.groups.get_mut(leader) else { return };
        let link = if at_head {
            let after = group.first.replace(slot);
            group.last = group.last.or(Some(slot));
            Link { before: None, after, listed: true }
        } else {
            let before = group.last.replace(slot);
            group.first = group.first.or(Some(slot));
            Link { before, after: None, listed: true }
        };
        if let Some(before) = link.before.and_then(|slot| self.links.get_mut(slot)) {
            before.after = Some(slot);
        }
        if let Some(after) = link.after.and_then(|slot| self.links.get_mut(slot)) {
            after.before = Some(slot);
        }
        if let Some(own) = self.links.get_mut(slot) {
            *own = link;
        }
    }

    /// Takes a vCPU out. Answers whether it was listed.
    pub(super) fn remove(&mut self, leader: Slot, slot: Slot) -> bool {
        let Some(link) = self.links.get_mut(slot).filter(|link| link.listed).map(core::mem::take) else { return false };
        if let Some(before) = link.before.and_then(|slot| self.links.get_mut(slot)) {
            before.after = link.after;
        }
        if let Some(after) = link.after.and_then(|slot| self.links.get_mut(slot)) {
            after.before = link.before;
        }
        if let Some(group) = self.groups.get_mut(leader) {
            if link.before.is_none() {
                group.first = link.after;
            }
            if link.after.is_none() {
                group.last = link.before;
            }
        }
        true
    }

    /// Whether the group's first ran last on this CPU, and did not leave it by a yield.
    pub(super) fn is_warm(&self, table: &Table, leader: Slot, cpu: CpuId) -> bool {
        self.first(leader).is_some_and(|slot| is_warm(table, slot, cpu))
    }

    /// Takes out the one that this CPU is to run: the first, or one close to it that ran here last.
    pub(super) fn pick(&mut self, table: &Table, leader: Slot, cpu: CpuId) -> Option<Slot> {
        let group = self.groups.get_mut(leader)?;
        let first = group.first?;
        let mut slot = first;
        if group.passed < PATIENCE {
            let links = &self.links;
            let mut list = core::iter::successors(Some(first), |&slot| links.get(slot)?.after).take(REACH);
            slot = list.find(|&slot| is_warm(table, slot, cpu)).unwrap_or(first);
        }
        // One that goes on with its slice came to the head past the one that waits there.
        let goes_on = table.vcpu(slot).is_some_and(|vcpu| vcpu.remaining > 0);
        if slot != first {
            group.passed += 1;
        } else if !goes_on {
            group.passed = 0;
        }
        self.remove(leader, slot);
        Some(slot)
    }
}

fn is_warm(table: &Table, slot: Slot, cpu: CpuId) -> bool {
    table.vcpu(slot).is_some_and(|vcpu| vcpu.last_cpu == Some(cpu) && !vcpu.yielded)
}
