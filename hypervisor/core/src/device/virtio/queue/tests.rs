//! The device's side of a ring against a driver that follows the specification, and against one that does not.

use super::super::tests::{DriverQueue, Part, Ram};
use super::*;

const SIZE: u16 = 8;

fn enabled(driver: &DriverQueue) -> Queue {
    let mut queue = Queue::new(SIZE);
    let low = |address: u64| u32::try_from(address).unwrap();
    queue.set_size(driver.size.into());
    queue.set_address(Area::Descriptors, false, low(driver.base));
    queue.set_address(Area::Available, false, low(driver.available_ring()));
    queue.set_address(Area::Used, false, low(driver.used_ring()));
    queue.enable().unwrap();
    queue
}

fn world() -> (Ram, DriverQueue, Queue) {
    let driver = DriverQueue::new(0x4000, SIZE);
    let queue = enabled(&driver);
    (Ram::new(), driver, queue)
}

/// All parts of the next buffer.
fn parts(queue: &Queue, ram: &Ram) -> Result<Vec<Segment>, QueueError> {
    let mut chain = queue.next_chain(ram)?;
    let mut parts = Vec::new();
    while let Some(segment) = queue.segment(&mut chain, ram)? {
        parts.push(segment);
    }
    Ok(parts)
}

use std::vec::Vec;

#[test]
fn buffers_come_in_order_and_go_back_with_what_was_written() {
    let (mut ram, mut driver, mut queue) = world();
    let first = driver.offer(&mut ram, &[Part::readable(0x1000, 10), Part { gpa: 0x2000, len: 20, writable: true }]);
    let second = driver.offer(&mut ram, &[Part::readable(0x3000, 30)]);
    assert_eq!(queue.waiting(&ram), Ok(2));
    let found: Vec<_> = parts(&queue, &ram).unwrap().iter().map(|s| (s.gpa.0, s.len_bytes, s.writable)).collect();
    assert_eq!(found, [(0x1000, 10, false), (0x2000, 20, true)]);
    queue.finish(first, 7, &mut ram).unwrap();
    assert_eq!(queue.waiting(&ram), Ok(1));
    assert_eq!(queue.next_chain(&ram).unwrap().head, second);
    queue.finish(second, 0, &mut ram).unwrap();
    assert_eq!(driver.collect(&ram), Some((first.into(), 7)));
    assert_eq!(driver.collect(&ram), Some((second.into(), 0)));
    assert_eq!(driver.collect(&ram), None);
}

#[test]
fn the_indices_wrap_as_16_bits_do() {
    let (mut ram, mut driver, mut queue) = world();
    for _ in 0..70_000u32 {
        let head = driver.offer(&mut ram, &[Part::readable(0x1000, 4)]);
        assert_eq!(queue.waiting(&ram), Ok(1));
        assert_eq!(queue.next_chain(&ram).unwrap().head, head);
        queue.finish(head, 0, &mut ram).unwrap();
        assert_eq!(driver.collect(&ram), Some((head.into(), 0)));
    }
}

#[test]
fn an_interrupt_is_wanted_unless_the_driver_says_no() {
    let (mut ram, mut driver, mut queue) = world();
    for (flags, wanted) in [(0u16, true), (1, false)] {
        ram.put(driver.available_ring(), &flags.to_le_bytes());
        let head = driver.offer(&mut ram, &[Part::readable(0x1000, 4)]);
        assert!(!queue.take_used(&ram));
        queue.finish(head, 0, &mut ram).unwrap();
        assert_eq!(queue.take_used(&ram), wanted);
        assert!(!queue.take_used(&ram), "it was told");
    }
}

#[test]
fn a_loop_ends_where_the_table_would() {
    let (mut ram, mut driver, queue) = world();
    driver.describe(&mut ram, 0, Part::readable(0x1000, 4), 1, 1);
    driver.describe(&mut ram, 1, Part::readable(0x1000, 4), 1, 0);
    driver.publish(&mut ram, 0);
    let mut chain = queue.next_chain(&ram).unwrap();
    for _ in 0..SIZE {
        assert!(queue.segment(&mut chain, &ram).unwrap().is_some());
    }
    assert!(matches!(queue.segment(&mut chain, &ram), Err(QueueError::Broken(_))));
}

