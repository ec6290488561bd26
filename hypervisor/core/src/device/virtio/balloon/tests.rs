//! The balloon against a driver, by the numbers of the specification.

use super::super::mmio::VirtioMmio;
use super::super::tests::{DriverQueue, Part, Ram, pfns};
use super::*;
use crate::bus::Width;
use proptest::prelude::*;
use std::vec::Vec;

const BUFFER: u64 = 0x1_0000;

struct World {
    mmio: VirtioMmio<Balloon>,
    ram: Ram,
    queues: [DriverQueue; 3],
}

impl World {
    /// A balloon whose driver accepted the features `low`.
    fn driven(low: u32) -> Self {
        let queues = [DriverQueue::new(0x4000, 16), DriverQueue::new(0x5000, 16), DriverQueue::new(0x6000, 2)];
        let mut world = Self { mmio: VirtioMmio::new(Balloon::new()), ram: Ram::new(), queues };
        world.start(low);
        world
    }

    fn start(&mut self, low: u32) {
        for (offset, value) in [(0x70, 3), (0x24, 0), (0x20, low), (0x24, 1), (0x20, 1), (0x70, 11)] {
            self.set(offset, value);
        }
        for (index, queue) in (0..).zip(self.queues.clone()) {
            queue.set_up(index).into_iter().for_each(|(offset, value)| self.set(offset, value));
        }
        self.set(0x70, 15);
        assert!(self.mmio.is_driven());
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.mmio.write(offset, Width::Dword, value.into(), &mut self.ram).unwrap();
    }

    fn get(&self, offset: u32) -> u32 {
        self.mmio.read(offset, Width::Dword).try_into().unwrap()
    }

    /// Sends `bytes` in one buffer, and notifies.
    fn send(&mut self, queue: usize, bytes: &[u8]) {
        self.ram.put(BUFFER, bytes);
        self.queues[queue].offer(&mut self.ram, &[Part::readable(BUFFER, bytes.len().try_into().unwrap())]);
        self.set(0x50, queue.try_into().unwrap());
    }
}

/// A statistics entry: `struct virtio_balloon_stat` is packed.
fn stat(tag: u16, value: u64) -> Vec<u8> {
    tag.to_le_bytes().into_iter().chain(value.to_le_bytes()).collect()
}

#[test]
fn it_is_a_balloon_with_three_queues() {
    let mut world = World::driven(7);
    assert_eq!(world.get(0x08), 5);
    world.set(0x14, 0);
    assert_eq!(world.get(0x10), 0b111, "MUST_TELL_HOST, STATS_VQ, DEFLATE_ON_OOM");
    for (index, there) in [(0, true), (1, true), (2, true), (3, false)] {
        world.set(0x30, index);
        assert_eq!(world.get(0x34) > 0, there);
    }
}

#[test]
fn pages_given_are_discarded_before_the_driver_hears_of_it() {
    let mut world = World::driven(7);
    world.ram.put(0x8_0000, &[0xee; 4096]);
    world.send(0, &pfns([0x80, 0x90, 0x81]));
    assert_eq!(world.ram.discarded, [0x8_0000, 0x9_0000, 0x8_1000]);
    assert_eq!(world.ram.flushed, 3);
    assert_eq!(world.queues[0].collect(&world.ram), Some((0, 0)));
    assert_eq!(world.get(0x60), 1);
    assert_eq!(world.mmio.device().inflated(), 3);
    assert_eq!(world.ram.u16_at(0x8_0000), 0, "scrubbed");
}

#[test]
fn pages_taken_back_are_counted_and_nothing_else() {
    let mut world = World::driven(7);
    world.send(1, &pfns([0x80, 0x81]));
    assert!(world.ram.discarded.is_empty());
    assert_eq!(world.mmio.device().deflated(), 2);
    assert_eq!(world.queues[1].collect(&world.ram), Some((0, 0)));
}

#[test]
fn page_numbers_outside_of_ram_are_passed_on_as_addresses_of_64_bits() {
    let mut world = World::driven(7);
    world.send(0, &pfns([u32::MAX]));
    assert_eq!(world.ram.discarded, [0x0fff_ffff_f000]);
    assert_eq!(world.get(0x70), 15);
}

#[test]
fn the_target_is_shown_and_stays_over_a_reset() {
    let mut world = World::driven(7);
    world.mmio.change_config(|balloon| balloon.set_target_pages(0x1234_5678));
    assert_eq!(world.get(0x100), 0x1234_5678);
    assert_eq!(world.get(0x60), 2);
    world.set(0x104, 0x0001_0203);
    assert_eq!(world.mmio.device().actual_pages(), 0x0001_0203);
    world.set(0x100, 99);
    assert_eq!(world.mmio.device().target_pages(), 0x1234_5678, "the driver does not set it");
    world.set(0x70, 0);
    assert_eq!((world.get(0x100), world.get(0x104)), (0x1234_5678, 0));
    assert_eq!(world.mmio.device().inflated(), 0);
}

