//! What the CPUs tell each other: to look at the scheduler again.

use core::sync::atomic::{AtomicBool, Ordering};
use lamina_core::sched::{CpuId, MAX_CPUS};
use lamina_hw::{apic, cpu};

/// The CPU that the machine booted on: the console and the life of the VMs are its business.
pub(crate) const BOOT_CPU: CpuId = CpuId(0);

static TO_DECIDE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Has a CPU end its turn or its sleep and decide anew what to run.
pub(crate) fn decide_anew(on: CpuId) {
    if let Some(flag) = TO_DECIDE.get(usize::from(on.0)) {
        flag.store(true, Ordering::SeqCst);
        if on != cpu::this() {
            apic::kick(on);
        }
    }
}

/// Whether this CPU was told to decide anew.
pub(crate) fn is_to_decide(cpu: CpuId) -> bool {
    TO_DECIDE.get(usize::from(cpu.0)).is_some_and(|flag| flag.load(Ordering::SeqCst))
}

/// This CPU decides now. To be called under the manager's lock: what changes later is told anew.
pub(crate) fn decides(cpu: CpuId) {
    if let Some(flag) = TO_DECIDE.get(usize::from(cpu.0)) {
        flag.store(false, Ordering::SeqCst);
    }
}
