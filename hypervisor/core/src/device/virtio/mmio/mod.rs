//! The virtio transport over MMIO: [`VirtioMmio`] is any [`VirtioDevice`] behind its registers.
//!
//! The interrupt line ([`VirtioMmio::irq_level`]) is high as long as InterruptStatus is not 0. A broken ring sets
//! DEVICE_NEEDS_RESET, after which nothing but a reset is listened to.

pub mod spec;
#[cfg(test)]
mod tests;

use super::queue::Area;
use super::spec::{F_VERSION_1, Status};
use super::{Queue, QueueError, VirtioDevice};
use crate::bus::Width;
use crate::memory::{GuestMemory, MemoryError};
use spec::*;

/// The most virtqueues that a device here has.
const QUEUES_MAX: usize = 4;

/// A virtio device and its registers.
#[derive(Clone, Debug)]
pub struct VirtioMmio<D> {
    device: D,
    status: Status,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    /// The first of them are the device's [`VirtioDevice::QUEUE_SIZES`].
    queues: [Queue; QUEUES_MAX],
    interrupts: Interrupts,
    config_generation: u32,
    /// What was wrong with the last ring that was.
    fault: Option<&'static str>,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// The device as after a reset.
    #[must_use]
    pub fn new(device: D) -> Self {
        const { assert!(D::QUEUE_SIZES.len() <= QUEUES_MAX) };
        let mut queues = [Queue::new(0); QUEUES_MAX];
        for (queue, size) in queues.iter_mut().zip(D::QUEUE_SIZES) {
            *queue = Queue::new(*size);
        }
        Self {
            device,
            status: Status::empty(),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues,
            interrupts: Interrupts::empty(),
            config_generation: 0,
            fault: None,
        }
    }

