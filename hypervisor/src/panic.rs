//! When the hypervisor itself is wrong: the epitaph on the serial line, then halt or reboot as configured.

use crate::logger::print;
use alloc::format;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use lamina_core::config::OnPanic;
use lamina_hw::acpi::Platform;
use lamina_hw::cpu::{self, TrapFrame};
use lamina_hw::{power, serial};
use spin::Once;

static PANICKING: AtomicBool = AtomicBool::new(false);
static POLICY: Once<(OnPanic, Platform)> = Once::new();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
    if PANICKING.swap(true, Ordering::AcqRel) {
        // A panic while telling of a panic: whatever is broken, going on would make it worse.
        power::halt();
    }
    serial::seize();
    print(&format!("\n*** LAMINA PANIC: {info}\n"));
    serial::flush();
    match POLICY.get() {
        Some((OnPanic::Reboot, platform)) => power::reset(platform),
        _ => power::halt(),
    }
}

/// What is to be done after the epitaph.
pub(crate) fn set_policy(on_panic: OnPanic, platform: &Platform) {
    POLICY.call_once(|| (on_panic, platform.clone()));
}

/// An exception of the hypervisor's: our bug, or broken hardware.
pub(crate) fn exception(frame: &TrapFrame, cr2: u64) -> ! {
    panic!(
        "exception {} (error code {:#x}) at {:#x}, CR2 {cr2:#x}\n{frame:#x?}",
        frame.vector, frame.error_code, frame.rip
    )
}
