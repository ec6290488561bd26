//! The transport as a driver sees it, with the register offsets of the specification's table. The device behind it
//! counts.

use super::super::tests::{DriverQueue, Part, Ram};
use super::*;
use std::vec::Vec;

/// A device with one queue of 4 and one of 2, which gives every buffer back, and 4 bytes of configuration.
#[derive(Clone, Debug, Default)]
struct Counter {
    config: [u8; 4],
    buffers: u32,
    resets: u32,
    started_with: Option<u64>,
}

const FEATURE: u64 = 1 << 5;

impl VirtioDevice for Counter {
    const DEVICE_ID: u32 = 42;
    const FEATURES: u64 = FEATURE;
    const QUEUE_SIZES: &'static [u16] = &[4, 2];

    fn reset(&mut self) {
        *self = Self { resets: self.resets + 1, ..Self::default() };
    }
    fn start(&mut self, features: u64) {
        self.started_with = Some(features);
    }
    fn config_read(&self, offset: u32) -> u8 {
        usize::try_from(offset).ok().and_then(|at| self.config.get(at).copied()).unwrap_or(0)
    }
    fn config_write(&mut self, offset: u32, value: u8) {
        if let Some(byte) = usize::try_from(offset).ok().and_then(|at| self.config.get_mut(at)) {
            *byte = value;
        }
    }
    fn process(&mut self, _: usize, queue: &mut Queue, memory: &mut dyn GuestMemory) -> Result<(), QueueError> {
        for _ in 0..queue.waiting(memory)? {
            let mut chain = queue.next_chain(memory)?;
            while queue.segment(&mut chain, memory)?.is_some() {}
            queue.finish(chain.head, 0, memory)?;
            self.buffers += 1;
        }
        Ok(())
    }
}

struct World {
    mmio: VirtioMmio<Counter>,
    ram: Ram,
    driver: DriverQueue,
}

impl World {
    fn new() -> Self {
        Self { mmio: VirtioMmio::new(Counter::default()), ram: Ram::new(), driver: DriverQueue::new(0x4000, 4) }
    }

    fn get(&self, offset: u32) -> u32 {
        self.mmio.read(offset, Width::Dword).try_into().unwrap()
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.mmio.write(offset, Width::Dword, value.into(), &mut self.ram).unwrap();
    }

    /// ACKNOWLEDGE, DRIVER, features, FEATURES_OK.
    fn negotiate(&mut self, low: u32, high: u32) {
        self.set(0x70, 1);
        self.set(0x70, 3);
        for (select, value) in [(0, low), (1, high)] {
            self.set(0x24, select);
            self.set(0x20, value);
        }
        self.set(0x70, 11);
    }

    /// A device with a driver and queue 0.
    fn driven() -> Self {
        let mut world = Self::new();
        world.negotiate(1 << 5, 1);
        world.set_up_queue();
        world.set(0x70, 15);
        assert!(world.mmio.is_driven());
        world
    }

    fn set_up_queue(&mut self) {
        for (offset, value) in self.driver.set_up(0) {
            self.set(offset, value);
        }
    }

    fn offer(&mut self) {
        self.driver.offer(&mut self.ram, &[Part::readable(0x1000, 4)]);
    }
}

#[test]
fn a_driver_recognizes_the_device() {
    let mut world = World::new();
    assert_eq!(world.get(0x00).to_le_bytes(), *b"virt");
    assert_eq!((world.get(0x04), world.get(0x08)), (2, 42));
    for (select, bits) in [(0, 1 << 5), (1, 1), (2, 0), (u32::MAX, 0)] {
        world.set(0x14, select);
        assert_eq!(world.get(0x10), bits, "features {select}");
    }
    for (index, size) in [(0, 4), (1, 2), (2, 0), (3, 0), (4, 0), (u32::MAX, 0)] {
        world.set(0x30, index);
        assert_eq!(world.get(0x34), size, "queue {index}");
        assert_eq!(world.get(0x44), 0);
    }
    assert_eq!((world.get(0xb0), world.get(0xb4)), (u32::MAX, u32::MAX), "no shared memory");
    assert_eq!(world.get(0x70), 0);
}

