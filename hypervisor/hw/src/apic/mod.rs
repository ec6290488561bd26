//! The local APICs and the IOAPICs: the clock event, the console's interrupt, interrupts from one CPU to another.
//!
//! Every CPU sets up its own local APIC ([`init`] on the boot CPU, [`init_other`] on the others); what is here works on the
//! local APIC of the CPU that calls and takes no lock, so that it may be called from anywhere.

mod console;
mod registers;

use crate::acpi::Platform;
use crate::cpu::{self, msr};
use crate::mem::{self, MapError};
use crate::time;
use lamina_core::memory::HostPhysAddr;
use lamina_core::sched::CpuId;
use registers::{Register, Registers};
use spin::Once;

const APIC_BASE: u32 = 0x1b;
/// IA32_APIC_BASE: this is the boot CPU.
const BASE_BOOT_CPU: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the local APIC is on.
const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: where the xAPIC's registers are.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// LVT entries: no interrupt.
const LVT_MASKED: u32 = 1 << 16;
/// LVT timer: "TSC-deadline mode".
const LVT_TSC_DEADLINE: u32 = 0b10 << 17;
/// Spurious-interrupt vector register: "APIC software enable".
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Divide configuration register: by 1.
const DIVIDE_BY_1: u32 = 0b1011;

/// Commands of the ICR: delivery mode, and "level assert", which all but one old command have.
const ICR_ASSERT: u32 = 1 << 14;
const ICR_NMI: u32 = 0b100 << 8;
const ICR_INIT: u32 = 0b101 << 8;
const ICR_STARTUP: u32 = 0b110 << 8;

/// How long the other CPUs have to take the NMI that stops them, in TSC ticks: a hundredth of a second or more.
const STOP_TICKS: u64 = 1 << 26;

/// How the local APIC timer is told the time of its next interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    /// TSC-deadline mode: the TSC value itself.
    TscDeadline,
    /// One-shot mode: a count of a clock that ticks this many times while the TSC ticks 2^16 times.
    OneShot { per_65536_ticks: u64 },
}

/// What the boot CPU found, and all CPUs use.
#[derive(Clone, Copy, Debug)]
struct LocalApics {
    registers: Registers,
    /// Physical address of the registers, where they are in memory.
    address: u64,
    clock: Clock,
}

static LOCAL_APICS: Once<LocalApics> = Once::new();

/// Sets up the boot CPU's local APIC, its timer, and COM1's interrupt at the IOAPIC.
///
/// # Errors
/// [`MapError`] when a controller's registers cannot be mapped.
pub fn init(platform: &Platform) -> Result<(), MapError> {
    let features = raw_cpuid::CpuId::new().get_feature_info();
    let address = msr::read(APIC_BASE) & BASE_ADDRESS;
    let registers = if features.as_ref().is_some_and(raw_cpuid::FeatureInfo::has_x2apic) {
        Registers::Msrs
    } else {
        Registers::Memory(mem::map_mmio(HostPhysAddr(address))?)
    };
    switch_on(registers, address);
    let has_deadline = features.is_some_and(|features| features.has_tsc_deadline());
    let clock = if has_deadline { Clock::TscDeadline } else { measure(registers) };
    set_up(registers, clock);
    log::debug!("clock event: local APIC timer, {clock:?}");
    LOCAL_APICS.call_once(|| LocalApics { registers, address, clock });
    cpu::this_block().set_apic_id(registers.id());
    console::route(platform)
}

/// Sets up the local APIC of another CPU than the boot CPU as [`init`] did the boot CPU's.
pub(crate) fn init_other() {
    let Some(apics) = LOCAL_APICS.get() else { return };
    switch_on(apics.registers, apics.address);
    set_up(apics.registers, apics.clock);
    cpu::this_block().set_apic_id(apics.registers.id());
}

/// Puts the local APIC into the mode that the registers need.
fn switch_on(registers: Registers, address: u64) {
    let base = msr::read(APIC_BASE) & BASE_BOOT_CPU | address | BASE_ENABLE;
    let in_x2apic_mode = msr::read(APIC_BASE) & BASE_X2APIC != 0;
    // SAFETY: every CPU with VT-x has a local APIC. The address is the one that the boot CPU's firmware chose, where no RAM is; x2APIC
    // mode is entered from xAPIC mode, the one way there, and never left.
    unsafe {
        if !in_x2apic_mode {
            msr::write(APIC_BASE, base);
        }
        if registers == Registers::Msrs {
            msr::write(APIC_BASE, base | BASE_X2APIC);
        }
    }
}

/// The local vector table: the timer and errors have handlers, the pins LINT0 and LINT1 are off.
fn set_up(registers: Registers, clock: Clock) {
    let timer = match clock {
        Clock::TscDeadline => u32::from(cpu::TIMER_VECTOR) | LVT_TSC_DEADLINE,
        Clock::OneShot { .. } => u32::from(cpu::TIMER_VECTOR),
    };
    // SAFETY: the three vectors have handlers in the IDT; TSC-deadline mode exists where the clock says so. The timer stays
    // disarmed until it is told a time.
    unsafe {
        registers.write(Register::SpuriousVector, SOFTWARE_ENABLE | u32::from(cpu::SPURIOUS_VECTOR));
        registers.write(Register::TaskPriority, 0);
        registers.write(Register::LvtLint0, LVT_MASKED);
        registers.write(Register::LvtLint1, LVT_MASKED);
        registers.write(Register::ErrorStatus, 0);
        registers.write(Register::LvtError, u32::from(cpu::ERROR_VECTOR));
        registers.write(Register::DivideConfiguration, DIVIDE_BY_1);
        registers.write(Register::LvtTimer, timer);
        if clock != Clock::TscDeadline {
            registers.write(Register::InitialCount, 0);
        }
        // "The processor does not ensure ordering" of the entry's store in memory and a WRMSR to IA32_TSC_DEADLINE ("TSC-Deadline
        // Mode").
        core::arch::x86_64::_mm_mfence();
    }
}

