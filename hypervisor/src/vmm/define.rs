//! Creating VMs, and changing what they are given while they are there.

use super::{HEAP_PER_VM, Vmm, check_heap, count_memory};
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::vm::Vm;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::{SetError, VmChange, VmConfig, check_set};
use lamina_core::memory::{Owner, PAGE_SIZE};
use lamina_core::resources::{Request, TargetChange};
use lamina_core::sched::{CpuId, CpuSet, PolicyKind, VcpuId, VmParams};
use lamina_hw::time;

impl Vmm<'_> {
    /// Defines a VM, or all the replicas of one. Their files must be there; what they are to have is reserved from here on, and
    /// taken when they start and touch it. Answers with their names.
    ///
    /// # Errors
    /// One line; no VM was defined.
    pub(crate) fn create(&mut self, description: &VmConfig) -> Result<Vec<String>, String> {
        let hypervisor = self.hypervisor;
        check_files(hypervisor, description)?;
        check_affinity(hypervisor, &description.affinity)?;
        check_heap(description.replicas as usize, HEAP_PER_VM, description.vcpus)?;
        let configs = description.expand();
        let mut manager = hypervisor.manager.lock();
        count_memory(&mut manager);
        let mut all: Vec<VmConfig> = manager.vms.iter().map(|vm| vm.config.clone()).collect();
        all.extend(configs.iter().cloned());
        check_set(&all).map_err(|error| match error {
            SetError::NameTaken { name, .. } => {
                format!("there is a VM called {name} already; choose another name or destroy it")
            }
            error => {
                let vm = all.get(error.vm()).map_or("", |vm| vm.name.as_str());
                format!("vm {vm}: {error}")
            }
        })?;
        let slots: Vec<u16> = (0..Owner::VM_SLOTS)
            .filter(|slot| manager.vms.iter().all(|vm| vm.slot != *slot))
            .take(configs.len())
            .collect();
        if slots.len() < configs.len() {
            return Err(format!("no room for {} more VMs: {} is the most", configs.len(), Owner::VM_SLOTS));
        }
        let first = manager.reserve_ids(configs.len() as u32);
        let grants = manager.allocator.request(&request(description), first).map_err(|refusal| refusal.to_string())?;
        let names = configs.iter().map(|config| config.name.clone()).collect();
        for (id, (config, slot)) in (first..).zip(configs.into_iter().zip(slots)) {
            manager.scheduler.add_vm(id, params(hypervisor, &config), config.vcpus);
            set_affinity(&mut manager, id, config.vcpus, config.affinity);
            manager.vms.push(Vm::new(id, slot, config, hypervisor.host.tee_serial));
        }
        self.targets_changed(&mut manager, &grants.changes);
        drop(manager);
        // Others may have to give back what it was promised.
        self.look_for_memory();
        Ok(names)
    }

    /// Changes what a VM is given.
    ///
    /// # Errors
    /// One line; nothing was changed.
    pub(crate) fn set(&mut self, name: &str, change: &VmChange) -> Result<Vec<TargetChange>, String> {
        let id = self.find(name)?;
        let hypervisor = self.hypervisor;
        let gone = || format!("no VM is called {name}");
        let mut manager = hypervisor.manager.lock();
        let vm = manager.by_id(id).ok_or_else(gone)?;
        let (old, alive) = (vm.config.clone(), vm.state.is_alive());
        let new = change.apply(&old, alive)?;
        check_affinity(hypervisor, &new.affinity)?;
        count_memory(&mut manager);
        let allocator = &mut manager.allocator;
        allocator.set_cpu_reservation(id, new.reservation_percent).map_err(|refusal| refusal.to_string())?;
        let memory = change_memory(allocator, id, &old, &new);
        let changes = match memory {
            Ok(changes) => changes,
            Err(error) => {
                // It was so before, so it is possible.
                let _ = allocator.set_cpu_reservation(id, old.reservation_percent);
                return Err(error);
            }
        };
        // Both are in their ranges, which the configuration has checked.
        let _ = allocator.set_weight(id, new.weight).and_then(|()| allocator.set_priority(id, new.priority));
        let now = time::now();
        let params = params(hypervisor, &new);
        if manager.scheduler.params(id) != Some(params) {
            Manager::kick(&manager.scheduler.set_params(id, params, now));
        }
        if new.affinity != old.affinity {
            set_affinity(&mut manager, id, new.vcpus, new.affinity);
        }
        let watchdog_us = new.watchdog_us;
        let machine = manager.by_id(id).and_then(|vm| {
            vm.config = new;
            vm.machine.clone()
        });
        if watchdog_us != old.watchdog_us
            && let Some(machine) = machine
        {
            machine.watch_heartbeat(hypervisor, watchdog_us);
            manager.wake_vm(id);
        }
        self.targets_changed(&mut manager, &changes);
        drop(manager);
        self.look_for_memory();
        Ok(changes)
    }

    /// Says on which CPUs a VM's vCPUs may run, or one of them.
    ///
    /// # Errors
    /// One line; nothing was changed.
    pub(crate) fn pin(&mut self, name: &str, vcpu: Option<u16>, cpus: CpuSet) -> Result<(), String> {
        let id = self.find(name)?;
        check_affinity(self.hypervisor, &cpus)?;
        let mut manager = self.hypervisor.manager.lock();
        let Some(vm) = manager.by_id(id) else { return Ok(()) };
        let vcpus = vm.config.vcpus;
        match vcpu {
            Some(index) if index >= vcpus => {
                return Err(format!("vm {name} has no vCPU {index}; it has {vcpus}, counted from 0"));
            }
            Some(index) => pin_vcpu(&mut manager, VcpuId { vm: id, index }, cpus),
            None => {
                vm.config.affinity = cpus;
                set_affinity(&mut manager, id, vcpus, cpus);
            }
        }
        Ok(())
    }

    /// Schedules by another policy from now on.
    pub(crate) fn set_policy(&mut self, policy: PolicyKind) {
        let mut manager = self.hypervisor.manager.lock();
        Manager::kick(&manager.scheduler.set_policy(policy, time::now()));
    }
}

