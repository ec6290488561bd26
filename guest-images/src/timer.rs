//! Sleeping by the local APIC timer: TSC-deadline where the CPU has it, else one-shot.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::apic::{self, register};
use crate::{clock, cpu, pic, trap};

const VECTOR: u8 = 0x40;
static FIRED: AtomicU32 = AtomicU32::new(0);

/// This processor's timer, set up.
#[derive(Debug)]
pub struct Timer {
    tsc_deadline: bool,
}

impl Timer {
    /// Masks the PIC, enables the local APIC, and takes a vector for its timer.
    #[must_use]
    pub fn new() -> Self {
        const TSC_DEADLINE: u32 = 1 << 24;
        trap::on(VECTOR, |_| {
            FIRED.fetch_add(1, Relaxed);
            apic::end_of_interrupt();
        });
        pic::init();
        apic::enable();
        let tsc_deadline = cpu::cpuid(1, 0).ecx & TSC_DEADLINE != 0;
        if tsc_deadline {
            apic::write(register::LVT_TIMER, u32::from(VECTOR) | apic::TIMER_TSC_DEADLINE);
            // "MFENCE ... to ensure that the write of the LVT entry is in effect before IA32_TSC_DEADLINE is written".
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        } else {
            // Measured, where it must be, before the timer is in use.
            let _ = clock::apic_timer_hz();
            apic::write(register::DIVIDE, apic::DIVIDE_BY_1);
            apic::write(register::LVT_TIMER, u32::from(VECTOR));
        }
        Self { tsc_deadline }
    }

    /// Halts until the TSC is at `deadline`. Interrupts are off before and after.
    pub fn sleep_until(&self, deadline: u64) {
        while let Some(left) = deadline.checked_sub(cpu::read_tsc()).filter(|&left| left > 0) {
            let before = FIRED.load(Relaxed);
            if self.tsc_deadline {
                // SAFETY: the timer's vector has a handler.
                unsafe { cpu::write_msr(apic::TSC_DEADLINE_MSR, deadline) };
            } else {
                let count = u128::from(left) * u128::from(clock::apic_timer_hz()) / u128::from(clock::tsc_hz());
                apic::write(register::INITIAL_COUNT, u32::try_from(count).unwrap_or(u32::MAX).max(1));
            }
            cpu::halt_until(|| FIRED.load(Relaxed) != before);
        }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

/// TSC ticks in so many microseconds.
#[must_use]
pub fn ticks(us: u64) -> u64 {
    (u128::from(us) * u128::from(clock::tsc_hz()) / 1_000_000) as u64
}

/// Microseconds in so many TSC ticks, rounded up.
#[must_use]
pub fn microseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000).div_ceil(u128::from(clock::tsc_hz())) as u64
}
