//! Targets set by hand: growing, shrinking with a balloon and without.

use super::*;

fn reserved(allocator: &Allocator) -> u64 {
    allocator.view().memory.reserved / MIB
}

#[test]
fn a_raise_is_granted_as_far_as_the_memory_goes() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 40, 80), 1).unwrap();
    allocator.request(&flexible("b", 30, 80), 2).unwrap();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_memory(1, 71 * MIB)),
        "insufficient resources: memory: requested 1 x 71 MiB = 71 MiB, available 70 MiB (reserved: b 30 MiB)"
    );
    let change = allocator.set_memory(1, 70 * MIB).unwrap();
    assert_eq!((in_mib(&[change.own]), change.owed_bytes), ([(1, 40, 70, 0)].into(), 0));
    assert_eq!(reserved(&allocator), 100);
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_memory(1, 81 * MIB)),
        "vm a: memory 81 MiB; allowed are 4 MiB (its minimum) to 80 MiB (its maximum)"
    );
    refused(&mut allocator, |allocator| allocator.set_memory(1, 3 * MIB));
    refused(&mut allocator, |allocator| allocator.set_memory(1, 5 * MIB + 1));
}

#[test]
fn a_target_falls_at_once_to_what_is_populated_and_no_further_without_a_balloon() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 60, 60), 1).unwrap();
    populate(&mut allocator, 1, 20);
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_memory(1, 19 * MIB)),
        "vm a: 20 MiB are populated and its guest has no balloon to give them back, so its memory cannot become 19 MiB; \
         stop the VM first or use a guest with a balloon driver"
    );
    allocator.set_memory(1, 20 * MIB).unwrap();
    assert_eq!(reserved(&allocator), 20);
    assert_eq!(
        allocator.touch(1, PAGE_SIZE, u64::MAX),
        Touch::Wait(WaitReason::BeyondTarget { target_bytes: 20 * MIB })
    );
    allocator.ended(1);
    allocator.set_memory(1, 4 * MIB).unwrap();
    assert_eq!(reserved(&allocator), 4);
}

#[test]
fn with_a_balloon_the_reservation_falls_as_the_pages_come_back() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 60, 60), 1).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 50);
    let change = allocator.set_memory(1, 20 * MIB).unwrap();
    assert_eq!(in_mib(&[change.own]), [(1, 60, 20, 30)]);
    assert_eq!(reserved(&allocator), 50);
    for (released, left) in [(10, 40), (15, 25), (4, 21), (1, 20), (3, 20)] {
        release(&mut allocator, 1, released * MIB);
        assert_eq!(reserved(&allocator), left);
    }
    assert_eq!(allocator.populated_bytes(1), Some(17 * MIB));
}

#[test]
fn a_guest_whose_balloon_is_on_the_way_up_may_touch_what_nobody_has_reserved() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 60, 60), 1).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 50);
    allocator.set_memory(1, 20 * MIB).unwrap();
    allocator.request(&vm("b", 45), 2).unwrap();
    // 5 MiB are left.
    populate(&mut allocator, 1, 5);
    assert_eq!(reserved(&allocator), 100);
    let full = Touch::Wait(WaitReason::BeyondTarget { target_bytes: 20 * MIB });
    assert_eq!(allocator.touch(1, PAGE_SIZE, u64::MAX), full);
    allocator.remove(2);
    assert_eq!(allocator.memory_came_back(u64::MAX).resume, [1]);
    // No further than its old target.
    populate(&mut allocator, 1, 5);
    assert_eq!(allocator.touch(1, PAGE_SIZE, u64::MAX), full);
    // Once the balloon is there, the target is what counts.
    release(&mut allocator, 1, 50 * MIB);
    allocator.ballooned(1, 40 * MIB);
    populate(&mut allocator, 1, 10);
    assert_eq!(allocator.touch(1, PAGE_SIZE, u64::MAX), full);
    assert_eq!(allocator.granted_bytes(1), Some(20 * MIB));
}

#[test]
fn bounds_move_but_not_past_the_target_or_what_is_populated() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 40, 60), 1).unwrap();
    refused(&mut allocator, |allocator| allocator.set_memory_bounds(1, 41 * MIB, 60 * MIB));
    refused(&mut allocator, |allocator| allocator.set_memory_bounds(1, 4 * MIB, 39 * MIB));
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    allocator.set_memory(1, 10 * MIB).unwrap();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_memory_bounds(1, 4 * MIB, 39 * MIB)),
        "vm a: maximum 39 MiB; 40 MiB are populated, so set its memory lower first"
    );
    allocator.set_memory_bounds(1, 10 * MIB, 80 * MIB).unwrap();
    let row = &allocator.view().vms[0];
    assert_eq!((row.min_bytes, row.target_bytes, row.max_bytes), (10 * MIB, 10 * MIB, 80 * MIB));
}

#[test]
fn what_nobody_has_reserved_is_drawn_on_once() {
    let mut allocator = machine(1, 100, Strategy::Need);
    for (name, vm_number) in [("a", 1), ("b", 2)] {
        allocator.request(&flexible(name, 40, 40), vm_number).unwrap();
        allocator.set_can_shrink(vm_number, true);
        populate(&mut allocator, vm_number, 30);
        allocator.set_memory(vm_number, 10 * MIB).unwrap();
    }
    allocator.request(&vm("c", 40), 3).unwrap();
    for vm_number in [2, 1] {
        assert!(matches!(allocator.touch(vm_number, 4 * MIB, u64::MAX), Touch::Wait(WaitReason::BeyondTarget { .. })));
    }
    allocator.set_memory(3, 35 * MIB).unwrap();
    // 5 MiB are enough for one of them.
    assert_eq!(allocator.memory_came_back(u64::MAX).resume, [2]);
}
