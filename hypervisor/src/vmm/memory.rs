//! Carrying out what the allocator decides: limits of guests' memory, targets of their balloons, VMs that wait for memory.
//!
//! The exit path backs a page without asking anybody, up to the limit that the VM's RAM has; so the allocator's counts are
//! brought up to date ([`count_memory`]) before it decides anything.

use super::Vmm;
use crate::machine::Machine;
use crate::manager::Manager;
use crate::vm::Vm;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::config::HostConfig;
use lamina_core::memory::{GuestPhysAddr, PAGE_SIZE};
use lamina_core::resources::{
    Allocator, Capacity, Overcommit, REBALANCE_PERIOD_US, Sample, Strategy, TargetChange, Touch,
};
use lamina_core::vm::{Event, State, transition};
use lamina_hw::{mem, time};

/// How often the boot CPU looks whether memory came back, while somebody waits for it or is to give some back.
const LOOK_US: u64 = 50_000;

/// The allocator of a machine on which nothing runs yet: what is free now is the guests', but for what the host needs in between.
pub(crate) fn allocator(host: &HostConfig, ramdisk: Option<&Ramdisk<'_>>, cpu_count: usize) -> Allocator {
    let free = mem::accounting(&[]).free * PAGE_SIZE;
    let for_images = ramdisk.map_or(0, |ramdisk| unpacking_bytes(&ramdisk.unpacked_lens()));
    let capacity = Capacity { cpus: cpu_count as u32, memory_bytes: free.saturating_sub(for_images) };
    log::info!(
        "memory for guests: {} MiB, {} MiB more to unpack images in",
        capacity.memory_bytes >> 20,
        for_images >> 20
    );
    Allocator::new(
        capacity,
        Overcommit::from_percent(host.overcommit_percent).unwrap_or(Overcommit::NONE),
        host.alloc_strategy,
    )
}

/// What it takes to unpack the files of one VM: its kernel and its initial RAM disk at the same time.
fn unpacking_bytes(lens: &[usize]) -> u64 {
    let mut lens: Vec<usize> = lens.iter().map(|len| len.next_power_of_two()).collect();
    lens.sort_unstable_by_key(|len| core::cmp::Reverse(*len));
    lens.iter().take(2).map(|&len| len as u64).sum()
}

/// Brings the allocator's counts of backed and given-back memory up to date.
pub(crate) fn count_memory(manager: &mut Manager) {
    let Manager { vms, allocator, .. } = manager;
    for vm in vms.iter() {
        let populated = vm.machine.as_ref().map_or(0, |machine| machine.ram().populated() * PAGE_SIZE);
        allocator.measured(vm.id, populated);
        if let Some((ready, given)) = vm.machine.as_ref().and_then(|machine| machine.balloon()) {
            allocator.set_can_shrink(vm.id, ready);
            allocator.ballooned(vm.id, given * PAGE_SIZE);
        }
    }
}

/// What the host has free for guests' pages, in bytes: a page may need EPT paging structures beside itself.
fn free_bytes() -> u64 {
    const TABLES: u64 = 3;
    mem::accounting(&[]).free.saturating_sub(TABLES) * PAGE_SIZE
}