#[test]
fn what_cannot_be_followed_is_broken() {
    let broken = |result: Result<Vec<Segment>, QueueError>| matches!(result, Err(QueueError::Broken(_)));
    // A head, and a next, beyond the table.
    let (mut ram, mut driver, queue) = world();
    driver.publish(&mut ram, SIZE);
    assert!(broken(parts(&queue, &ram)));
    let (mut ram, mut driver, queue) = world();
    driver.describe(&mut ram, 0, Part::readable(0x1000, 4), 1, 0xffff);
    driver.publish(&mut ram, 0);
    assert!(broken(parts(&queue, &ram)));
    // An indirect table.
    let (mut ram, mut driver, queue) = world();
    driver.describe(&mut ram, 0, Part::readable(0x1000, 16), 4, 0);
    driver.publish(&mut ram, 0);
    assert!(broken(parts(&queue, &ram)));
    // More buffers than entries.
    let (mut ram, driver, queue) = world();
    ram.put(driver.available_ring() + 2, &(SIZE + 1).to_le_bytes());
    assert!(matches!(queue.waiting(&ram), Err(QueueError::Broken(_))));
}

#[test]
fn rings_outside_of_ram_are_broken() {
    for high in [1, u32::MAX] {
        let (mut ram, driver, mut queue) = world();
        queue.disable();
        for area in [Area::Descriptors, Area::Available, Area::Used] {
            queue.set_address(area, true, high);
            queue.set_address(area, false, 0xffff_fff0);
        }
        queue.enable().unwrap();
        assert!(matches!(queue.waiting(&ram), Err(QueueError::Broken(_))));
        assert!(matches!(queue.next_chain(&ram), Err(QueueError::Broken(_))));
        let mut chain = Chain { head: 0, next: Some(1), left: SIZE };
        assert!(matches!(queue.segment(&mut chain, &ram), Err(QueueError::Broken(_))));
        assert!(matches!(queue.finish(0, 0, &mut ram), Err(QueueError::Broken(_))));
        assert_eq!(ram.u16_at(driver.used_ring() + 2), 0);
    }
}

#[test]
fn a_queue_is_enabled_only_with_a_size_and_alignments_that_are_allowed() {
    for size in [0, 3, 16, 0x1_0008, u32::MAX] {
        let mut queue = Queue::new(SIZE);
        queue.set_size(size);
        assert!(queue.enable().is_err(), "{size}");
        assert!(!queue.is_ready());
    }
    for (area, address) in [(Area::Descriptors, 8), (Area::Available, 1), (Area::Used, 2)] {
        let mut queue = Queue::new(SIZE);
        queue.set_address(area, false, address);
        assert!(queue.enable().is_err(), "{area:?}");
    }
    let mut queue = Queue::new(SIZE);
    queue.set_size(1);
    queue.enable().unwrap();
}

#[test]
fn a_queue_in_use_is_not_moved() {
    let (ram, _, mut queue) = world();
    let before = queue;
    queue.set_size(2);
    queue.set_address(Area::Used, false, 0x9000);
    assert_eq!(queue, before);
    assert_eq!(queue.waiting(&ram), Ok(0));
}

#[test]
fn a_used_ring_without_a_frame_leaves_the_buffer_for_the_next_try() {
    let (mut ram, mut driver, mut queue) = world();
    let head = driver.offer(&mut ram, &[Part::readable(0x1000, 4)]);
    ram.unbacked = Some(driver.base);
    let gpa = GuestPhysAddr(driver.used_ring() + 4);
    assert_eq!(queue.finish(head, 0, &mut ram), Err(QueueError::Memory(MemoryError::OutOfFrames { gpa })));
    assert_eq!(queue.waiting(&ram), Ok(1));
    assert!(!queue.take_used(&ram));
    ram.unbacked = None;
    queue.finish(head, 0, &mut ram).unwrap();
    assert_eq!(driver.collect(&ram), Some((head.into(), 0)));
    assert_eq!(driver.collect(&ram), None);
}
