//! Looking at what VMs do, off their exit path: their mix of exits, and panics that they handle themselves.

use super::Vmm;
use crate::vm::Vm;
use alloc::string::String;
use lamina_core::exit::reason_name;
use lamina_core::vm::exit_model::Suspicion;
use lamina_hw::time;

/// How long a window of the exit model is, in microseconds.
const WINDOW_US: u64 = 1_000_000;
/// How often it is looked whether there is a VM, in microseconds.
const IDLE_US: u64 = 100_000;

impl Vmm<'_> {
    /// A window of a VM is over: its model judges it, and what has changed is told. One VM after the other, so that this is
    /// never long, and each about once in a window.
    pub(super) fn look_at_exits(&self) {
        let mut manager = self.hypervisor.manager.lock();
        let is_watched = |vm: &&Vm| vm.state.is_runnable() && vm.machine.is_some();
        let count = manager.vms.iter().filter(is_watched).count() as u64;
        let after = manager.exits_looked_at;
        let mut watched = manager.vms.iter().filter(is_watched);
        let next = watched.clone().find(|vm| vm.id > after).or_else(|| watched.next());
        let found = next.and_then(|vm| Some((vm.id, vm.config.name.clone(), vm.machine.clone()?)));
        let wait_us = WINDOW_US.checked_div(count).unwrap_or(IDLE_US);
        manager.exits_look_at = time::now().saturating_add(self.hypervisor.us_to_ticks(wait_us));
        let Some((id, name, machine)) = found else { return };
        manager.exits_looked_at = id;
        drop(manager);
        let seen = machine.look_at_exits(self.hypervisor, WINDOW_US / 2);
        match seen.suspicion {
            Some(Some(suspicion)) => log::warn!("vm {name}: suspect: {}", explain(&suspicion)),
            Some(None) => log::info!("vm {name}: no longer suspect"),
            None => {}
        }
        if seen.crash_loaded {
            log::warn!("vm {name}: the guest has panicked, and handles that by its crash kernel");
        }
    }
}

fn explain(suspicion: &Suspicion) -> String {
    let Suspicion { per_s, usual_per_s, log2_odds, .. } = suspicion;
    let reason = reason_name(suspicion.reason.into());
    alloc::format!("{per_s} exits a second for {reason}, usually {usual_per_s}; odds 2^{log2_odds} to 1")
}
