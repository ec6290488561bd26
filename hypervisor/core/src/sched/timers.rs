//! [`Timers`]: the timers of vCPUs that wait, ordered by time, one leftist heap per CPU.
//!
//! The heaps are threaded through a node for each vCPU (C. A. Crane, "Linear lists and priority queues as balanced binary
//! trees", 1972): any timer is set and taken away in logarithmic time, and nothing allocates once [`Timers::make_room`] was
//! called.

use super::table::Slot;
use super::{CpuId, Scheduler, VcpuId};
use alloc::vec::Vec;

/// A vCPU's timer.
#[derive(Clone, Copy, Default)]
struct Node {
    /// Host TSC at which it is due.
    at: u64,
    /// Whose heap it is in; `None` while the vCPU has none, and all else here means nothing.
    cpu: Option<CpuId>,
    parent: Option<Slot>,
    left: Option<Slot>,
    /// Its heap is no deeper to the right than to the left.
    right: Option<Slot>,
    /// Nodes on the way down, always to the right: at most the logarithm of those below.
    rank: u32,
}

/// All timers.
#[derive(Default)]
pub(super) struct Timers {
    nodes: Vec<Node>,
    /// The root of each CPU's heap: what is due first.
    roots: Vec<Option<Slot>>,
}

impl Timers {
    /// Timers on this many CPUs.
    pub(super) fn new(cpus: usize) -> Self {
        Self { nodes: Vec::new(), roots: alloc::vec![None; cpus] }
    }

    /// Room for the timers of so many vCPUs.
    pub(super) fn make_room(&mut self, vcpus: usize) {
        if self.nodes.len() < vcpus {
            self.nodes.resize(vcpus, Node::default());
        }
    }

    /// Sets a vCPU's timer, in place of the one it has. Does nothing where the CPU or the room is missing.
    pub(super) fn set(&mut self, slot: Slot, cpu: CpuId, at: u64) {
        self.clear(slot);
        let Some(&root) = self.roots.get(usize::from(cpu.0)) else { return };
        let Some(node) = self.nodes.get_mut(slot) else { return };
        *node = Node { at, cpu: Some(cpu), rank: 1, ..Node::default() };
        let root = self.merge(root, Some(slot));
        self.set_root(cpu, root);
    }

    /// Takes a vCPU's timer away, if it has one.
    pub(super) fn clear(&mut self, slot: Slot) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        let Node { cpu: Some(cpu), parent, left, right, .. } = core::mem::take(node) else { return };
        let heir = self.merge(left, right);
        self.adopt(parent, heir);
        let Some(parent) = parent else {
            self.set_root(cpu, heir);
            return;
        };
        if let Some(node) = self.nodes.get_mut(parent) {
            *if node.left == Some(slot) { &mut node.left } else { &mut node.right } = heir;
        }
        self.balance(parent);
    }

    /// The timer that is due first on a CPU.
    pub(super) fn first(&self, cpu: CpuId) -> Option<(u64, Slot)> {
        let root = (*self.roots.get(usize::from(cpu.0))?)?;
        Some((self.nodes.get(root)?.at, root))
    }

    fn set_root(&mut self, cpu: CpuId, root: Option<Slot>) {
        if let Some(place) = self.roots.get_mut(usize::from(cpu.0)) {
            *place = root;
        }
    }

    /// Makes one heap of two. Goes down their right spines only, so its depth is logarithmic.
    fn merge(&mut self, one: Option<Slot>, other: Option<Slot>) -> Option<Slot> {
        let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
        let (first, second) = if self.at(other) < self.at(one) { (other, one) } else { (one, other) };
        let right = self.nodes.get(first)?.right;
        let right = self.merge(right, Some(second));
        self.adopt(Some(first), right);
        self.nodes.get_mut(first)?.right = right;
        self.lean(first);
        Some(first)
    }

    /// What is below `slot` has changed: restores the order of ranks, up to where it holds already.
    fn balance(&mut self, slot: Slot) {
        let mut next = Some(slot);
        while let Some(slot) = next {
            if !self.lean(slot) {
                return;
            }
            next = self.nodes.get(slot).and_then(|node| node.parent);
        }
    }

    /// Has a node's deeper side to the left. Answers whether its rank is another one now.
    fn lean(&mut self, slot: Slot) -> bool {
        let Some(&Node { left, right, .. }) = self.nodes.get(slot) else { return false };
        let (left_rank, right_rank) = (self.rank(left), self.rank(right));
        let Some(node) = self.nodes.get_mut(slot) else { return false };
        if left_rank < right_rank {
            (node.left, node.right) = (right, left);
        }
        let rank = left_rank.min(right_rank) + 1;
        core::mem::replace(&mut node.rank, rank) != rank
    }

    fn adopt(&mut self, parent: Option<Slot>, child: Option<Slot>) {
        if let Some(node) = child.and_then(|child| self.nodes.get_mut(child)) {
            node.parent = parent;
        }
    }

    fn at(&self, slot: Slot) -> u64 {
        self.nodes.get(slot).map_or(u64::MAX, |node| node.at)
    }

    fn rank(&self, slot: Option<Slot>) -> u32 {
        slot.and_then(|slot| self.nodes.get(slot)).map_or(0, |node| node.rank)
    }
}

