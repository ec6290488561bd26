//! `vm list`, `vm info` and `stats`.

use super::memory::frames;
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::vm::Vm;
use alloc::format;
use alloc::string::ToString;
use lamina_core::console::view::{ReasonRow, StatsView, SuspectView, VcpuRow, VmInfoView, VmListView, VmRow, VmStats};
use lamina_core::exit::reason_name;
use lamina_core::memory::PAGE_SIZE;
use lamina_core::sched::VcpuId;
use lamina_core::vm::exit_model::Suspicion;
use lamina_hw::time;

/// `vm list`.
pub(crate) fn vm_list(hypervisor: &Hypervisor, manager: &Manager) -> VmListView {
    VmListView { vms: manager.vms.iter().map(|vm| vm_row(hypervisor, manager, vm)).collect() }
}

fn vm_row(hypervisor: &Hypervisor, manager: &Manager, vm: &Vm) -> VmRow {
    let uptime = if vm.machine.is_some() { vm.age(time::now()) } else { 0 };
    VmRow {
        name: vm.config.name.clone(),
        state: vm.state.name(),
        group: vm.config.group.clone(),
        image: vm.config.image.clone(),
        vcpus: vm.config.vcpus,
        weight: vm.config.weight,
        memory_bytes: manager.allocator.target_bytes(vm.id).unwrap_or(vm.config.memory_bytes),
        populated_bytes: frames(vm.slot).ram * PAGE_SIZE,
        quantum_us: vm.config.quantum_us,
        cpu_time_us: hypervisor.ticks_to_us(cpu_time(manager, vm)),
        exits: vm.counters().total(),
        uptime_us: hypervisor.ticks_to_us(uptime),
        last_stop: vm.last_stop.clone(),
    }
}

/// The CPU time that the VM used since its start, in ticks.
pub(super) fn cpu_time(manager: &Manager, vm: &Vm) -> u64 {
    let used = manager.scheduler.vm_stats(vm.id, time::now()).map_or(0, |stats| stats.used);
    used.saturating_sub(vm.used_before)
}

fn vcpus(vm: &Vm) -> impl Iterator<Item = VcpuId> + use<> {
    let id = vm.id;
    (0..vm.config.vcpus).map(move |index| VcpuId { vm: id, index })
}

/// `vm info NAME`.
pub(crate) fn vm_info(hypervisor: &Hypervisor, manager: &Manager, id: u32) -> Option<VmInfoView> {
    let vm = manager.vms.iter().find(|vm| vm.id == id)?;
    let config = &vm.config;
    let steal: u64 = vcpus(vm).filter_map(|vcpu| manager.scheduler.vcpu_stats(vcpu)).map(|stats| stats.steal).sum();
    Some(VmInfoView {
        row: vm_row(hypervisor, manager, vm),
        format: config.format.to_string(),
        initrd: config.initrd.clone(),
        cmdline: config.cmdline.clone(),
        modules: config.modules.iter().map(|module| format!("{} {}", module.file, module.cmdline)).collect(),
        memory_min_bytes: config.memory_min(),
        memory_max_bytes: config.memory_max(),
        balloon: config.balloon,
        cap_percent: config.cap_percent,
        reservation_percent: config.reservation_percent,
        priority: config.priority,
        affinity: config.affinity.to_string(),
        vcpu_rows: vcpus(vm).filter_map(|vcpu| vcpu_row(hypervisor, manager, vm, vcpu)).collect(),
        steal_us: hypervisor.ticks_to_us(steal),
        after: config.after.clone(),
        stop_grace_us: config.stop_grace_us.unwrap_or(hypervisor.host.stop_grace_us),
        on_fault: config.on_fault.name(),
        restart_limit: config.restart_limit.to_string(),
        access_loop: config.access_loop,
        faults: vm.faults.total(),
        last_fault: vm.faults.reports().last().map(|report| report.fault.detail.clone()),
        autostart: config.autostart,
        starts: vm.starts,
        frames: frames(vm.slot),
        serial_bytes: vm.port.lock().log().written(),
        watchdog_us: config.watchdog_us,
        suspect: vm.machine.as_ref().and_then(|machine| machine.suspicion()).map(suspect),
        crash_kernel: vm.machine.as_ref().is_some_and(|machine| machine.crash_loaded()),
    })
}

fn suspect(suspicion: Suspicion) -> SuspectView {
    let Suspicion { reason, per_s, usual_per_s, log2_odds } = suspicion;
    SuspectView { reason: reason_name(reason.into()), per_s, usual_per_s, log2_odds }
}

fn vcpu_row(hypervisor: &Hypervisor, manager: &Manager, vm: &Vm, vcpu: VcpuId) -> Option<VcpuRow> {
    let stats = manager.scheduler.vcpu_stats(vcpu)?;
    let waits_for_sipi = vm.machine.as_ref().is_some_and(|machine| machine.waits_for_sipi(vcpu.index));
    Some(VcpuRow {
        vcpu: vcpu.index,
        state: if waits_for_sipi { "waits for SIPI" } else { stats.state.name() },
        cpu: stats.cpu.map(|cpu| cpu.0),
        affinity: manager.scheduler.affinity(vcpu).unwrap_or_default().to_string(),
        cpu_time_us: hypervisor.ticks_to_us(stats.used),
    })
}

/// `stats [NAME]`.
pub(crate) fn stats(manager: &Manager, id: Option<u32>) -> StatsView {
    let wanted = manager.vms.iter().filter(|vm| id.is_none_or(|id| vm.id == id));
    StatsView { vms: wanted.map(vm_stats).collect() }
}

fn vm_stats(vm: &Vm) -> VmStats {
    let counters = vm.counters();
    VmStats {
        name: vm.config.name.clone(),
        exits: counters.total(),
        reasons: ReasonRow::of_counters(&counters),
        unknown_ports: counters.unknown_ports.total(),
        unknown_msrs: counters.unknown_msrs.total(),
    }
}
