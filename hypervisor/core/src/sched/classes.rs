//! [`Classes`]: the distinct affinity masks in use.
//!
//! vCPUs with the same mask wait in the same ordered structure, and a CPU looks only at the structures whose mask
//! includes it. With few distinct masks, which is the rule, this costs a CPU as many comparisons as there are masks.

use super::{CpuId, CpuSet};
use alloc::vec::Vec;

/// One mask.
struct Class {
    mask: CpuSet,
    /// vCPUs with this mask.
    members: usize,
    /// Those of them that are ready.
    ready: usize,
}

/// The masks, by number.
pub(super) struct Classes {
    classes: Vec<Class>,
    /// For each CPU the classes with members that include it.
    by_cpu: Vec<Vec<usize>>,
    all: CpuSet,
}

impl Classes {
    pub(super) fn new(cpus: usize) -> Self {
        let mut all = CpuSet::EMPTY;
        for cpu in 0..cpus {
            all.insert(CpuId(u16::try_from(cpu).unwrap_or(u16::MAX)));
        }
        Self { classes: Vec::new(), by_cpu: (0..cpus).map(|_| Vec::new()).collect(), all }
    }

    /// The CPUs that exist.
    pub(super) const fn all(&self) -> CpuSet {
        self.all
    }

    /// How many numbers are given out.
    pub(super) fn len(&self) -> usize {
        self.classes.len()
    }

    /// Counts one more vCPU with this mask; answers the mask's number.
    pub(super) fn join(&mut self, mask: CpuSet) -> usize {
        let mask = mask.and(&self.all);
        let same = self.classes.iter().position(|class| class.members > 0 && class.mask == mask);
        let number = same.or_else(|| self.classes.iter().position(|class| class.members == 0)).unwrap_or_else(|| {
            self.classes.push(Class { mask, members: 0, ready: 0 });
            self.classes.len() - 1
        });
        if let Some(class) = self.classes.get_mut(number) {
            if class.members == 0 {
                class.mask = mask;
                for cpu in mask.iter() {
                    if let Some(list) = self.by_cpu.get_mut(usize::from(cpu.0)) {
                        list.push(number);
                    }
                }
            }
            class.members += 1;
        }
        number
    }

    /// Counts one vCPU less.
    pub(super) fn leave(&mut self, number: usize) {
        let Some(class) = self.classes.get_mut(number) else { return };
        class.members = class.members.saturating_sub(1);
        if class.members == 0 {
            self.by_cpu.iter_mut().for_each(|list| list.retain(|&other| other != number));
        }
    }

    /// The classes that a CPU looks at.
    pub(super) fn of_cpu(&self, cpu: CpuId) -> &[usize] {
        self.by_cpu.get(usize::from(cpu.0)).map_or(&[], Vec::as_slice)
    }

    /// A class's mask, of CPUs that exist.
    pub(super) fn mask(&self, number: usize) -> CpuSet {
        self.classes.get(number).map_or(CpuSet::EMPTY, |class| class.mask)
    }

    /// How many vCPUs have this mask.
    pub(super) fn members(&self, number: usize) -> usize {
        self.classes.get(number).map_or(0, |class| class.members)
    }

    /// Notes that a vCPU of the class became ready.
    pub(super) fn ready(&mut self, number: usize) {
        if let Some(class) = self.classes.get_mut(number) {
            class.ready += 1;
        }
    }

    /// Notes that a vCPU of the class is no longer ready.
    pub(super) fn unready(&mut self, number: usize) {
        if let Some(class) = self.classes.get_mut(number) {
            class.ready = class.ready.saturating_sub(1);
        }
    }

    /// How many ready vCPUs a CPU may run.
    pub(super) fn ready_for(&self, cpu: CpuId) -> usize {
        self.of_cpu(cpu).iter().filter_map(|&number| self.classes.get(number)).map(|class| class.ready).sum()
    }
}
