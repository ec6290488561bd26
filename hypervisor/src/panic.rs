//! When the hypervisor itself is wrong: the epitaph on the serial line, then halt or reboot as configured.

use crate::flight;
use crate::logger::print;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use lamina_core::config::OnPanic;
use lamina_hw::acpi::Platform;
use lamina_hw::cpu::{self, TrapFrame};
use lamina_hw::{apic, power, serial};
use spin::Once;

/// No CPU panics.
const NOBODY: u32 = u32::MAX;

/// The CPU that panics: the first one tells, and stops the others.
static PANICKING: AtomicU32 = AtomicU32::new(NOBODY);
static POLICY: Once<(OnPanic, Platform)> = Once::new();

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
    let this = cpu::this();
    match PANICKING.compare_exchange(NOBODY, u32::from(this.0), Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // A panic while telling of a panic: whatever is broken, going on would make it worse.
        Err(panicking) if panicking == u32::from(this.0) => power::halt(),
        // Another CPU tells already: two epitaphs at once could not be read.
        Err(_) => cpu::stop_here(),
    }
    let (stopped, others) = apic::stop_others();
    serial::seize();
    // Nothing here allocates: the heap may be what is broken, or locked by what panicked. `Terminal` never fails.
    let _ = writeln!(Terminal, "\n*** LAMINA PANIC: {info}");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let _ = write!(Terminal, "Lamina {} ({profile}), CPU {}, build id ", env!("CARGO_PKG_VERSION"), this.0);
    for byte in cpu::build_id() {
        let _ = write!(Terminal, "{byte:02x}");
    }
    let _ = write!(Terminal, "\nbacktrace:");
    for offset in cpu::backtrace() {
        let _ = write!(Terminal, " +{offset:#x}");
    }
    let _ = writeln!(Terminal, "\n(names and lines: `cargo xtask symbolize` with this text)");
    if others > 0 {
        let _ = writeln!(Terminal, "{stopped} of {others} other CPUs stopped");
    }
    let _ = write!(Terminal, "{}", flight::Epitaph(cpu::this()));
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
        "exception {} (error code {:#x}) at {:#x} (+{:#x}), CR2 {cr2:#x}\n{frame:#x?}",
        frame.vector,
        frame.error_code,
        frame.rip,
        cpu::offset_in_image(frame.rip)
    )
}
