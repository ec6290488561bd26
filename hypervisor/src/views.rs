//! What the console's commands show, gathered from the manager.

use crate::run_loop::CpuFigures;
use crate::vm::Vm;
use crate::vmm::Vmm;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use lamina_core::console::view::{
    CapabilityRow, CpuView, MemRow, MemView, ReasonRow, SchedRow, SchedView, StatsView, VersionView, VmFrames,
    VmInfoView, VmListView, VmRow, VmStats,
};
use lamina_core::exit::ExitCounters;
use lamina_core::memory::{FrameKind, Owner, PAGE_SIZE};
use lamina_core::sched::RunState;
use lamina_core::vmx::ExitReason;
use lamina_hw::{cpu, mem, time};

/// `vm list`.
pub(crate) fn vm_list(vmm: &Vmm) -> VmListView {
    VmListView { vms: vmm.vms.iter().map(|vm| vm_row(vmm, vm)).collect() }
}

fn vm_row(vmm: &Vmm, vm: &Vm) -> VmRow {
    let used = vmm.policy.counters(vm.vcpu()).map_or(0, |counters| counters.used);
    let uptime = if vm.state.is_alive() { time::now().saturating_sub(vm.started_at) } else { 0 };
    VmRow {
        name: vm.config.name.clone(),
        state: vm.state.name(),
        image: vm.config.image.clone(),
        memory_bytes: vm.config.memory_bytes,
        populated_bytes: frames(vm.slot).ram * PAGE_SIZE,
        quantum_us: vm.config.quantum_us,
        cpu_time_us: vmm.ticks_to_us(used),
        exits: vm.counters.total(),
        uptime_us: vmm.ticks_to_us(uptime),
        last_stop: vm.last_stop.clone(),
    }
}

/// The frames that the VM in `slot` holds.
fn frames(slot: u16) -> VmFrames {
    let owners = FrameKind::ALL.map(|kind| Owner::vm(slot, kind));
    let held = mem::accounting(&owners).held;
    let of = |kind| held.iter().find(|(owner, _)| *owner == Owner::vm(slot, kind)).map_or(0, |(_, count)| *count);
    VmFrames { ram: of(FrameKind::Ram), ept: of(FrameKind::Ept), vcpu: of(FrameKind::Vcpu) }
}

/// `vm info NAME`.
pub(crate) fn vm_info(vmm: &mut Vmm, name: &str) -> Result<VmInfoView, String> {
    let id = vmm.find(name)?.id;
    let found = vmm.vms.iter().find(|vm| vm.id == id).ok_or_else(|| format!("no VM is called {name}"))?;
    let config = &found.config;
    Ok(VmInfoView {
        row: vm_row(vmm, found),
        format: config.format.to_string(),
        initrd: config.initrd.clone(),
        cmdline: config.cmdline.clone(),
        modules: config.modules.iter().map(|module| format!("{} {}", module.file, module.cmdline)).collect(),
        vcpus: 1,
        autostart: config.autostart,
        starts: found.starts,
        frames: frames(found.slot),
        serial_bytes: found.port.log().written(),
    })
}

/// `mem`.
pub(crate) fn mem(vmm: &Vmm) -> MemView {
    let accounting = mem::accounting(&[Owner::HEAP, Owner::HOST]);
    let held = |owner: Owner| accounting.held.iter().find(|(o, _)| *o == owner).map_or(0, |(_, count)| *count);
    let (heap_used, _) = mem::heap_usage();
    MemView {
        frame_bytes: PAGE_SIZE,
        total_frames: accounting.total,
        free_frames: accounting.free,
        heap_frames: held(Owner::HEAP),
        host_frames: held(Owner::HOST),
        heap_used_bytes: heap_used as u64,
        vms: vmm.vms.iter().map(|vm| MemRow { name: vm.config.name.clone(), frames: frames(vm.slot) }).collect(),
    }
}

/// `cpu`.
pub(crate) fn cpu(vmm: &Vmm) -> CpuView {
    let rows = lamina_core::vmx::controls::describe(vmm.root.capabilities(), vmm.root.plan());
    CpuView {
        brand: cpu::brand(),
        tsc_hz: vmm.tsc.hz,
        tsc_source: vmm.tsc.source.to_string(),
        cpus: u32::try_from(cpu::online_count()).unwrap_or(u32::MAX),
        vmx: rows.into_iter().map(|(name, present, used)| CapabilityRow { name: name.into(), present, used }).collect(),
    }
}

/// `sched`.
pub(crate) fn sched(vmm: &Vmm, figures: &CpuFigures) -> SchedView {
    let name_of = |id: u32| vmm.vms.iter().find(|vm| vm.id == id).map(|vm| vm.config.name.clone());
    let row = |vm: &Vm| {
        let counters = vmm.policy.counters(vm.vcpu())?;
        let state = if vm.state.is_runnable() { counters.state } else { RunState::Blocked };
        Some(SchedRow {
            vm: vm.config.name.clone(),
            vcpu: vm.vcpu().index,
            state: state.name(),
            quantum_us: vm.config.quantum_us,
            runs: counters.runs,
            used_us: vmm.ticks_to_us(counters.used),
            wait_total_us: vmm.ticks_to_us(counters.wait_total),
            wait_max_us: vmm.ticks_to_us(counters.wait_max),
        })
    };
    SchedView {
        policy: vmm.policy.name().into(),
        current: figures.last.and_then(|vcpu| Some(format!("{}/{}", name_of(vcpu.vm)?, vcpu.index))),
        idle_us: vmm.ticks_to_us(figures.idle_ticks),
        switches: figures.switches,
        vcpus: vmm.vms.iter().filter_map(row).collect(),
    }
}

/// `stats [NAME]`.
pub(crate) fn stats(vmm: &mut Vmm, name: Option<&str>) -> Result<StatsView, String> {
    if let Some(name) = name {
        vmm.find(name)?;
    }
    let wanted = vmm.vms.iter().filter(|vm| name.is_none_or(|name| vm.config.name == name));
    Ok(StatsView { vms: wanted.map(vm_stats).collect() })
}

fn vm_stats(vm: &Vm) -> VmStats {
    VmStats {
        name: vm.config.name.clone(),
        exits: vm.counters.total(),
        reasons: reasons(&vm.counters),
        unknown_ports: vm.counters.unknown_ports.total(),
        unknown_msrs: vm.counters.unknown_msrs.total(),
    }
}

fn reasons(counters: &ExitCounters) -> Vec<ReasonRow> {
    let name = |number: usize| {
        let reason = u16::try_from(number).ok().and_then(ExitReason::from_basic);
        reason.map_or_else(|| format!("reason {number}"), |reason| reason.name().into())
    };
    let mut rows: Vec<ReasonRow> = counters
        .by_reason()
        .iter()
        .enumerate()
        .filter(|&(_, &count)| count > 0)
        .map(|(number, &count)| ReasonRow { reason: name(number), count })
        .collect();
    rows.sort_by_key(|row| core::cmp::Reverse(row.count));
    rows
}

/// `version`.
pub(crate) fn version(vmm: &Vmm) -> VersionView {
    VersionView {
        name: "Lamina",
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        firmware: vmm.firmware.into(),
        uptime_us: vmm.uptime_us(),
    }
}
