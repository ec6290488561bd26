//! The order in which VMs start: what each comes after, then `order`, then the place in the file.
//!
//! Names and groups are nodes of one graph: a VM waits for the names in its `after`, a group for its members. The
//! graph is walked from what waits for nothing (Kahn's algorithm), always taking the VM with the least `order`, so the
//! result is the same every time and costs `O((V + E) log V)`.

use super::{VmConfig, nearest};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

/// What is wrong with several VMs together. The texts do not name the VM that they concern.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SetError {
    /// Two VMs of one name.
    #[error("the name {name} is taken by another VM; give each VM its own")]
    NameTaken {
        /// The later VM.
        vm: usize,
        /// The name.
        name: String,
    },
    /// A group that is called as a VM is.
    #[error("group {group} has the name of a VM; give it another")]
    GroupIsVm {
        /// The VM in the group.
        vm: usize,
        /// The group.
        group: String,
    },
    /// A name in `after` that nobody has.
    #[error("after {name}: no VM and no group has this name{hint}")]
    Unknown {
        /// The VM with that `after`.
        vm: usize,
        /// The name.
        name: String,
        /// What was meant perhaps.
        hint: String,
    },
    /// VMs that wait for each other.
    #[error("{circle}: this is a circle; take one of them out")]
    Circle {
        /// The first VM of the circle.
        vm: usize,
        /// `a after b after a`.
        circle: String,
    },
}

impl SetError {
    /// The index of the VM that the error is about.
    #[must_use]
    pub const fn vm(&self) -> usize {
        match self {
            Self::NameTaken { vm, .. }
            | Self::GroupIsVm { vm, .. }
            | Self::Unknown { vm, .. }
            | Self::Circle { vm, .. } => *vm,
        }
    }
}

/// Whether these VMs, replicas expanded, can be together: names are unique, groups are not called as VMs are, and what
/// `after` names is there and makes no circle. To be asked before a VM is added and before one is taken away.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_set(vms: &[VmConfig]) -> Result<(), SetError> {
    Graph::new(vms)?.order().map(|_| ())
}

/// The VMs of `wanted` and all that they come after, directly or not, in the order in which to start them; those that
/// `runs` says are running are left out, with all that only they come after.
///
/// # Errors
/// As [`check_set`].
pub fn start_order(
    vms: &[VmConfig],
    wanted: impl IntoIterator<Item = usize>,
    runs: impl Fn(usize) -> bool,
) -> Result<Vec<usize>, SetError> {
    let graph = Graph::new(vms)?;
    let order = graph.order()?;
    let mut needed: BTreeSet<usize> = BTreeSet::new();
    let mut open: Vec<usize> = wanted.into_iter().collect();
    while let Some(node) = open.pop() {
        let is_vm = node < vms.len();
        if !(is_vm && runs(node)) && needed.insert(node) {
            open.extend(graph.before.get(node).into_iter().flatten());
        }
    }
    Ok(order.into_iter().filter(|vm| needed.contains(vm)).collect())
}

/// VMs, by their index, and behind them the groups.
struct Graph<'a> {
    vms: &'a [VmConfig],
    groups: Vec<&'a str>,
    /// For each node, the nodes that come before it.
    before: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(vms: &'a [VmConfig]) -> Result<Self, SetError> {
        let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, vm) in vms.iter().enumerate() {
            if nodes.insert(&vm.name, index).is_some() {
                return Err(SetError::NameTaken { vm: index, name: vm.name.clone() });
            }
        }
        let mut graph = Self { vms, groups: Vec::new(), before: alloc::vec![Vec::new(); vms.len()] };
        for (index, vm) in vms.iter().enumerate() {
            let Some(group) = &vm.group else { continue };
            let node = *nodes.entry(group).or_insert(vms.len() + graph.groups.len());
            if node < vms.len() {
                return Err(SetError::GroupIsVm { vm: index, group: group.clone() });
            }
            if node == graph.before.len() {
                graph.groups.push(group);
                graph.before.push(Vec::new());
            }
            graph.add(node, index);
        }
        for (index, vm) in vms.iter().enumerate() {
            for name in &vm.after {
                let node = nodes.get(name.as_str()).copied().ok_or_else(|| SetError::Unknown {
                    vm: index,
                    name: name.clone(),
                    hint: nearest(name, nodes.keys().copied())
                        .map_or_else(String::new, |near| format!("; did you mean {near}?")),
                })?;
                graph.add(index, node);
            }
        }
        Ok(graph)
    }

    /// `node` waits for `before`.
    fn add(&mut self, node: usize, before: usize) {
        if let Some(nodes) = self.before.get_mut(node) {
            nodes.push(before);
        }
    }

    /// What decides among nodes that wait for nothing: a group costs nothing and lets others go, so it is first.
    fn rank(&self, node: usize) -> (bool, u32, usize) {
        self.vms.get(node).map_or((false, 0, node), |vm| (true, vm.order, node))
    }

    /// All VMs in their order of starting.
    fn order(&self) -> Result<Vec<usize>, SetError> {
        let mut waiting: Vec<usize> = self.before.iter().map(Vec::len).collect();
        let mut behind: Vec<Vec<usize>> = alloc::vec![Vec::new(); self.before.len()];
        for (node, before) in self.before.iter().enumerate() {
            for &earlier in before {
                if let Some(nodes) = behind.get_mut(earlier) {
                    nodes.push(node);
                }
            }
        }
        let free = waiting.iter().enumerate().filter(|(_, count)| **count == 0);
        let mut ready: BTreeSet<(bool, u32, usize)> = free.map(|(node, _)| self.rank(node)).collect();
        let mut order = Vec::new();
        while let Some((is_vm, _, node)) = ready.pop_first() {
            if is_vm {
                order.push(node);
            }
            for &next in behind.get(node).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(next) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(self.rank(next));
                    }
                }
            }
        }
        if order.len() == self.vms.len() { Ok(order) } else { Err(self.circle(&waiting)) }
    }

    /// A circle among the nodes that still wait: each of them waits for another one of them.
    fn circle(&self, waiting: &[usize]) -> SetError {
        let waits = |node: &usize| waiting.get(*node).is_some_and(|&count| count > 0);
        let mut path: Vec<usize> = Vec::new();
        let mut node = (0..waiting.len()).find(waits).unwrap_or(0);
        while !path.contains(&node) {
            path.push(node);
            node = self.before.get(node).and_then(|before| before.iter().copied().find(waits)).unwrap_or(node);
        }
        let mut circle: Vec<usize> = path.into_iter().skip_while(|&earlier| earlier != node).collect();
        // It begins with a VM: groups alone make none.
        let first = circle.iter().position(|&node| node < self.vms.len()).unwrap_or(0);
        circle.rotate_left(first);
        let vm = circle.first().copied().unwrap_or(0);
        circle.push(vm);
        let names: Vec<String> = circle.into_iter().map(|node| self.name(node)).collect();
        SetError::Circle { vm, circle: names.join(" after ") }
    }

    fn name(&self, node: usize) -> String {
        match self.vms.get(node) {
            Some(vm) => vm.name.clone(),
            None => format!("group {}", self.groups.get(node - self.vms.len()).unwrap_or(&"")),
        }
    }
}