impl Scheduler {
    /// Sets the timer for which a vCPU waits on this CPU, in place of the one it has, or takes that away. `at`: host TSC.
    pub fn set_timer(&mut self, vcpu: VcpuId, cpu: CpuId, at: Option<u64>) {
        let Some(slot) = self.table.slot(vcpu) else { return };
        match at {
            Some(at) => self.timers.set(slot, cpu, at),
            None => self.timers.clear(slot),
        }
    }

    /// The timer that is due first on a CPU: its host TSC, and the vCPU that waits for it. It stays set until the vCPU is woken.
    #[must_use]
    pub fn next_timer(&self, cpu: CpuId) -> Option<(u64, VcpuId)> {
        let (at, slot) = self.timers.first(cpu)?;
        Some((at, self.table.vcpu(slot)?.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CPUS: u16 = 3;
    const SLOTS: usize = 40;

    /// The order of times and of ranks, from a node downwards; answers with how many nodes there are.
    fn check(timers: &Timers, slot: Option<Slot>, parent: Option<Slot>, cpu: CpuId) -> usize {
        let Some(slot) = slot else { return 0 };
        let node = timers.nodes[slot];
        assert_eq!((node.cpu, node.parent), (Some(cpu), parent));
        assert!(parent.is_none_or(|parent| timers.nodes[parent].at <= node.at), "a child is due before its parent");
        let (left, right) = (timers.rank(node.left), timers.rank(node.right));
        assert!(left >= right && node.rank == right + 1, "ranks {left} and {right} below {}", node.rank);
        1 + check(timers, node.left, Some(slot), cpu) + check(timers, node.right, Some(slot), cpu)
    }

    proptest! {
        /// Against a plain list, whatever is set, moved and taken away.
        #[test]
        fn the_first_is_the_earliest(
            steps in prop::collection::vec((0..SLOTS, 0..CPUS, prop::option::weighted(0.7, 0..50_u64)), 1..400),
        ) {
            let mut timers = Timers::new(usize::from(CPUS));
            timers.make_room(SLOTS);
            let mut model = [None; SLOTS];
            for (slot, cpu, at) in steps {
                let cpu = CpuId(cpu);
                match at {
                    Some(at) => timers.set(slot, cpu, at),
                    None => timers.clear(slot),
                }
                model[slot] = at.map(|at| (cpu, at));
                for cpu in (0..CPUS).map(CpuId) {
                    let of_cpu = model.iter().flatten().filter(|(on, _)| *on == cpu);
                    prop_assert_eq!(timers.first(cpu).map(|(at, _)| at), of_cpu.clone().map(|(_, at)| *at).min());
                    prop_assert_eq!(check(&timers, timers.roots[usize::from(cpu.0)], None, cpu), of_cpu.count());
                }
            }
        }
    }

    #[test]
    fn timers_that_come_in_rising_order_make_no_deep_spine() {
        let mut timers = Timers::new(1);
        timers.make_room(1000);
        for slot in 0..1000 {
            timers.set(slot, CpuId(0), slot as u64);
        }
        assert!(timers.rank(timers.roots[0]) <= 10);
        for slot in 0..1000 {
            assert_eq!(timers.first(CpuId(0)), Some((slot as u64, slot)));
            timers.clear(slot);
        }
        assert_eq!(timers.first(CpuId(0)), None);
    }

    #[test]
    fn what_does_not_exist_has_no_timer() {
        let mut timers = Timers::new(1);
        timers.set(0, CpuId(0), 5);
        timers.make_room(1);
        timers.set(0, CpuId(1), 5);
        timers.set(1, CpuId(0), 5);
        timers.clear(7);
        assert_eq!((timers.first(CpuId(0)), timers.first(CpuId(1))), (None, None));
    }
}
