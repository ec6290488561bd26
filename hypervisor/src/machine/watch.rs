//! What is seen of a VM from outside, between two looks of the boot CPU.

use super::Machine;
use crate::hypervisor::Hypervisor;
use lamina_core::vm::ExitModel;
use lamina_core::vm::exit_model::Suspicion;
use lamina_hw::time;

/// What was seen so far.
#[derive(Default)]
pub(super) struct Watch {
    model: ExitModel,
    /// The guest tick of the last look.
    looked_at: u64,
    crash_loaded: bool,
}

/// What is new since the last look.
pub(crate) struct Seen {
    /// The VM became suspect, or is no longer.
    pub(crate) suspicion: Option<Option<Suspicion>>,
    /// The guest has panicked and handles that by itself.
    pub(crate) crash_loaded: bool,
}

impl Machine {
    /// Ends a window of the exit model, if the guest's clock has gone on for `least_us` since the last one.
    pub(crate) fn look_at_exits(&self, hypervisor: &Hypervisor, least_us: u64) -> Seen {
        let counters = self.counters();
        let shared = self.lock();
        let now = time::now().wrapping_sub(shared.origin);
        let crash_loaded = shared.board.crash_loaded();
        drop(shared);
        let mut watch = self.watch.lock();
        let newly_loaded = crash_loaded && !core::mem::replace(&mut watch.crash_loaded, crash_loaded);
        let us = hypervisor.ticks_to_us(now.saturating_sub(watch.looked_at));
        if us < least_us {
            return Seen { suspicion: None, crash_loaded: newly_loaded };
        }
        watch.looked_at = now;
        let reason = |suspicion: Option<Suspicion>| suspicion.map(|suspicion| suspicion.reason);
        let before = reason(watch.model.suspicion());
        let suspicion = watch.model.observe(counters.by_reason(), us);
        Seen { suspicion: (reason(suspicion) != before).then_some(suspicion), crash_loaded: newly_loaded }
    }

    /// The reason of VM exits that stood out in the last window.
    pub(crate) fn suspicion(&self) -> Option<Suspicion> {
        self.watch.lock().model.suspicion()
    }

    /// Whether the guest has panicked and handles that by itself, as of the last look.
    pub(crate) fn crash_loaded(&self) -> bool {
        self.watch.lock().crash_loaded
    }
}
