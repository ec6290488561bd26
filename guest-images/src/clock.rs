//! How fast the clocks run: from CPUID where it tells, else by measuring against the PIT.

use crate::{apic, cpu, pic};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The first leaf of a hypervisor.
pub const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// EAX = TSC in kHz, EBX = local APIC bus clock in kHz.
pub const HYPERVISOR_FREQUENCY_LEAF: u32 = 0x4000_0010;
/// The TSC and core crystal clock leaf.
const TSC_LEAF: u32 = 0x15;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

/// TSC and crystal frequency as CPUID leaf 0x15 gives them.
#[must_use]
pub fn cpuid_frequencies() -> Option<(u64, u64)> {
    if cpu::cpuid(0, 0).eax < TSC_LEAF {
        return None;
    }
    let leaf = cpu::cpuid(TSC_LEAF, 0);
    let (denominator, numerator, crystal_hz) = (u64::from(leaf.eax), u64::from(leaf.ebx), u64::from(leaf.ecx));
    if denominator == 0 || numerator == 0 || crystal_hz == 0 {
        return None;
    }
    Some((crystal_hz * numerator / denominator, crystal_hz))
}

/// TSC and APIC bus frequency as the hypervisor's leaf gives them.
#[must_use]
pub fn hypervisor_frequencies() -> Option<(u64, u64)> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if cpu::cpuid(1, 0).ecx & HYPERVISOR_PRESENT == 0 || cpu::cpuid(HYPERVISOR_LEAF, 0).eax < HYPERVISOR_FREQUENCY_LEAF
    {
        return None;
    }
    let leaf = cpu::cpuid(HYPERVISOR_FREQUENCY_LEAF, 0);
    (leaf.eax != 0 && leaf.ebx != 0).then(|| (u64::from(leaf.eax) * 1000, u64::from(leaf.ebx) * 1000))
}

/// TSC ticks per second.
#[must_use]
pub fn tsc_hz() -> u64 {
    if TSC_HZ.load(Relaxed) == 0 {
        let told = cpuid_frequencies().or_else(hypervisor_frequencies);
        TSC_HZ.store(told.map_or_else(measure_tsc_hz, |(tsc_hz, _)| tsc_hz), Relaxed);
    }
    TSC_HZ.load(Relaxed)
}

/// Ticks per second of the local APIC timer's input clock (before the divider).
#[must_use]
pub fn apic_timer_hz() -> u64 {
    if APIC_HZ.load(Relaxed) == 0 {
        let told = cpuid_frequencies().or_else(hypervisor_frequencies);
        APIC_HZ.store(told.map_or_else(measure_apic_timer_hz, |(_, crystal_hz)| crystal_hz), Relaxed);
    }
    APIC_HZ.load(Relaxed)
}

/// Measures the TSC against 20 ms of the PIT.
#[must_use]
pub fn measure_tsc_hz() -> u64 {
    const PERIODS: u16 = 23_864;
    let start = cpu::read_tsc();
    pic::wait_pit(PERIODS);
    (cpu::read_tsc() - start) * pic::PIT_HZ / u64::from(PERIODS)
}

/// Measures the APIC timer against 20 ms of the PIT, with the timer interrupt masked meanwhile. The divider is left at 1.
#[must_use]
pub fn measure_apic_timer_hz() -> u64 {
    const PERIODS: u16 = 23_864;
    let lvt = apic::read(apic::register::LVT_TIMER);
    apic::write(apic::register::LVT_TIMER, apic::MASKED);
    apic::write(apic::register::DIVIDE, apic::DIVIDE_BY_1);
    apic::write(apic::register::INITIAL_COUNT, u32::MAX);
    let start = apic::read(apic::register::CURRENT_COUNT);
    pic::wait_pit(PERIODS);
    let passed = start - apic::read(apic::register::CURRENT_COUNT);
    apic::write(apic::register::INITIAL_COUNT, 0);
    apic::write(apic::register::LVT_TIMER, lvt);
    u64::from(passed) * pic::PIT_HZ / u64::from(PERIODS)
}
