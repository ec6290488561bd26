//! PCI configuration space, empty but correct: a host bridge at 00:00.0 and nothing else.
//!
//! [`PciHost`] is configuration mechanism #1. A function that is not there reads all-ones (the host bridge's master abort).

pub mod spec;
#[cfg(test)]
mod tests;

use spec::*;

/// The host bridge with its two ports.
#[derive(Clone, Debug)]
pub struct PciHost {
    address: u32,
    command: [u8; 2],
    latency_timer: u8,
}

impl Default for PciHost {
    fn default() -> Self {
        Self::new()
    }
}

impl PciHost {
    /// The bus after a reset.
    #[must_use]
    pub const fn new() -> Self {
        Self { address: 0, command: [0; 2], latency_timer: 0 }
    }

    /// Reads CONFIG_ADDRESS.
    #[must_use]
    pub const fn read_address(&self) -> u32 {
        self.address
    }

    /// Writes CONFIG_ADDRESS.
    pub const fn write_address(&mut self, value: u32) {
        self.address = value & ADDRESS_WRITABLE;
    }

    /// Reads one byte of CONFIG_DATA; `None` when configuration cycles are off, so that nobody claims the port.
    #[must_use]
    pub fn read_data(&self, port: u16) -> Option<u8> {
        let register = self.register(port)?;
        if !self.is_host_bridge() {
            return Some(0xff);
        }
        Some(self.host_bridge().get(register).copied().unwrap_or(0))
    }

    /// Writes one byte of CONFIG_DATA; `None` when configuration cycles are off.
    pub fn write_data(&mut self, port: u16, value: u8) -> Option<()> {
        let register = self.register(port)?;
        if self.is_host_bridge() {
            match register {
                COMMAND_LOW => self.command[0] = value & COMMAND_LOW_WRITABLE,
                COMMAND_HIGH => self.command[1] = value & COMMAND_HIGH_WRITABLE,
                LATENCY_TIMER => self.latency_timer = value & LATENCY_TIMER_WRITABLE,
                // All other registers are read only, or are errors that never occur here.
                _ => {}
            }
        }
        Some(())
    }

    /// The byte of configuration space that `port` selects.
    fn register(&self, port: u16) -> Option<usize> {
        if self.address & ADDRESS_ENABLE == 0 {
            return None;
        }
        let [low, ..] = self.address.to_le_bytes();
        Some(usize::from(low) | usize::from(port & 3))
    }

    const fn is_host_bridge(&self) -> bool {
        self.address & ADDRESS_FUNCTION == 0
    }

    /// The host bridge's header; its other registers read 0.
    fn host_bridge(&self) -> [u8; 16] {
        let [vendor_low, vendor_high] = HOST_BRIDGE_VENDOR.to_le_bytes();
        let [device_low, device_high] = HOST_BRIDGE_DEVICE.to_le_bytes();
        let [status_low, status_high] = STATUS_FIXED.to_le_bytes();
        let [command_low, command_high] = self.command;
        let [interface, sub_class, base_class] = CLASS_HOST_BRIDGE;
        [
            vendor_low,
            vendor_high,
            device_low,
            device_high,
            command_low | COMMAND_FIXED,
            command_high,
            status_low,
            status_high,
            HOST_BRIDGE_REVISION,
            interface,
            sub_class,
            base_class,
            0,
            self.latency_timer,
            0,
            0,
        ]
    }
}
