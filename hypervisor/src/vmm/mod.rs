//! The manager at work: every verb that changes VMs, and what follows when something happens to one. A verb happens whole or
//! not at all.
//!
//! All of it is done on the boot CPU, one thing after the other, while that CPU has no vCPU. The manager's lock is held for short
//! steps only: to build a machine or to take one down takes long, and meanwhile the other CPUs run what they have.
//!
//! - `define`: creating VMs, and changing what they are given
//! - `life`: starting, pausing, ending, and what guests do of their own accord
//! - `faults`: guests that cannot go on, and those that reset themselves
//! - `memory`: carrying out what the allocator decides
//! - `watch`: looking at what they do

mod define;
mod faults;
mod life;
mod memory;
mod watch;

pub(crate) use faults::waits_for;
pub(crate) use memory::{allocator, count_memory};

use crate::hypervisor::Hypervisor;
use crate::vm::Vm;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::vm::{Candidate, Targets, Verb};
use lamina_hw::mem;
use lamina_hw::vmx::VmxRoot;

/// The manager at work, on the boot CPU.
pub(crate) struct Vmm<'a> {
    pub(crate) hypervisor: &'static Hypervisor,
    /// The boot CPU's: new vCPUs are programmed on it.
    pub(crate) root: &'a mut VmxRoot,
}

impl Vmm<'_> {
    /// Runs `f` on the VM with this number, if it is still there, under the manager's lock.
    pub(crate) fn with_vm<T>(&self, id: u32, f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
        self.hypervisor.manager.lock().by_id(id).map(f)
    }

    /// The number of the VM called `name`.
    ///
    /// # Errors
    /// One line that names the VMs there are.
    pub(crate) fn find(&self, name: &str) -> Result<u32, String> {
        let manager = self.hypervisor.manager.lock();
        if let Some(vm) = manager.vms.iter().find(|vm| vm.config.name == name) {
            return Ok(vm.id);
        }
        let names: Vec<&str> = manager.vms.iter().map(|vm| vm.config.name.as_str()).collect();
        let there =
            if names.is_empty() { "there is none".to_string() } else { format!("there are: {}", names.join(", ")) };
        Err(format!("no VM is called {name}; {there}"))
    }

    /// The VMs that a verb is for and that can follow it, by number and name.
    ///
    /// # Errors
    /// One line; then none of them is to follow.
    fn targets(&self, targets: &Targets, verb: Verb) -> Result<Vec<(u32, String)>, String> {
        let manager = self.hypervisor.manager.lock();
        let candidate = |vm: &Vm| (vm.id, vm.config.name.clone(), vm.config.group.clone(), vm.state);
        let vms: Vec<_> = manager.vms.iter().map(candidate).collect();
        drop(manager);
        let candidates: Vec<Candidate<'_>> = vms
            .iter()
            .map(|(_, name, group, state)| Candidate { name, group: group.as_deref(), state: *state })
            .collect();
        let planned = targets.plan(verb, &candidates)?;
        Ok(planned.into_iter().filter_map(|index| vms.get(index)).map(|(id, name, ..)| (*id, name.clone())).collect())
    }
}

/// What defining a VM takes of the hypervisor's heap at most, its log above all, and what each of its vCPUs takes.
const HEAP_PER_VM: usize = 80 << 10;
/// What a VM's machine takes while it is alive.
const HEAP_PER_MACHINE: usize = 128 << 10;
/// What a vCPU takes of either.
const HEAP_PER_VCPU: usize = 16 << 10;

/// What the report of a fault takes.
const HEAP_PER_REPORT: usize = 64 << 10;

/// Whether there is room for the report of a fault.
pub(crate) fn has_room_for_report() -> bool {
    check_heap(1, HEAP_PER_REPORT, 0).is_ok()
}

/// Whether the hypervisor's heap has room for `count` times `each_bytes`, besides what the console's answers take. What is not
/// there is refused here: once begun, a want of heap would be the end of the hypervisor.
fn check_heap(count: usize, each_bytes: usize, vcpus: u16) -> Result<(), String> {
    const RESERVE_BYTES: usize = 1 << 20;
    let wanted = (each_bytes + usize::from(vcpus) * HEAP_PER_VCPU).saturating_mul(count);
    let (used, all) = mem::heap_usage();
    let available = all.saturating_sub(used).saturating_sub(RESERVE_BYTES);
    if wanted > available {
        return Err(format!(
            "insufficient resources: hypervisor heap: requested {} KiB, available {} KiB of {} KiB; stop or destroy VMs that \
             are not needed",
            wanted >> 10,
            available >> 10,
            all >> 10
        ));
    }
    Ok(())
}