#[test]
fn features_are_agreed_on_or_features_ok_stays_clear() {
    for (low, high, agreed) in [(1 << 5, 1, true), (0, 1, true), (1 << 5, 0, false), (1 << 6, 1, false), (0, 3, false)]
    {
        let mut world = World::new();
        world.negotiate(low, high);
        assert_eq!(world.get(0x70) & 8 != 0, agreed, "{low:#x} {high:#x}");
        world.set(0x70, 15);
        assert_eq!(world.mmio.is_driven(), agreed);
        assert_eq!(world.mmio.device().started_with, agreed.then_some(u64::from(low) & FEATURE));
    }
}

#[test]
fn features_do_not_change_once_they_are_agreed_on() {
    let mut world = World::new();
    world.negotiate(0, 1);
    world.set(0x24, 0);
    world.set(0x20, 1 << 5);
    world.set(0x70, 15);
    assert_eq!(world.mmio.device().started_with, Some(0));
}

#[test]
fn a_notification_brings_the_buffers_and_the_interrupt() {
    let mut world = World::driven();
    assert!(!world.mmio.irq_level());
    world.offer();
    world.offer();
    assert_eq!(world.mmio.device().buffers, 0);
    world.set(0x50, 0);
    assert_eq!(world.mmio.device().buffers, 2);
    assert!(world.driver.collect(&world.ram).is_some() && world.driver.collect(&world.ram).is_some());
    assert!(world.mmio.irq_level());
    assert_eq!(world.get(0x60), 1);
    world.set(0x64, 2);
    assert!(world.mmio.irq_level(), "another bit was acknowledged");
    world.set(0x64, 1);
    assert!(!world.mmio.irq_level());
    world.set(0x50, 0);
    assert!(!world.mmio.irq_level(), "nothing was there");
}

#[test]
fn nothing_is_taken_before_driver_ok_and_all_that_waits_at_it() {
    let mut world = World::new();
    world.negotiate(0, 1);
    world.set_up_queue();
    world.offer();
    world.set(0x50, 0);
    assert_eq!(world.mmio.device().buffers, 0);
    assert!(!world.mmio.irq_level());
    world.set(0x70, 15);
    assert_eq!(world.mmio.device().buffers, 1);
    assert!(world.mmio.irq_level());
}

#[test]
fn a_queue_that_is_not_there_or_not_ready_is_not_notified() {
    let mut world = World::driven();
    world.offer();
    for index in [1, 2, 3, 4, 0x1_0000, u32::MAX] {
        world.set(0x50, index);
    }
    world.set(0x30, 0);
    world.set(0x44, 0);
    world.set(0x50, 0);
    assert_eq!(world.mmio.device().buffers, 0);
    assert_eq!(world.get(0x70), 15, "none of this is an error");
}

#[test]
fn a_broken_ring_needs_a_reset_and_says_so() {
    let mut world = World::driven();
    world.ram.put(world.driver.available_ring() + 2, &100u16.to_le_bytes());
    world.set(0x50, 0);
    assert_eq!(world.get(0x70), 15 | 64);
    assert_eq!(world.get(0x60), 2, "a configuration change notification");
    assert!(!world.mmio.is_driven() && world.mmio.fault().is_some());
    world.ram.put(world.driver.available_ring() + 2, &1u16.to_le_bytes());
    world.set(0x50, 0);
    assert_eq!(world.mmio.device().buffers, 0, "it listens no more");
    world.set(0x70, 0);
    assert_eq!((world.get(0x70), world.get(0x60), world.mmio.fault()), (0, 0, None));
    assert_eq!(world.mmio.device().resets, 1);
}

