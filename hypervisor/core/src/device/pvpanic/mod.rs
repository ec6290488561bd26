//! The pvpanic device: by one write to port 505h a guest tells that it has panicked.
//!
//! ACPI calls it `QEMU0001`, and stock kernels have a driver for it. A small kernel writes to the port without asking
//! for it: `mov dx, 0x505; mov al, 1; out dx, al`. One that has no ports at hand uses the hypercall (see [`crate::exit`]).

pub mod spec;
#[cfg(test)]
mod tests;

use spec::PanicEvents;

/// The device.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pvpanic {
    crash_loaded: bool,
}

impl Pvpanic {
    /// Reads the port: the events that can be told.
    #[must_use]
    pub const fn read() -> u8 {
        PanicEvents::all().bits()
    }

    /// Writes the port; whether the guest has panicked and does not go on. "The bits not recognized by the device are ignored."
    pub const fn write(&mut self, value: u8) -> bool {
        let events = PanicEvents::from_bits_truncate(value);
        self.crash_loaded |= events.contains(PanicEvents::CRASH_LOADED);
        events.contains(PanicEvents::PANICKED)
    }

    /// Whether the guest has panicked and handles that by itself, by a crash kernel.
    #[must_use]
    pub const fn crash_loaded(self) -> bool {
        self.crash_loaded
    }
}
