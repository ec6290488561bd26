//! `sched` and `cpu`.

use super::vcpu_name;
use super::vms::cpu_time;
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use alloc::string::ToString;
use alloc::vec::Vec;
use lamina_core::console::view::{CapabilityRow, CpuRow, CpuView, FigureRow, Latency, SchedRow, SchedView};
use lamina_core::sched::{CpuId, Latency as Ticks, PolicyKind, Summary, VmStats};
use lamina_hw::vmx::VmxRoot;
use lamina_hw::{cpu as host, smp, time};

/// `cpu`.
pub(crate) fn cpu(hypervisor: &Hypervisor, manager: &Manager, root: &VmxRoot) -> CpuView {
    let rows = lamina_core::vmx::controls::describe(root.capabilities(), root.plan());
    CpuView {
        brand: host::brand(),
        tsc_hz: hypervisor.tsc.hz,
        tsc_source: hypervisor.tsc.source.to_string(),
        found: hypervisor.cpus_found as u32,
        cpus: cpu_rows(hypervisor, manager),
        vmx: rows.into_iter().map(|(name, present, used)| CapabilityRow { name: name.into(), present, used }).collect(),
    }
}

fn cpu_rows(hypervisor: &Hypervisor, manager: &Manager) -> Vec<CpuRow> {
    let row = |number: u16| {
        let stats = manager.scheduler.cpu_stats(CpuId(number), time::now())?;
        Some(CpuRow {
            cpu: number,
            apic_id: smp::apic_id(CpuId(number)).unwrap_or(0),
            busy_us: hypervisor.ticks_to_us(stats.busy),
            idle_us: hypervisor.ticks_to_us(stats.idle),
            switches: stats.switches,
            running: stats.running.and_then(|vcpu| vcpu_name(manager, vcpu)),
        })
    };
    (0..hypervisor.cpu_count as u16).filter_map(row).collect()
}

/// `sched`.
pub(crate) fn sched(hypervisor: &Hypervisor, manager: &Manager) -> SchedView {
    let now = time::now();
    let stats = manager.scheduler.all_vm_stats(now);
    let summary = manager.scheduler.summary(now);
    let promises = manager.scheduler.policy() == PolicyKind::Fair;
    let row = |vm: &crate::vm::Vm| {
        let stats = stats.iter().find(|(id, _)| *id == vm.id).map(|(_, stats)| stats)?;
        Some(sched_row(hypervisor, manager, vm, stats, promises))
    };
    SchedView {
        policy: manager.scheduler.policy().name().into(),
        measured_us: hypervisor.ticks_to_us(manager.scheduler.window(now)),
        vms: manager.vms.iter().filter_map(row).collect(),
        cpus: cpu_rows(hypervisor, manager),
        figures: figures(&summary),
        jain_millionths: (summary.vms > 0).then_some(summary.jain as u32),
    }
}

fn sched_row(
    hypervisor: &Hypervisor,
    manager: &Manager,
    vm: &crate::vm::Vm,
    stats: &VmStats,
    promises: bool,
) -> SchedRow {
    let config = &vm.config;
    SchedRow {
        vm: config.name.clone(),
        state: vm.state.name(),
        vcpus: config.vcpus,
        weight: config.weight,
        cap_percent: config.cap_percent,
        reservation_percent: config.reservation_percent,
        priority: config.priority,
        quantum_us: config.quantum_us,
        cpu_time_us: hypervisor.ticks_to_us(cpu_time(manager, vm)),
        // Both are in millionths of one CPU.
        share_millicpu: stats.share / 1000,
        due_millicpu: promises.then_some(stats.due / 1000),
        wait: latency(hypervisor, &stats.waits),
        wakeup: latency(hypervisor, &stats.wakes),
        switches: stats.switches,
        migrations: stats.migrations,
        steal_us: hypervisor.ticks_to_us(stats.steal),
    }
}

fn latency(hypervisor: &Hypervisor, ticks: &Ticks) -> Latency {
    let ns = |ticks: u64| hypervisor.clock.ticks_to_periods(ticks, 1_000_000_000);
    Latency { count: ticks.count, p50_ns: ns(ticks.p50), p99_ns: ns(ticks.p99), max_ns: ns(ticks.max) }
}

/// The figures over all VMs, as [`Summary`] defines them.
fn figures(summary: &Summary) -> Vec<FigureRow> {
    let row =
        |symbol, millionths: u64, unit, about| FigureRow { symbol, value_thousandths: millionths / 1000, unit, about };
    Vec::from([
        row("T", summary.mean_latency, "1/s", "mean latency, (1/n) sum 1/t_i: t_i is the time from ready to run, in s"),
        row("P", summary.mean_throughput, "CPUs", "mean throughput, (1/n) sum p_i: p_i is CPU time received per time"),
        row("R", summary.mean_rate, "CPUs/s", "mean rate, (1/n) sum p_i/t_i"),
    ])
}
