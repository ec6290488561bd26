//! What `top` draws its screen from.

use super::memory::frames;
use super::vms::cpu_time;
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use lamina_core::console::{TopSample, TopSnapshot};
use lamina_core::memory::PAGE_SIZE;
use lamina_core::sched::{CpuId, PolicyKind};
use lamina_hw::{mem, time};

/// A look at the machine, for `top`.
pub(crate) fn top_snapshot(hypervisor: &Hypervisor, manager: &Manager) -> TopSnapshot {
    let now = time::now();
    let stats = manager.scheduler.all_vm_stats(now);
    let promises = manager.scheduler.policy() == PolicyKind::Fair;
    let us = |ticks: u64| hypervisor.ticks_to_us(ticks);
    let ns = |ticks: u64| hypervisor.clock.ticks_to_periods(ticks, 1_000_000_000);
    let busy = |number: u16| manager.scheduler.cpu_stats(CpuId(number), now).map_or(0, |stats| us(stats.busy));
    let sample = |vm: &crate::vm::Vm| {
        let stats = stats.iter().find(|(id, _)| *id == vm.id).map(|(_, stats)| stats);
        TopSample {
            name: vm.config.name.clone(),
            starts: vm.starts,
            state: vm.state.name(),
            vcpus: vm.config.vcpus,
            cpu_time_us: us(cpu_time(manager, vm)),
            due_millicpu: stats.filter(|_| promises).map(|stats| stats.due / 1000),
            populated_bytes: frames(vm.slot).ram * PAGE_SIZE,
            target_bytes: manager.allocator.target_bytes(vm.id).unwrap_or(vm.config.memory_bytes),
            exits: vm.counters().total(),
            wait_p99_ns: stats.map_or(0, |stats| ns(stats.waits.p99)),
        }
    };
    TopSnapshot {
        at_us: hypervisor.uptime_us(),
        policy: manager.scheduler.policy().name(),
        memory_bytes: manager.allocator.view().memory.capacity,
        free_bytes: mem::accounting(&[]).free * PAGE_SIZE,
        cpus_busy_us: (0..hypervisor.cpu_count as u16).map(busy).collect(),
        vms: manager.vms.iter().map(sample).collect(),
    }
}