impl Vmm<'_> {
    /// These targets have changed: limits and balloons follow.
    pub(super) fn targets_changed(&self, manager: &mut Manager, changes: &[TargetChange]) {
        for change in changes {
            if change.from_bytes != change.to_bytes {
                log::info!(
                    "vm {}: memory {} MiB -> {} MiB",
                    change.name,
                    change.from_bytes >> 20,
                    change.to_bytes >> 20
                );
            }
            self.follow_target(manager, change.vm);
        }
    }

    /// The limit of the VM's RAM becomes what the allocator grants, and the target of its balloon what it says.
    pub(super) fn follow_target(&self, manager: &mut Manager, id: u32) {
        let (granted, target) = (manager.allocator.granted_bytes(id), manager.allocator.target_bytes(id));
        let (Some(granted), Some(target), Some(vm)) = (granted, target, manager.by_id(id)) else { return };
        let Some(machine) = vm.machine.clone() else { return };
        machine.ram().set_limit(granted / PAGE_SIZE);
        let for_balloon = vm.config.memory_max().saturating_sub(target) / PAGE_SIZE;
        if machine.set_balloon_target(for_balloon) {
            manager.notify_vcpu_0(id);
        }
    }

    /// A VM has touched a page that could not be backed. It goes on if that was but a matter of counting, and waits otherwise.
    pub(super) fn starved(&mut self, id: u32, gpa: GuestPhysAddr) {
        self.take_off_cpus(id);
        let mut manager = self.hypervisor.manager.lock();
        if let Some(vm) = manager.by_id(id) {
            vm.quiet = false;
        }
        if manager.news.iter().any(|news| news.vm == id) {
            // Another of its vCPUs has come to an end: that goes first.
            return;
        }
        count_memory(&mut manager);
        let answer = manager.allocator.touch(id, PAGE_SIZE, free_bytes());
        self.follow_target(&mut manager, id);
        let Some(vm) = manager.by_id(id) else { return };
        vm.over = false;
        let Touch::Wait(reason) = answer else {
            if let Some(machine) = &vm.machine {
                let ram = machine.ram();
                ram.set_limit(ram.limit().max(ram.populated() + 1));
            }
            manager.wake_vm(id);
            return;
        };
        if let Ok(state) = transition(vm.state, Event::OutOfMemory) {
            vm.state = state;
            vm.paused_at = time::now();
            log::warn!("vm {}: paused: it touched guest-physical {gpa}: {reason}", vm.config.name);
        }
        drop(manager);
        self.look_for_memory();
    }

    /// Looks after the memory of all VMs: who gave some back, whose target moves, who may go on.
    pub(crate) fn look_for_memory(&mut self) {
        let samples = self.measure_use();
        let mut manager = self.hypervisor.manager.lock();
        count_memory(&mut manager);
        let changes = manager.allocator.rebalance(self.hypervisor.uptime_us(), &samples);
        self.targets_changed(&mut manager, &changes);
        let ids: Vec<u32> = manager.vms.iter().map(|vm| vm.id).collect();
        for &id in &ids {
            self.follow_target(&mut manager, id);
        }
        let back = manager.allocator.memory_came_back(free_bytes());
        for id in back.resume {
            self.memory_is_back(&mut manager, id);
        }
        manager.memory_look_at = self.next_look(&manager);
    }

    fn memory_is_back(&self, manager: &mut Manager, id: u32) {
        self.follow_target(manager, id);
        let Some(vm) = manager.by_id(id) else { return };
        let Ok(state) = transition(vm.state, Event::MemoryBack) else { return };
        // One that was asked to end is still expected to.
        vm.state = if vm.stop_by.is_some() || vm.press_later.is_some() { State::Stopping } else { state };
        vm.skip_pause(time::now());
        log::info!("vm {}: goes on: there is memory for it", vm.config.name);
        manager.wake_vm(id);
    }

    /// When memory is to be looked after again: never, where nothing moves by itself.
    fn next_look(&self, manager: &Manager) -> Option<u64> {
        let moves = |vm: &Vm| {
            let pending = vm.machine.is_some() && manager.allocator.pending_bytes(vm.id).unwrap_or(0) > 0;
            vm.state == State::PausedMemory || pending
        };
        let soon = manager.vms.iter().any(moves);
        let follows = matches!(manager.allocator.strategy(), Strategy::Utilization | Strategy::Capacity);
        let us = if soon {
            LOOK_US
        } else if follows {
            REBALANCE_PERIOD_US
        } else {
            return None;
        };
        Some(time::now().saturating_add(self.hypervisor.us_to_ticks(us)))
    }

    /// What guests used of their memory of late, by the accessed flags, where targets follow that and it is time. Not under the
    /// manager's lock: there are as many flags as pages.
    fn measure_use(&self) -> Vec<Sample> {
        let now_us = self.hypervisor.uptime_us();
        let mut manager = self.hypervisor.manager.lock();
        let is_time = now_us.saturating_sub(manager.sampled_at_us) >= REBALANCE_PERIOD_US;
        if manager.allocator.strategy() != Strategy::Utilization || !is_time {
            return Vec::new();
        }
        manager.sampled_at_us = now_us;
        let running = manager.vms.iter().filter(|vm| vm.state.is_runnable());
        let machines: Vec<_> = running.filter_map(|vm| Some((vm.id, vm.machine.clone()?))).collect();
        drop(manager);
        let sample = |(vm, machine): (u32, Arc<Machine>)| {
            let frames = machine.ram().take_accessed_frames()?;
            Some(Sample { vm, working_set_bytes: frames * PAGE_SIZE })
        };
        machines.into_iter().filter_map(sample).collect()
    }

    /// Decides by another strategy from now on.
    pub(crate) fn set_strategy(&mut self, strategy: Strategy) {
        self.hypervisor.manager.lock().allocator.set_strategy(strategy);
        self.look_for_memory();
    }

    /// Promises so much memory from now on, in percent of what there is.
    ///
    /// # Errors
    /// One line; nothing was changed.
    pub(crate) fn set_overcommit(&mut self, percent: u32) -> Result<(), String> {
        let overcommit = Overcommit::from_percent(percent)
            .ok_or_else(|| format!("overcommit of {percent} %: allowed are 100 to 1000"))?;
        let mut manager = self.hypervisor.manager.lock();
        manager.allocator.set_overcommit(overcommit).map_err(|refusal| refusal.to_string())?;
        drop(manager);
        self.look_for_memory();
        Ok(())
    }
}
