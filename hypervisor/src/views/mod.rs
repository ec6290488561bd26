//! What the console's commands show, gathered from the manager.
//!
//! Each function copies what it needs out of the manager: nothing is rendered under its lock, and what `state` shows is of one
//! moment.

mod memory;
mod sched;
mod security;
mod top;
mod vms;

pub(crate) use memory::{alloc, mem};
pub(crate) use sched::{cpu, sched};
pub(crate) use security::security;
pub(crate) use top::top_snapshot;
pub(crate) use vms::{stats, vm_info, vm_list};

use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use ::alloc::format;
use ::alloc::string::String;
use ::alloc::vec::Vec;
use lamina_core::config::Config;
use lamina_core::console::view::{HostView, StateView, VersionView};
use lamina_core::sched::VcpuId;
use lamina_hw::vmx::VmxRoot;

/// `version`.
pub(crate) fn version(hypervisor: &Hypervisor) -> VersionView {
    VersionView {
        name: "Lamina",
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        firmware: hypervisor.firmware.into(),
        uptime_us: hypervisor.uptime_us(),
    }
}

/// `state`.
pub(crate) fn state(hypervisor: &Hypervisor, manager: &mut Manager, root: &VmxRoot) -> StateView {
    let ids: Vec<u32> = manager.vms.iter().map(|vm| vm.id).collect();
    StateView {
        lamina: version(hypervisor),
        host: HostView {
            log_level: log::max_level().as_str().to_ascii_lowercase(),
            tee_serial: hypervisor.host.tee_serial,
            stop_grace_us: hypervisor.host.stop_grace_us,
        },
        cpu: cpu(hypervisor, manager, root),
        sched: sched(hypervisor, manager),
        alloc: alloc(hypervisor, manager),
        mem: mem(manager),
        vms: ids.into_iter().filter_map(|id| vm_info(hypervisor, manager, id)).collect(),
        stats: stats(manager, None).vms,
        ..StateView::default()
    }
}

/// The configuration as it is now: what was created, changed and set since the boot with it.
pub(crate) fn config(hypervisor: &Hypervisor, manager: &Manager) -> Config {
    let mut host = hypervisor.host.clone();
    host.sched_policy = manager.scheduler.policy();
    host.alloc_strategy = manager.allocator.strategy();
    host.overcommit_percent = manager.allocator.overcommit_percent();
    Config { host, vms: manager.vms.iter().map(|vm| vm.config.clone()).collect() }
}

/// A vCPU as `NAME/INDEX`.
fn vcpu_name(manager: &Manager, vcpu: VcpuId) -> Option<String> {
    let vm = manager.vms.iter().find(|vm| vm.id == vcpu.vm)?;
    Some(format!("{}/{}", vm.config.name, vcpu.index))
}
