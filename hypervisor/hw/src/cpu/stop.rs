//! Stopping for another CPU's panic. Nothing here takes a lock: it may have been interrupted anywhere.

use super::block;
use core::sync::atomic::{AtomicU32, Ordering};
use lamina_core::sched::CpuId;

/// Nobody asks.
const NOBODY: u32 = u32::MAX;

/// The CPU for whose sake all others stop.
static STOPPER: AtomicU32 = AtomicU32::new(NOBODY);

/// From here on, every other CPU that takes an NMI stops.
pub(crate) fn ask_to_stop(stopper: CpuId) {
    STOPPER.store(u32::from(stopper.0), Ordering::Release);
}

/// In the NMI handler: stops, if another CPU asked for it.
pub(super) fn stop_if_asked() {
    let stopper = STOPPER.load(Ordering::Acquire);
    if stopper != NOBODY && stopper != u32::from(block::this().0) {
        stop_here();
    }
}

/// Stops the CPU that calls, for good, and has this seen.
pub fn stop_here() -> ! {
    block::this_block().set_stopped();
    crate::power::halt()
}