/// Counts what the timer's clock does while the TSC ticks.
fn measure(registers: Registers) -> Clock {
    const MEASURE_TICKS: u64 = 1 << 20;
    // SAFETY: the timer's interrupt is masked while it counts; 0 stops it.
    unsafe {
        registers.write(Register::LvtTimer, LVT_MASKED);
        registers.write(Register::DivideConfiguration, DIVIDE_BY_1);
        registers.write(Register::InitialCount, u32::MAX);
    }
    let start = time::now();
    while time::now() - start < MEASURE_TICKS {}
    let counted = u32::MAX - registers.read(Register::CurrentCount);
    // SAFETY: as above.
    unsafe { registers.write(Register::InitialCount, 0) };
    Clock::OneShot { per_65536_ticks: (u64::from(counted) / (MEASURE_TICKS >> 16)).max(1) }
}

/// The local APIC ID of the CPU that calls; 0 before [`init`].
pub(crate) fn local_id() -> u32 {
    LOCAL_APICS.get().map_or(0, |apics| apics.registers.id())
}

/// Ends the interrupt in service at the local APIC.
pub(crate) fn end_of_interrupt() {
    if let Some(apics) = LOCAL_APICS.get() {
        // SAFETY: called once per interrupt taken, by `cpu::acknowledge`.
        unsafe { apics.registers.write(Register::EndOfInterrupt, 0) };
    }
}

/// Has this CPU's timer interrupt at (or soon after) this TSC value; once.
pub fn set_clock_event(deadline: u64) {
    let Some(apics) = LOCAL_APICS.get() else { return };
    match apics.clock {
        // SAFETY: the timer is in TSC-deadline mode and its vector has a handler; a deadline in the past fires at once, and
        // 0, which would disarm it, is made 1.
        Clock::TscDeadline => unsafe { msr::write(msr::TSC_DEADLINE, deadline.max(1)) },
        Clock::OneShot { per_65536_ticks } => {
            let ticks = deadline.saturating_sub(time::now()).min(1 << 40);
            let count = u32::try_from((ticks * per_65536_ticks) >> 16).unwrap_or(u32::MAX).max(1);
            // SAFETY: the timer is in one-shot mode and its vector has a handler.
            unsafe { apics.registers.write(Register::InitialCount, count) };
        }
    }
}

/// Makes another CPU look up: one that halts goes on, one that runs a guest leaves it. Costs no lock. A CPU that is not online
/// is left alone.
pub fn kick(cpu: CpuId) {
    if let (Some(apics), Some(block)) = (LOCAL_APICS.get(), cpu::online(cpu)) {
        // SAFETY: a CPU that is online is on the hypervisor's IDT, which has a handler for the vector.
        unsafe { apics.registers.send(block.apic_id(), ICR_ASSERT | u32::from(cpu::KICK_VECTOR)) };
    }
}

/// For a panic: stops all other CPUs by NMI, and returns when each has stopped or has had time enough. How many stopped, and
/// how many there are.
pub fn stop_others() -> (usize, usize) {
    let Some(apics) = LOCAL_APICS.get() else { return (0, 0) };
    let this = cpu::this();
    cpu::ask_to_stop(this);
    let others = || cpu::online_cpus().filter(move |block| block.id() != this);
    for block in others().filter(|block| !block.has_stopped()) {
        // SAFETY: a CPU that is online is on the hypervisor's IDT, whose NMI handler stops it.
        unsafe { apics.registers.send(block.apic_id(), ICR_ASSERT | ICR_NMI) };
    }
    let start = time::now();
    while others().any(|block| !block.has_stopped()) && time::now().wrapping_sub(start) < STOP_TICKS {
        core::hint::spin_loop();
    }
    (cpu::stopped_count(), others().count())
}

/// Whether a command can name this CPU.
pub(crate) fn can_reach(apic_id: u32) -> bool {
    LOCAL_APICS.get().is_some_and(|apics| apic_id <= apics.registers.max_id())
}

/// Sends INIT to a CPU: it forgets what it does and waits for its start-up.
///
/// # Safety
/// The CPU must not be online, nor hold anything of the hypervisor's.
pub(crate) unsafe fn send_init(apic_id: u32) {
    if let Some(apics) = LOCAL_APICS.get() {
        // SAFETY: forwarded to the caller.
        unsafe { apics.registers.send(apic_id, ICR_ASSERT | ICR_INIT) };
    }
}

/// Sends start-up to a CPU: one that waits for it begins in real mode at the start of this frame.
///
/// # Safety
/// Start-up code must be there.
pub(crate) unsafe fn send_startup(apic_id: u32, frame: u8) {
    if let Some(apics) = LOCAL_APICS.get() {
        // SAFETY: forwarded to the caller.
        unsafe { apics.registers.send(apic_id, ICR_ASSERT | ICR_STARTUP | u32::from(frame)) };
    }
}
