//! When the hypervisor itself is wrong: the epitaph on the serial line, then halt or reboot as configured.

use crate::flight;
use crate::logger::print;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use lamina_core::config::OnPanic;
use lamina_hw::acpi::Platform;
use lamina_hw::cpu::{self, TrapFrame};
use lamina_hw::{apic, power, serial};
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
    // Nothing here allocates: the heap may be what is broken, or locked by what panicked. `Terminal` never fails.
    let _ = writeln!(Terminal, "\n*** LAMINA PANIC: {info}");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let _ = writeln!(Terminal, "Lamina {} ({profile}), CPU {}", env!("CARGO_PKG_VERSION"), apic::this_cpu());
    let _ = write!(Terminal, "{}", flight::Epitaph);
    let then = match POLICY.get() {
        Some((OnPanic::Reboot, _)) => "reboots",
        _ => "halts",
    };
    let _ = writeln!(Terminal, "*** the machine {then}");
    serial::flush();
    match POLICY.get() {
        Some((OnPanic::Reboot, platform)) => power::reset(platform),
        _ => power::halt(),
    }
}

/// The serial line, for text that is formatted on its way.
struct Terminal;

impl Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(text);
        Ok(())
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
