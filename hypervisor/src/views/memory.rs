//! `mem` and `alloc`.

use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::vmm::count_memory;
use alloc::string::ToString;
use lamina_core::console::view::{
    AllocRow, AllocView, CpuResource, MemRow, MemView, MemoryResource, VmFrames, WaitingRow,
};
use lamina_core::memory::{FrameKind, Owner, PAGE_SIZE};
use lamina_core::resources::{VmResourcesView, WaitingVm};
use lamina_hw::vmx::vpids_in_use;
use lamina_hw::{mem as host, time};

/// The frames that the VM in `slot` holds.
pub(super) fn frames(slot: u16) -> VmFrames {
    let owners = FrameKind::ALL.map(|kind| Owner::vm(slot, kind));
    let held = host::accounting(&owners).held;
    let of = |kind| held.iter().find(|(owner, _)| *owner == Owner::vm(slot, kind)).map_or(0, |(_, count)| *count);
    VmFrames { ram: of(FrameKind::Ram), ept: of(FrameKind::Ept), vcpu: of(FrameKind::Vcpu) }
}

/// `mem`.
pub(crate) fn mem(manager: &Manager) -> MemView {
    let (heap_used, _) = host::heap_usage();
    let accounting = host::accounting(&[Owner::HEAP, Owner::HOST]);
    let held = |owner: Owner| accounting.held.iter().find(|(o, _)| *o == owner).map_or(0, |(_, count)| *count);
    MemView {
        frame_bytes: PAGE_SIZE,
        total_frames: accounting.total,
        free_frames: accounting.free,
        heap_frames: held(Owner::HEAP),
        host_frames: held(Owner::HOST),
        heap_used_bytes: heap_used as u64,
        vpids: vpids_in_use() as u64,
        vms: manager.vms.iter().map(|vm| MemRow { name: vm.config.name.clone(), frames: frames(vm.slot) }).collect(),
    }
}

/// `alloc`.
pub(crate) fn alloc(hypervisor: &Hypervisor, manager: &mut Manager) -> AllocView {
    let now = time::now();
    count_memory(manager);
    let view = manager.allocator.view();
    let shares: u64 = manager.scheduler.all_vm_stats(now).iter().map(|(_, stats)| stats.share).sum();
    let find = |id: u32| manager.vms.iter().find(|vm| vm.id == id);
    let row = |row: &VmResourcesView| AllocRow {
        vm: row.name.clone(),
        state: find(row.vm).map_or("", |vm| vm.state.name()),
        priority: row.priority,
        min_bytes: row.min_bytes,
        target_bytes: row.target_bytes,
        max_bytes: row.max_bytes,
        populated_bytes: row.populated_bytes,
        reserved_bytes: row.reserved_bytes,
        cpu_reserved_percent: row.cpu_reservation_percent,
    };
    let waiting = |waiting: WaitingVm| WaitingRow {
        waited_us: find(waiting.vm).map_or(0, |vm| hypervisor.ticks_to_us(now.saturating_sub(vm.paused_at))),
        vm: waiting.name,
        needed_bytes: waiting.bytes,
    };
    AllocView {
        strategy: view.strategy.name().to_string(),
        overcommit_percent: view.overcommit_percent,
        cpu: CpuResource {
            capacity_percent: view.cpu.capacity,
            reserved_percent: view.cpu.reserved,
            // Millionths of one CPU.
            used_percent: shares / 10_000,
        },
        memory: MemoryResource {
            capacity_bytes: view.memory.capacity,
            limit_bytes: view.memory.limit,
            reserved_bytes: view.memory.reserved,
            used_bytes: view.populated_bytes,
        },
        vms: view.vms.iter().map(row).collect(),
        waiting: manager.allocator.waiting().into_iter().map(waiting).collect(),
    }
}
