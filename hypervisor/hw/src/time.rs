//! The host's clock: the TSC, and its frequency measured against a timer of known rate.

use crate::acpi::Platform;
use crate::port;

/// The PM timer's frequency in Hz (ACPI specification, "Power Management Timer").
const PM_TIMER_HZ: u64 = 3_579_545;
/// The 8254's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long a measurement takes, as a fraction of a second: 1/100 s.
const MEASUREMENT_FRACTION: u64 = 100;

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: RDTSC has no effect on memory, and CR4.TSD does not concern ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// One measurement of the TSC against a timer.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Name of the timer.
    pub timer: &'static str,
    /// The timer's frequency in Hz.
    pub timer_hz: u64,
    /// Periods of the timer that passed.
    pub timer_periods: u64,
    /// TSC ticks that passed meanwhile.
    pub tsc_ticks: u64,
}

/// Measures the TSC against the PM timer, or the PIT where there is none; takes a hundredth of a second.
#[must_use]
pub fn measure(platform: &Platform) -> Option<Sample> {
    platform.pm_timer.and_then(|(port, is_32_bit)| measure_pm_timer(port, is_32_bit)).or_else(measure_pit)
}

fn measure_pm_timer(port: u16, is_32_bit: bool) -> Option<Sample> {
    let mask = if is_32_bit { u32::MAX } else { 0x00ff_ffff };
    let wanted = (PM_TIMER_HZ / MEASUREMENT_FRACTION) as u32;
    let first = port::read_u32(port) & mask;
    // Start at an edge of the timer, so that the first period is whole. A timer that stands still is none.
    let mut tries = 0;
    let mut start = first;
    while start == first {
        tries += 1;
        if tries > 1_000_000 {
            return None;
        }
        start = port::read_u32(port) & mask;
    }
    let tsc_start = now();
    loop {
        let passed = (port::read_u32(port) & mask).wrapping_sub(start) & mask;
        let tsc_ticks = now() - tsc_start;
        if passed >= wanted {
            return Some(Sample {
                timer: "PM timer",
                timer_hz: PM_TIMER_HZ,
                timer_periods: u64::from(passed),
                tsc_ticks,
            });
        }
    }
}

/// Channel 2 of the 8254 in mode 0 counts down once; bit 5 of port 61h is its output (8254 datasheet, "Mode 0").
fn measure_pit() -> Option<Sample> {
    const SYSTEM_CONTROL_B: u16 = 0x61;
    const CHANNEL_2: u16 = 0x42;
    const MODE: u16 = 0x43;
    const CHANNEL_2_LOW_HIGH_MODE_0: u8 = 0b1011_0000;
    const GATE_ON_SPEAKER_OFF: u8 = 0b01;
    const OUTPUT: u8 = 1 << 5;
    let periods = PIT_HZ / MEASUREMENT_FRACTION;
    let control = port::read_u8(SYSTEM_CONTROL_B);
    port::write_u8(SYSTEM_CONTROL_B, control & !0b11 | GATE_ON_SPEAKER_OFF);
    port::write_u8(MODE, CHANNEL_2_LOW_HIGH_MODE_0);
    let [low, high, ..] = periods.to_le_bytes();
    port::write_u8(CHANNEL_2, low);
    port::write_u8(CHANNEL_2, high);
    let start = now();
    let mut tries = 0u32;
    while port::read_u8(SYSTEM_CONTROL_B) & OUTPUT == 0 {
        tries += 1;
        if tries > 100_000_000 {
            return None;
        }
    }
    let tsc_ticks = now() - start;
    port::write_u8(SYSTEM_CONTROL_B, control);
    Some(Sample { timer: "PIT", timer_hz: PIT_HZ, timer_periods: periods, tsc_ticks })
}

/// What CPUID says about the TSC: (leaf 15h: denominator, numerator, crystal Hz; leaf 16h: base frequency in MHz).
#[must_use]
pub fn cpuid_claim() -> ([u32; 3], u32) {
    let max = core::arch::x86_64::__cpuid(0).eax;
    let crystal = if max >= 0x15 { core::arch::x86_64::__cpuid(0x15) } else { core::arch::x86_64::__cpuid(0x8000_00ff) };
    let base = if max >= 0x16 { core::arch::x86_64::__cpuid(0x16).eax & 0xffff } else { 0 };
    if max >= 0x15 { ([crystal.eax, crystal.ebx, crystal.ecx], base) } else { ([0; 3], base) }
}
