//! The driver's side of virtio: a device behind registers in memory, and split virtqueues that hold one buffer at a
//! time.
//!
//! Source: "Virtual I/O Device (VIRTIO) Version 1.2", "Virtio Over MMIO" and "Split Virtqueues".

use crate::apic::{mmio_read, mmio_write};
use core::sync::atomic::{Ordering, fence};

/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;
/// InterruptStatus: a buffer came back.
pub const INTERRUPT_USED: u32 = 1 << 0;
/// InterruptStatus: the configuration changed.
pub const INTERRUPT_CONFIG: u32 = 1 << 1;
/// Status: DEVICE_NEEDS_RESET.
pub const STATUS_NEEDS_RESET: u32 = 64;

/// Register offsets, from "MMIO Device Register Layout".
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC: u64 = 0x080;
    pub const QUEUE_DRIVER: u64 = 0x090;
    pub const QUEUE_DEVICE: u64 = 0x0a0;
    pub const CONFIG: u64 = 0x100;
}

const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;

/// A virtio device.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    base: u64,
}

impl Device {
    /// The device of kind `device_id` whose registers are at `base`, or why it is none.
    ///
    /// # Safety
    /// `base` must be below 4 GiB, 4-byte aligned and not RAM.
    pub unsafe fn at(base: u64, device_id: u32) -> Result<Self, &'static str> {
        let device = Self { base };
        if device.read(register::MAGIC_VALUE).to_le_bytes() != *b"virt" {
            return Err("no virtio device is there");
        }
        if device.read(register::VERSION) != 2 {
            return Err("its register layout is not version 2");
        }
        if device.read(register::DEVICE_ID) != device_id {
            return Err("the virtio device there is of another kind");
        }
        Ok(device)
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, register: u64) -> u32 {
        // SAFETY: `at` was promised a device's registers.
        unsafe { mmio_read(self.base + register) }
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        // SAFETY: `at` was promised a device's registers; the queues it is given are this module's.
        unsafe { mmio_write(self.base + register, value) };
    }

    /// Resets the device and agrees on those of its features that are in `wanted`; gives them, or what went wrong.
    pub fn negotiate(&self, wanted: u64) -> Result<u64, &'static str> {
        self.write(register::STATUS, 0);
        while self.read(register::STATUS) != 0 {}
        self.write(register::STATUS, STATUS_ACKNOWLEDGE);
        self.write(register::STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        let mut accepted = 0;
        for half in 0..2 {
            self.write(register::DEVICE_FEATURES_SEL, half);
            let bits = self.read(register::DEVICE_FEATURES) & (wanted >> (32 * half)) as u32;
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, bits);
            accepted |= u64::from(bits) << (32 * half);
        }
        self.write(register::STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        if self.read(register::STATUS) & STATUS_FEATURES_OK == 0 {
            return Err("it does not accept a subset of its own features");
        }
        Ok(accepted)
    }

    /// Sets DRIVER_OK.
    pub fn start(&self) {
        self.write(register::STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    }
}

/// Entries of a queue. One would do; two show that the rings wrap.
const SIZE: u16 = 2;

/// The rings of a queue, as the device reads and writes them.
#[repr(C, align(4096))]
#[derive(Debug)]
struct Rings {
    descriptors: [[u64; 2]; SIZE as usize],
    /// Flags, index, entries.
    available: [u16; 2 + SIZE as usize],
    /// Flags and index, then for each entry its head and how much was written.
    used: [u32; 1 + 2 * SIZE as usize],
}

/// Memory for a queue: a `static` of the kernel.
#[derive(Debug)]
pub struct QueueMemory(core::cell::UnsafeCell<Rings>);

// SAFETY: only `Queue` reaches into it, by volatile accesses; a kernel makes one queue of it.
unsafe impl Sync for QueueMemory {}

impl QueueMemory {
    /// Zeroed.
    #[must_use]
    pub const fn new() -> Self {
        let (descriptors, available, used) = ([[0; 2]; SIZE as usize], [0; 4], [0; 5]);
        Self(core::cell::UnsafeCell::new(Rings { descriptors, available, used }))
    }
}

impl Default for QueueMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// A virtqueue that holds one buffer at a time.
#[derive(Debug)]
pub struct Queue {
    device: Device,
    index: u32,
    rings: *mut Rings,
    sent: u16,
}

impl Queue {
    /// Sets queue `index` of a device up, before the device is started; or says why it cannot be.
    ///
    /// # Safety
    /// `memory` must serve no other queue.
    pub unsafe fn new(device: Device, index: u32, memory: &'static QueueMemory) -> Result<Self, &'static str> {
        let rings = memory.0.get();
        device.write(register::QUEUE_SEL, index);
        if device.read(register::QUEUE_NUM_MAX) < u32::from(SIZE) {
            return Err("it has no such queue");
        }
        device.write(register::QUEUE_NUM, u32::from(SIZE));
        // SAFETY: `rings` is valid; only addresses are taken.
        let areas = unsafe {
            [
                (register::QUEUE_DESC, &raw const (*rings).descriptors as u64),
                (register::QUEUE_DRIVER, &raw const (*rings).available as u64),
                (register::QUEUE_DEVICE, &raw const (*rings).used as u64),
            ]
        };
        for (register, address) in areas {
            device.write(register, address as u32);
            device.write(register + 4, (address >> 32) as u32);
        }
        device.write(register::QUEUE_READY, 1);
        if device.read(register::QUEUE_READY) != 1 {
            return Err("it does not take the queue into use");
        }
        Ok(Self { device, index, rings, sent: 0 })
    }

    /// Hands the device `len_bytes` bytes at `address` to read, and notifies it. The buffer before must have come back.
    pub fn send(&mut self, address: u64, len_bytes: u32) {
        let slot = usize::from(self.sent % SIZE);
        let head = slot as u16;
        // SAFETY: `rings` is this queue's own, and `slot` is less than SIZE.
        unsafe {
            (&raw mut (*self.rings).descriptors[slot]).write_volatile([address, u64::from(len_bytes)]);
            (&raw mut (*self.rings).available[2 + slot]).write_volatile(head);
        }
        self.sent = self.sent.wrapping_add(1);
        fence(Ordering::SeqCst);
        // SAFETY: as above. The index comes after what it announces.
        unsafe { (&raw mut (*self.rings).available[1]).write_volatile(self.sent) };
        fence(Ordering::SeqCst);
        self.device.write(register::QUEUE_NOTIFY, self.index);
    }

    /// Whether all that was sent has come back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // SAFETY: `rings` is this queue's own.
        let used = unsafe { (&raw const (*self.rings).used[0]).read_volatile() };
        fence(Ordering::SeqCst);
        (used >> 16) as u16 == self.sent
    }
}