fn check_files(hypervisor: &Hypervisor, config: &VmConfig) -> Result<(), String> {
    let files = hypervisor.ramdisk.as_ref().map(Ramdisk::names).unwrap_or_default();
    match config.files().find(|(_, file)| !files.iter().any(|name| name == file)) {
        Some((key, file)) => Err(format!(
            "vm {}: {} = \"{file}\" is not in the ramdisk; it has: {}",
            config.name,
            key.name(),
            files.join(", ")
        )),
        None => Ok(()),
    }
}

/// Whether at least one of these CPUs is there: those that are not do no harm.
fn check_affinity(hypervisor: &Hypervisor, cpus: &CpuSet) -> Result<(), String> {
    let online = |cpu: CpuId| usize::from(cpu.0) < hypervisor.cpu_count;
    if cpus.iter().any(online) {
        return Ok(());
    }
    Err(format!("CPUs {cpus}: none of them runs guests; there are 0 to {}", hypervisor.cpu_count - 1))
}

fn set_affinity(manager: &mut Manager, id: u32, vcpus: u16, cpus: CpuSet) {
    for index in 0..vcpus {
        pin_vcpu(manager, VcpuId { vm: id, index }, cpus);
    }
}

fn pin_vcpu(manager: &mut Manager, vcpu: VcpuId, cpus: CpuSet) {
    // That a CPU of the set is there was checked.
    if let Ok(kick) = manager.scheduler.set_affinity(vcpu, cpus, time::now()) {
        Manager::kick(&kick);
    }
}

/// A VM's scheduling parameters.
fn params(hypervisor: &Hypervisor, config: &VmConfig) -> VmParams {
    VmParams {
        quantum: hypervisor.us_to_ticks(config.quantum_us),
        weight: config.weight,
        cap_percent: config.cap_percent,
        reservation_percent: config.reservation_percent,
        priority: config.priority,
    }
}

/// What a description asks of the allocator.
fn request(config: &VmConfig) -> Request {
    Request {
        name: config.name.clone(),
        replicas: (config.replicas > 1).then_some(config.replicas),
        vcpus: u32::from(config.vcpus),
        cpu_reservation_percent: config.reservation_percent,
        memory_bytes: config.memory_bytes,
        memory_min_bytes: config.memory_min(),
        memory_max_bytes: config.memory_max(),
        priority: config.priority,
        weight: config.weight,
        overhead_bytes: overhead_frames(config) * PAGE_SIZE,
    }
}

/// The most frames that the host holds for a VM beside its memory: EPT paging structures for 4 KiB pages everywhere, the
/// APIC-access page with its tables, and for each vCPU its VMCS, virtual-APIC page and register area.
fn overhead_frames(config: &VmConfig) -> u64 {
    const TABLE_BYTES: u64 = 2 << 20;
    const DIRECTORY_BYTES: u64 = 1 << 30;
    // Memory that crosses into the range above 4 GiB touches one more of each.
    let tables = config.memory_max().div_ceil(TABLE_BYTES) + 1;
    let directories = config.memory_max().div_ceil(DIRECTORY_BYTES) + 1;
    let top = 2;
    let apic_access = 3;
    tables + directories + top + apic_access + 3 * u64::from(config.vcpus)
}

/// Has the allocator follow a change of a VM's memory and its bounds.
fn change_memory(
    allocator: &mut lamina_core::resources::Allocator,
    id: u32,
    old: &VmConfig,
    new: &VmConfig,
) -> Result<Vec<TargetChange>, String> {
    let bounds = |config: &VmConfig| (config.memory_min(), config.memory_max());
    if new.memory_bytes == old.memory_bytes && bounds(new) == bounds(old) {
        return Ok(Vec::new());
    }
    // Both targets lie between the bounds meanwhile.
    let (low, high) = (old.memory_min().min(new.memory_min()), old.memory_max().max(new.memory_max()));
    allocator.set_memory_bounds(id, low, high).map_err(|refusal| refusal.to_string())?;
    match allocator.set_memory(id, new.memory_bytes) {
        Ok(change) => {
            let _ = allocator.set_memory_bounds(id, new.memory_min(), new.memory_max());
            let mut changes = change.others;
            changes.push(change.own);
            Ok(changes)
        }
        Err(refusal) => {
            let _ = allocator.set_memory_bounds(id, old.memory_min(), old.memory_max());
            Err(refusal.to_string())
        }
    }
}
