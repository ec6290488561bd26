//! Looking at what VMs do, off their exit path: their mix of exits, and panics that they handle themselves.

use super::Vmm;
use crate::machine::Machine;
use crate::vm::Vm;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use lamina_core::exit::reason_name;
use lamina_core::vm::exit_model::Suspicion;
use lamina_hw::time;

/// How long a window of the exit model is, in microseconds.
const WINDOW_US: u64 = 1_000_000;

impl Vmm<'_> {
    /// A window is over: each VM's model judges it, and what has changed is told.
    pub(super) fn look_at_exits(&self) {
        let mut manager = self.hypervisor.manager.lock();
        manager.exits_look_at = time::now().saturating_add(self.hypervisor.us_to_ticks(WINDOW_US));
        let watched = |vm: &Vm| {
            let machine = vm.machine.clone().filter(|_| vm.state.is_runnable())?;
            Some((vm.config.name.clone(), machine))
        };
        let vms: Vec<(String, Arc<Machine>)> = manager.vms.iter().filter_map(watched).collect();
        drop(manager);
        for (name, machine) in vms {
            let seen = machine.look_at_exits(self.hypervisor, WINDOW_US / 2);
            if let Some(suspicion) = seen.suspicion {
                match suspicion {
                    Some(suspicion) => log::warn!("vm {name}: suspect: {}", explain(&suspicion)),
                    None => log::info!("vm {name}: no longer suspect"),
                }
            }
            if seen.crash_loaded {
                log::warn!("vm {name}: the guest has panicked, and handles that by its crash kernel");
            }
        }
    }
}

fn explain(suspicion: &Suspicion) -> String {
    let Suspicion { per_s, usual_per_s, log2_odds, .. } = suspicion;
    let reason = reason_name(suspicion.reason.into());
    alloc::format!("{per_s} exits a second for {reason}, usually {usual_per_s}; odds 2^{log2_odds} to 1")
}
