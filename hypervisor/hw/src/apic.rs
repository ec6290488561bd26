//! The host's local APIC and IOAPICs: the clock event, and the console's interrupt.

use crate::acpi::Platform;
use crate::cpu::{self, msr};
use crate::mem::{self, MapError};
use crate::serial::COM1_IRQ;
use crate::time;
use core::cell::RefCell;
use lamina_core::memory::HostPhysAddr;
use spin::{Mutex, Once};
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode, RedirectionTableEntry};
use x2apic::lapic::{LocalApic, LocalApicBuilder, TimerDivide, TimerMode, xapic_base};

/// How the local APIC timer is told the time of its next interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    /// TSC-deadline mode: the TSC value itself.
    TscDeadline,
    /// One-shot mode: a count of a clock that ticks this many times while the TSC ticks 2^16 times.
    OneShot { per_65536_ticks: u64 },
}

struct Host(RefCell<LocalApic>);

// SAFETY: the register accesses of a `LocalApic` reach the local APIC of the CPU that executes them. One CPU runs the
// hypervisor; the others are never started.
unsafe impl Send for Host {}

static LOCAL_APIC: Mutex<Option<Host>> = Mutex::new(None);
static CLOCK: Once<Clock> = Once::new();

/// Sets up the local APIC, its timer, and COM1's interrupt at the IOAPIC.
///
/// # Errors
/// [`MapError`] when a controller's registers cannot be mapped.
pub fn init(platform: &Platform) -> Result<(), MapError> {
    // SAFETY: every CPU with VT-x has a local APIC, so IA32_APIC_BASE exists.
    let registers = mem::map_mmio(HostPhysAddr(unsafe { xapic_base() }))?;
    let built = LocalApicBuilder::new()
        .timer_vector(usize::from(cpu::TIMER_VECTOR))
        .error_vector(usize::from(cpu::ERROR_VECTOR))
        .spurious_vector(usize::from(cpu::SPURIOUS_VECTOR))
        .timer_mode(TimerMode::OneShot)
        .timer_divide(TimerDivide::Div1)
        .timer_initial(0)
        .set_xapic_base(registers)
        .build();
    let Ok(mut apic) = built else { panic!("the local APIC builder lacks a field") };
    // SAFETY: the three vectors have handlers in the IDT, and the xAPIC registers are mapped uncacheable.
    unsafe { apic.enable() };
    let clock = choose_clock(&mut apic);
    log::debug!("clock event: local APIC timer, {clock:?}");
    CLOCK.call_once(|| clock);
    *LOCAL_APIC.lock() = Some(Host(RefCell::new(apic)));
    route_console(platform)
}

fn choose_clock(apic: &mut LocalApic) -> Clock {
    let has_deadline = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|features| features.has_tsc_deadline());
    if has_deadline {
        // SAFETY: the mode exists, by CPUID; the timer stays disarmed until a deadline is written.
        unsafe { apic.set_timer_mode(TimerMode::TscDeadline) };
        return Clock::TscDeadline;
    }
    const MEASURE_TICKS: u64 = 1 << 20;
    // SAFETY: the timer's vector has a handler, and interrupts are off while it counts.
    unsafe { apic.set_timer_initial(u32::MAX) };
    let start = time::now();
    while time::now() - start < MEASURE_TICKS {}
    // SAFETY: reading the current count, and writing 0 to the initial count, which stops the timer.
    let counted = unsafe {
        let counted = u32::MAX - apic.timer_current();
        apic.set_timer_initial(0);
        counted
    };
    Clock::OneShot { per_65536_ticks: (u64::from(counted) / (MEASURE_TICKS >> 16)).max(1) }
}

/// Routes COM1's interrupt to this CPU. Without an IOAPIC the console is polled at every clock event.
fn route_console(platform: &Platform) -> Result<(), MapError> {
    let (gsi, active_low, level) = platform
        .overrides
        .iter()
        .find(|(irq, ..)| *irq == COM1_IRQ)
        .map_or((u32::from(COM1_IRQ), false, false), |&(_, gsi, active_low, level)| (gsi, active_low, level));
    let mut routed = false;
    for &(address, first_gsi) in &platform.ioapics {
        let registers = mem::map_mmio(address)?;
        // SAFETY: the address is an IOAPIC's by the MADT, mapped uncacheable for good; nobody else touches its registers.
        let mut ioapic = unsafe { IoApic::new(registers) };
        // SAFETY: as above. Every entry is masked, so that no interrupt the firmware left on comes in.
        let last_pin = unsafe { ioapic.max_table_entry() };
        for pin in 0..=last_pin {
            let mut entry = RedirectionTableEntry::default();
            entry.set_mode(IrqMode::Fixed);
            entry.set_vector(cpu::SERIAL_VECTOR);
            let mut flags = IrqFlags::MASKED;
            if gsi == first_gsi + u32::from(pin) {
                flags = IrqFlags::empty();
                flags.set(IrqFlags::LOW_ACTIVE, active_low);
                flags.set(IrqFlags::LEVEL_TRIGGERED, level);
                entry.set_dest(this_cpu() as u8);
                routed = true;
            }
            entry.set_flags(flags);
            // SAFETY: the vector has a handler; the destination is this CPU.
            unsafe { ioapic.set_table_entry(pin, entry) };
        }
    }
    if !routed {
        log::warn!("no IOAPIC takes COM1's interrupt (GSI {gsi}): console input is polled");
    }
    Ok(())
}

/// The local APIC ID of the CPU that calls.
#[must_use]
pub fn this_cpu() -> u32 {
    raw_cpuid::CpuId::new().get_feature_info().map_or(0, |features| u32::from(features.initial_local_apic_id()))
}

/// Ends the interrupt in service at the local APIC.
pub(crate) fn end_of_interrupt() {
    if let Some(host) = LOCAL_APIC.lock().as_ref() {
        // SAFETY: called once per interrupt taken, by `cpu::acknowledge`.
        unsafe { host.0.borrow_mut().end_of_interrupt() };
    }
}

/// Has the timer interrupt at (or soon after) this TSC value; once.
pub fn set_clock_event(deadline: u64) {
    match CLOCK.get() {
        // SAFETY: the timer is in TSC-deadline mode and its vector has a handler; a deadline in the past fires at once, and
        // 0, which would disarm it, is made 1.
        Some(Clock::TscDeadline) => unsafe { msr::write(msr::TSC_DEADLINE, deadline.max(1)) },
        Some(&Clock::OneShot { per_65536_ticks }) => {
            let ticks = deadline.saturating_sub(time::now()).min(1 << 40);
            let count = u32::try_from((ticks * per_65536_ticks) >> 16).unwrap_or(u32::MAX).max(1);
            if let Some(host) = LOCAL_APIC.lock().as_ref() {
                // SAFETY: the timer is in one-shot mode and its vector has a handler.
                unsafe { host.0.borrow_mut().set_timer_initial(count) };
            }
        }
        None => {}
    }
}
