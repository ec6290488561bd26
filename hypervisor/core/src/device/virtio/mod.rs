//! Virtio: paravirtual devices that share rings of buffers with the guest's driver.
//!
//! Source: "Virtual I/O Device (VIRTIO) Version 1.2". [`mmio::VirtioMmio`] is the transport: registers, status, feature
//! negotiation, interrupts. [`queue::Queue`] is the device's side of a split virtqueue. [`VirtioDevice`] is what one
//! kind of device adds to them; [`balloon::Balloon`] is one.
//!
//! All that is in a ring is the guest's word: it is checked where it is read, and what cannot be followed sets
//! DEVICE_NEEDS_RESET ([`QueueError::Broken`]). No ring costs more than its size in buffers per notification.

pub mod balloon;
pub mod mmio;
pub mod queue;
pub mod spec;
#[cfg(test)]
pub(crate) mod tests;

use crate::memory::GuestMemory;
pub use queue::{Queue, QueueError};

/// What one kind of virtio device is, behind a transport.
pub trait VirtioDevice {
    /// The device ID ("Device Types").
    const DEVICE_ID: u32;
    /// The device-specific feature bits that it offers.
    const FEATURES: u64;
    /// The largest size of each virtqueue, by index: powers of two.
    const QUEUE_SIZES: &'static [u16];

    /// Back to the state after a reset. What the operator set stays.
    fn reset(&mut self);

    /// The driver has set DRIVER_OK, having accepted `features` of [`Self::FEATURES`].
    fn start(&mut self, features: u64);

    /// The byte at `offset` of the device-specific configuration space; 0 behind its end.
    fn config_read(&self, offset: u32) -> u8;

    /// The driver writes the byte at `offset` of the configuration space. What it may not write is ignored.
    fn config_write(&mut self, offset: u32, value: u8);

    /// Takes the buffers that wait in queue `index`. It may be called when there are none.
    ///
    /// # Errors
    /// [`QueueError`]: what was done until then stands, the buffer at which it failed was not taken.
    fn process(&mut self, index: usize, queue: &mut Queue, memory: &mut dyn GuestMemory) -> Result<(), QueueError>;
}
