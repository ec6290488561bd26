//! What all CPUs have in common: the facts that boot found out, and the manager's state behind its lock.

use crate::manager::Manager;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::boot::tsc::TscFrequency;
use lamina_core::config::HostConfig;
use lamina_core::time::TickClock;
use lamina_hw::acpi::Platform;
use lamina_hw::time;
use spin::Mutex;

/// The hypervisor. Nothing about a VM lives anywhere else.
pub(crate) struct Hypervisor {
    pub(crate) host: HostConfig,
    pub(crate) ramdisk: Option<Ramdisk<'static>>,
    pub(crate) platform: Platform,
    pub(crate) tsc: TscFrequency,
    pub(crate) clock: TickClock,
    /// Host TSC when the hypervisor started, and the RTC's time then, in seconds since 1970.
    pub(crate) boot_tsc: u64,
    pub(crate) boot_time_unix_s: u64,
    /// The firmware that the machine was started by.
    pub(crate) firmware: &'static str,
    /// CPUs that run guests.
    pub(crate) cpu_count: usize,
    /// CPUs that the machine has.
    pub(crate) cpus_found: usize,
    /// Taken between two turns and for the console's commands, never for long and never while waiting for another CPU.
    pub(crate) manager: Mutex<Manager>,
}

impl Hypervisor {
    /// Microseconds since the hypervisor started.
    pub(crate) fn uptime_us(&self) -> u64 {
        self.ticks_to_us(time::now().saturating_sub(self.boot_tsc))
    }

    /// Host ticks in microseconds.
    pub(crate) fn ticks_to_us(&self, ticks: u64) -> u64 {
        self.clock.ticks_to_periods(ticks, 1_000_000)
    }

    /// Microseconds in host ticks.
    pub(crate) fn us_to_ticks(&self, us: u64) -> u64 {
        self.clock.periods_to_ticks(us, 1_000_000)
    }
}