#[test]
fn a_queue_of_a_forbidden_size_is_an_error_of_the_driver() {
    let mut world = World::new();
    world.negotiate(0, 1);
    world.set(0x30, 0);
    world.set(0x38, 3);
    world.set(0x44, 1);
    assert_eq!(world.get(0x44), 0);
    assert_ne!(world.get(0x70) & 64, 0);
}

#[test]
fn a_reset_forgets_all_that_the_driver_set_up() {
    let mut world = World::driven();
    world.offer();
    world.set(0x50, 0);
    world.set(0x70, 0);
    assert!(!world.mmio.irq_level());
    world.set(0x30, 0);
    assert_eq!((world.get(0x44), world.get(0x34)), (0, 4));
    // And from the start once more.
    world.driver = DriverQueue::new(0x6000, 2);
    world.negotiate(0, 1);
    world.set_up_queue();
    world.set(0x70, 15);
    world.offer();
    world.set(0x50, 0);
    assert_eq!(world.driver.collect(&world.ram), Some((0, 0)));
}

#[test]
fn a_configuration_change_is_told_and_counted() {
    let mut world = World::new();
    let before = world.get(0xfc);
    world.mmio.change_config(|device| device.config[0] = 1);
    assert_ne!(world.get(0xfc), before);
    assert!(!world.mmio.irq_level(), "nobody is there to be told");
    let mut world = World::driven();
    let before = world.get(0xfc);
    world.mmio.change_config(|device| device.config[0] = 2);
    assert_ne!(world.get(0xfc), before);
    assert_eq!(world.get(0x60), 2);
    assert_eq!(world.get(0x100), 2);
}

#[test]
fn the_configuration_space_takes_every_width() {
    let mut world = World::driven();
    let write = |world: &mut World, offset, width, value| {
        world.mmio.write(offset, width, value, &mut world.ram).unwrap();
    };
    write(&mut world, 0x100, Width::Dword, 0x4433_2211);
    write(&mut world, 0x101, Width::Byte, 0xffaa);
    assert_eq!(world.mmio.read(0x100, Width::Dword), 0x4433_aa11);
    write(&mut world, 0x102, Width::Word, 0xbeef);
    assert_eq!(world.mmio.read(0x100, Width::Qword), 0xbeef_aa11);
    assert_eq!(world.mmio.read(0x103, Width::Byte), 0xbe);
    assert_eq!(world.mmio.read(0xffd, Width::Qword), 0);
}

#[test]
fn control_registers_take_aligned_double_words_only() {
    let mut world = World::driven();
    for width in [Width::Byte, Width::Word, Width::Qword] {
        assert_eq!(world.mmio.read(0, width), 0);
        world.mmio.write(0x70, width, 0, &mut world.ram).unwrap();
    }
    assert_eq!(world.mmio.read(0x01, Width::Dword), 0);
    world.set(0x71, 0);
    assert_eq!(world.get(0x70), 15, "no reset");
}

#[test]
fn without_memory_for_a_ring_the_write_can_be_done_again() {
    let mut world = World::driven();
    world.offer();
    world.offer();
    world.ram.unbacked = Some(world.driver.base);
    let denied = world.mmio.write(0x50, Width::Dword, 0, &mut world.ram);
    assert!(matches!(denied, Err(MemoryError::OutOfFrames { .. })));
    assert_eq!(world.get(0x70), 15);
    world.ram.unbacked = None;
    world.set(0x50, 0);
    let heads: Vec<_> = core::iter::from_fn(|| world.driver.collect(&world.ram)).collect();
    assert_eq!(heads, [(0, 0), (1, 0)]);
}

#[test]
fn driver_ok_without_memory_for_a_ring_can_be_said_again() {
    let mut world = World::new();
    world.negotiate(0, 1);
    world.set_up_queue();
    world.offer();
    world.ram.unbacked = Some(world.driver.base);
    assert!(world.mmio.write(0x70, Width::Dword, 15, &mut world.ram).is_err());
    world.ram.unbacked = None;
    world.set(0x70, 15);
    assert_eq!(world.driver.collect(&world.ram), Some((0, 0)));
}