#[test]
fn statistics_wait_until_they_are_wanted() {
    let mut world = World::driven(7);
    let first = [stat(4, 111), stat(5, 222), stat(6, u64::MAX), stat(0x77, 5), stat(0, 9)].concat();
    world.send(2, &first);
    let (stats, count) = world.mmio.device().stats();
    assert_eq!((stats.free_bytes, stats.total_bytes, stats.swapped_in_bytes), (Some(111), Some(222), Some(9)));
    assert_eq!((stats.available_bytes, count), (None, 1), "all-ones: the driver does not know");
    assert_eq!(world.queues[2].collect(&world.ram), None, "the buffer stays with the device");
    assert!(!world.mmio.irq_level());

    let ask = |world: &mut World| world.mmio.with_queue(2, &mut world.ram, Balloon::request_stats).unwrap();
    ask(&mut world);
    assert_eq!(world.get(0x60), 1);
    assert_eq!(world.queues[2].collect(&world.ram), Some((0, 0)));
    ask(&mut world);
    assert_eq!(world.queues[2].collect(&world.ram), None, "an answer is owed already");
    world.send(2, &[stat(2, 3), stat(3, 4), stat(7, 5), stat(1, 6)].concat());
    let (stats, count) = world.mmio.device().stats();
    assert_eq!((stats.major_faults, stats.minor_faults, stats.cache_bytes), (Some(3), Some(4), Some(5)));
    assert_eq!((stats.swapped_out_bytes, stats.free_bytes, count), (Some(6), None, 2));
}

#[test]
fn statistics_that_were_not_negotiated_are_not_taken() {
    let mut world = World::driven(5);
    world.send(2, &stat(4, 111));
    assert_eq!(world.mmio.device().stats().1, 0);
}

#[test]
fn after_a_reset_no_old_statistics_buffer_is_given_back() {
    let mut world = World::driven(7);
    world.send(2, &stat(4, 111));
    world.set(0x70, 0);
    world.queues = [DriverQueue::new(0x4000, 16), DriverQueue::new(0x5000, 16), DriverQueue::new(0x7000, 2)];
    world.start(7);
    world.mmio.with_queue(2, &mut world.ram, Balloon::request_stats).unwrap();
    assert_eq!(world.queues[2].collect(&world.ram), None);
    assert!(!world.mmio.irq_level());
}

#[test]
fn a_buffer_of_absurd_length_is_refused_at_once() {
    for len in [4097, 1 << 20, u32::MAX] {
        let mut world = World::driven(7);
        world.queues[0].offer(&mut world.ram, &[Part::readable(0, len)]);
        world.set(0x50, 0);
        assert_eq!(world.get(0x70) & 64, 64, "{len}");
        assert!(world.ram.discarded.is_empty());
    }
    // Many parts, each of which is short enough.
    let mut world = World::driven(7);
    world.queues[0].offer(&mut world.ram, &[Part::readable(BUFFER, 4000); 16]);
    world.set(0x50, 0);
    assert_eq!(world.get(0x70) & 64, 64);
    assert_eq!(world.ram.discarded.len(), 1000);
    assert_eq!(world.ram.flushed, 1000, "what was discarded is seen through");
    assert_eq!(world.mmio.device().inflated(), 0, "the driver does not know of it");
}

#[test]
fn a_buffer_outside_of_ram_is_an_error_of_the_driver() {
    for gpa in [0xf_fffc, 1 << 40, u64::MAX - 2] {
        let mut world = World::driven(7);
        world.queues[0].offer(&mut world.ram, &[Part::readable(gpa, 8)]);
        world.set(0x50, 0);
        assert_eq!(world.get(0x70) & 64, 64, "{gpa:#x}");
    }
}

proptest! {
    /// However a driver cuts its list into buffers, parts and queues: each page number is seen once, in order.
    #[test]
    fn every_page_given_is_seen_once(
        buffers in prop::collection::vec((prop::collection::vec(any::<u32>(), 0..200), prop::collection::vec(1u32..50, 0..12), any::<bool>()), 1..40)
    ) {
        let mut world = World::driven(7);
        let (mut given, mut taken) = (Vec::new(), 0);
        for (numbers, cuts, inflate) in buffers {
            let bytes = pfns(numbers.iter().copied());
            world.ram.put(BUFFER, &bytes);
            let (mut parts, mut at) = (Vec::new(), 0);
            for cut in cuts {
                let len = cut.min(u32::try_from(bytes.len()).unwrap() - at);
                parts.push(Part::readable(BUFFER + u64::from(at), len));
                at += len;
                // What the device may only write to holds no page numbers.
                if len == 7 {
                    parts.push(Part { gpa: BUFFER, len: 64, writable: true });
                }
            }
            parts.truncate(15);
            let described: u32 = parts.iter().filter(|part| !part.writable).map(|part| part.len).sum();
            parts.push(Part::readable(BUFFER + u64::from(described), u32::try_from(bytes.len()).unwrap() - described));
            let queue = usize::from(!inflate);
            world.queues[queue].offer(&mut world.ram, &parts);
            world.set(0x50, u32::from(!inflate));
            prop_assert!(world.queues[queue].collect(&world.ram).is_some());
            if inflate {
                given.extend(numbers.iter().map(|&pfn| u64::from(pfn) << 12));
                // A page number may name the page of a ring, which then reads zero: such a driver loses its queue.
                prop_assume!(!numbers.iter().any(|&pfn| pfn < 0x100));
            } else {
                taken += numbers.len() as u64;
            }
        }
        prop_assert_eq!(&world.ram.discarded, &given);
        prop_assert_eq!(world.mmio.device().inflated(), given.len() as u64);
        prop_assert_eq!(world.mmio.device().deflated(), taken);
    }
}
