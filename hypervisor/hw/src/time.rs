//! The host's clock: the TSC, and its frequency measured against a timer of known rate.

use crate::acpi::Platform;
use crate::port;
use core::sync::atomic::{AtomicU64, Ordering};
use lamina_core::boot::tsc::{self, Measurement, Sample, Timer, TscCpuid, TscFrequency, UnknownFrequency};

/// The PM timer's frequency in Hz (ACPI specification, "Power Management Timer").
const PM_TIMER_HZ: u64 = 3_579_545;
/// The 8254's input clock in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Measurements made; their median counts.
const SAMPLES: usize = 3;
/// How long a measurement takes, as a fraction of a second: 1/100 s.
const MEASUREMENT_FRACTION: u64 = 100;

/// The frequency that [`tsc_frequency`] found, in Hz.
static TSC_HZ: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: RDTSC has no effect on memory, and CR4.TSD does not concern ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter, read after everything before it and before everything behind it ("RDTSC": with LFENCE on both sides).
pub(crate) fn now_in_order() -> u64 {
    use core::arch::x86_64::_mm_lfence;
    // SAFETY: LFENCE only waits; every 64-bit CPU has it.
    unsafe { _mm_lfence() };
    let now = now();
    // SAFETY: as above.
    unsafe { _mm_lfence() };
    now
}

/// The TSC's frequency: what CPUID says, checked against a measurement that takes a few hundredths of a second.
///
/// # Errors
/// [`UnknownFrequency`] where CPUID says nothing and there is no timer to measure against.
pub fn tsc_frequency(platform: &Platform) -> Result<TscFrequency, UnknownFrequency> {
    let found = find_frequency(platform)?;
    TSC_HZ.store(found.hz, Ordering::Relaxed);
    Ok(found)
}

/// This many microseconds in TSC ticks; none before [`tsc_frequency`].
pub(crate) fn us_to_ticks(us: u64) -> u64 {
    TSC_HZ.load(Ordering::Relaxed).saturating_mul(us) / 1_000_000
}

/// Waits until this holds, for so many microseconds at most; whether it did.
pub(crate) fn wait_until(us: u64, mut done: impl FnMut() -> bool) -> bool {
    let (start, ticks) = (now(), us_to_ticks(us));
    loop {
        if done() {
            return true;
        }
        if now().wrapping_sub(start) >= ticks {
            return false;
        }
        core::hint::spin_loop();
    }
}

fn find_frequency(platform: &Platform) -> Result<TscFrequency, UnknownFrequency> {
    let mut samples = [Sample { tsc_ticks: 0, timer_ticks: 0 }; SAMPLES];
    let pm_timer = platform.pm_timer.and_then(|(port, is_32_bit)| {
        samples.iter_mut().try_for_each(|sample| {
            *sample = measure_pm_timer(port, is_32_bit)?;
            Some(())
        })
    });
    if pm_timer.is_some() {
        let measurement = Measurement { timer: Timer::PmTimer, timer_hz: PM_TIMER_HZ, samples: &samples };
        return tsc::tsc_frequency(&cpuid_claim(), Some(&measurement));
    }
    let sample = measure_pit();
    let measurement = sample.as_ref().map(|sample| Measurement {
        timer: Timer::Pit,
        timer_hz: PIT_HZ,
        samples: core::slice::from_ref(sample),
    });
    tsc::tsc_frequency(&cpuid_claim(), measurement.as_ref())
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
            return Some(Sample { tsc_ticks, timer_ticks: u64::from(passed) });
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
    Some(Sample { tsc_ticks, timer_ticks: periods })
}

fn cpuid_claim() -> TscCpuid {
    let cpuid = raw_cpuid::CpuId::new();
    let crystal = cpuid.get_tsc_info();
    TscCpuid {
        denominator: crystal.as_ref().map_or(0, raw_cpuid::TscInfo::denominator),
        numerator: crystal.as_ref().map_or(0, raw_cpuid::TscInfo::numerator),
        crystal_hz: crystal.as_ref().map_or(0, raw_cpuid::TscInfo::nominal_frequency),
        base_mhz: cpuid.get_processor_frequency_info().map_or(0, |info| info.processor_base_frequency()),
    }
}

/// The host's real-time clock, in seconds since 1970.
#[must_use]
pub fn wall_clock_unix_s() -> u64 {
    const CMOS_INDEX: u16 = 0x70;
    const CMOS_DATA: u16 = 0x71;
    lamina_core::device::rtc::read_clock(|register| {
        port::write_u8(CMOS_INDEX, register);
        port::read_u8(CMOS_DATA)
    })
}