    /// The device behind the registers.
    #[must_use]
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The interrupt line.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        !self.interrupts.is_empty()
    }

    /// Whether a driver runs the device: it has set DRIVER_OK, and neither side has given up.
    #[must_use]
    pub const fn is_driven(&self) -> bool {
        self.status.contains(Status::DRIVER_OK)
            && !self.status.intersects(Status::DEVICE_NEEDS_RESET.union(Status::FAILED))
    }

    /// What was wrong with the ring for which the device needs a reset.
    #[must_use]
    pub const fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Back to the state after a reset, as the driver does it by writing 0 to Status.
    pub fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            *queue = Queue::new(queue.size_max());
        }
        self.status = Status::empty();
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.interrupts = Interrupts::empty();
        self.fault = None;
    }

    /// Changes what the driver sees in the configuration space, and tells it.
    pub fn change_config(&mut self, change: impl FnOnce(&mut D)) {
        change(&mut self.device);
        self.config_generation = self.config_generation.wrapping_add(1);
        self.notify_config_change();
    }

    /// Has the device do something with one of its queues on its own account: what a notification of the driver does,
    /// but with `work` in place of the device's own [`VirtioDevice::process`]. Nothing happens where no driver runs it,
    /// or the queue is not in use.
    ///
    /// # Errors
    /// [`MemoryError::OutOfFrames`]: the host has no memory for a ring's page.
    pub fn with_queue(
        &mut self,
        index: usize,
        memory: &mut dyn GuestMemory,
        work: impl FnOnce(&mut D, &mut Queue, &mut dyn GuestMemory) -> Result<(), QueueError>,
    ) -> Result<(), MemoryError> {
        let driven = self.is_driven();
        let Some(queue) = self.queues.get_mut(index).filter(|queue| driven && queue.is_ready()) else { return Ok(()) };
        let done = work(&mut self.device, queue, memory);
        if queue.take_used(memory) {
            self.interrupts |= Interrupts::USED_BUFFER;
        }
        match done {
            Ok(()) => Ok(()),
            Err(QueueError::Memory(error)) => Err(error),
            Err(QueueError::Broken(fault)) => {
                self.give_up(fault);
                Ok(())
            }
        }
    }

    /// Reads `width` at `offset` in the device's page. "The driver MUST only use 32 bit wide and aligned reads and
    /// writes to access the control registers": others read 0. The configuration space takes all widths.
    #[must_use]
    pub fn read(&self, offset: u32, width: Width) -> u64 {
        if let Some(first) = offset.checked_sub(CONFIG) {
            let bytes = (first..).zip((0..width.bytes() * 8).step_by(8));
            return bytes.fold(0, |value, (at, shift)| value | u64::from(self.device.config_read(at)) << shift);
        }
        if width != Width::Dword {
            return 0;
        }
        u64::from(match offset {
            MAGIC_VALUE => MAGIC,
            VERSION => VERSION_2,
            DEVICE_ID => D::DEVICE_ID,
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(Self::offered(), self.device_features_sel),
            QUEUE_NUM_MAX => self.queue().map_or(0, |queue| queue.size_max().into()),
            QUEUE_READY => self.queue().map_or(0, |queue| queue.is_ready().into()),
            INTERRUPT_STATUS => self.interrupts.bits(),
            STATUS => self.status.bits(),
            SHM_LEN_LOW..=SHM_BASE_HIGH if offset.is_multiple_of(4) => NO_SHARED_MEMORY,
            CONFIG_GENERATION => self.config_generation,
            _ => 0,
        })
    }

    /// Writes `width` at `offset` in the device's page. A notification takes what waits in the queue, out of `memory`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfFrames`]: the host has no memory for a page that had to be written. The same write goes on
    /// where this one stopped.
    pub fn write(
        &mut self,
        offset: u32,
        width: Width,
        value: u64,
        memory: &mut dyn GuestMemory,
    ) -> Result<(), MemoryError> {
        if let Some(first) = offset.checked_sub(CONFIG) {
            let len = usize::try_from(width.bytes()).unwrap_or(0);
            (first..).zip(value.to_le_bytes()).take(len).for_each(|(at, byte)| self.device.config_write(at, byte));
            return Ok(());
        }
        if width != Width::Dword {
            return Ok(());
        }
        let [a, b, c, d, ..] = value.to_le_bytes();
        let value = u32::from_le_bytes([a, b, c, d]);
        match offset {
            DEVICE_FEATURES_SEL => self.device_features_sel = value,
            DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            DRIVER_FEATURES => self.accept_features(value),
            INTERRUPT_ACK => self.interrupts.remove(Interrupts::from_bits_truncate(value)),
            STATUS => return self.write_status(value, memory),
            QUEUE_SEL => self.queue_sel = value,
            QUEUE_NOTIFY => return self.notify(value, memory),
            _ => self.set_up_queue(offset, value),
        }
        Ok(())
    }

    const fn offered() -> u64 {
        F_VERSION_1 | D::FEATURES
    }

    fn queue(&self) -> Option<&Queue> {
        let index = usize::try_from(self.queue_sel).ok()?;
        self.queues.get(index)
    }

    /// "The driver MUST NOT accept new feature bits after this step" (FEATURES_OK).
    fn accept_features(&mut self, value: u32) {
        if self.status.contains(Status::FEATURES_OK) {
            return;
        }
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            // No bits up there are offered, so none can be accepted: what the driver says of them is its own affair.
            _ => {}
        }
    }

    fn set_up_queue(&mut self, offset: u32, value: u32) {
        let Some(queue) = usize::try_from(self.queue_sel).ok().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        match offset {
            QUEUE_NUM => queue.set_size(value),
            QUEUE_DESC_LOW => queue.set_address(Area::Descriptors, false, value),
            QUEUE_DESC_HIGH => queue.set_address(Area::Descriptors, true, value),
            QUEUE_DRIVER_LOW => queue.set_address(Area::Available, false, value),
            QUEUE_DRIVER_HIGH => queue.set_address(Area::Available, true, value),
            QUEUE_DEVICE_LOW => queue.set_address(Area::Used, false, value),
            QUEUE_DEVICE_HIGH => queue.set_address(Area::Used, true, value),
            QUEUE_READY if value & 1 == 0 => queue.disable(),
            QUEUE_READY if !queue.is_ready() => {
                if let Err(QueueError::Broken(fault)) = queue.enable() {
                    self.give_up(fault);
                }
            }
            _ => {}
        }
    }

    /// "The driver MUST NOT clear a device status bit" but by a reset: bits only come.
    fn write_status(&mut self, value: u32, memory: &mut dyn GuestMemory) -> Result<(), MemoryError> {
        if value == 0 {
            self.reset();
            return Ok(());
        }
        let mut coming = Status::from_bits_truncate(value) & Status::DRIVERS & !self.status;
        let acceptable = self.driver_features & !Self::offered() == 0 && self.driver_features & F_VERSION_1 != 0;
        if !acceptable {
            // How the device says that it does not go along: the bit reads back 0.
            coming.remove(Status::FEATURES_OK);
        }
        if !(self.status | coming).contains(Status::FEATURES_OK) {
            coming.remove(Status::DRIVER_OK);
        }
        self.status |= coming;
        if coming.contains(Status::DRIVER_OK) {
            self.device.start(self.driver_features & D::FEATURES);
        }
        // A driver may have filled its queues and notified before it set DRIVER_OK: it was not listened to then. (Nor
        // is it before; and the write that sets the bit may come twice, when the first one found no memory.)
        (0..D::QUEUE_SIZES.len()).try_for_each(|index| self.process(index, memory))
    }

    fn notify(&mut self, index: u32, memory: &mut dyn GuestMemory) -> Result<(), MemoryError> {
        usize::try_from(index).map_or(Ok(()), |index| self.process(index, memory))
    }

    fn process(&mut self, index: usize, memory: &mut dyn GuestMemory) -> Result<(), MemoryError> {
        self.with_queue(index, memory, |device, queue, memory| device.process(index, queue, memory))
    }

    fn notify_config_change(&mut self) {
        if self.status.contains(Status::DRIVER_OK) {
            self.interrupts |= Interrupts::CONFIG_CHANGE;
        }
    }

    /// "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device configuration change
    /// notification to the driver."
    #[cold]
    fn give_up(&mut self, fault: &'static str) {
        self.fault = Some(fault);
        self.status |= Status::DEVICE_NEEDS_RESET;
        self.notify_config_change();
    }
}

/// One half of the feature bits, by the number in a selection register.
const fn half(features: u64, selected: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match selected {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
