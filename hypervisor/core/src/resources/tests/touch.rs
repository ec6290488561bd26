//! Touches, the line of those who wait, and overcommit's memory running out.

use super::*;

fn overcommitted(mib: u64, percent: u32) -> Allocator {
    let capacity = Capacity { cpus: 1, memory_bytes: mib * MIB };
    Allocator::new(capacity, Overcommit::from_percent(percent).unwrap(), Strategy::Need)
}

const fn no_host_memory(free_mib: u64) -> Touch {
    Touch::Wait(WaitReason::HostMemory { free_bytes: free_mib * MIB })
}

#[test]
fn who_touches_beyond_the_target_waits_until_it_is_raised() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&Request { memory_max_bytes: 64 * MIB, ..vm("a", 16) }, 1).unwrap();
    populate(&mut allocator, 1, 16);
    let Touch::Wait(reason) = allocator.touch(1, 2 * MIB, u64::MAX) else { panic!("not within its target") };
    assert_eq!(reason.to_string(), "it touched memory beyond its 16 MiB; set its memory higher");
    assert_eq!(allocator.memory_came_back(u64::MAX), Back::default());
    assert_eq!(allocator.view().vms[0].waiting.as_deref(), Some(reason.to_string().as_str()));
    allocator.set_memory(1, 17 * MIB).unwrap();
    assert_eq!(allocator.memory_came_back(u64::MAX), Back::default(), "1 MiB is not enough for 2");
    allocator.set_memory(1, 18 * MIB).unwrap();
    assert_eq!(allocator.memory_came_back(u64::MAX).resume, [1]);
    assert_eq!(allocator.waiting(), []);
    populate(&mut allocator, 1, 2);
}

#[test]
fn the_vm_that_touches_one_page_too_many_waits_and_the_others_go_on() {
    let mut allocator = overcommitted(100, 150);
    allocator.request(&vm("a", 75), 1).unwrap();
    allocator.request(&vm("b", 75), 2).unwrap();
    assert_eq!(allocator.view().memory.available, 0);
    populate(&mut allocator, 1, 60);
    populate(&mut allocator, 2, 38);
    // 2 MiB are free.
    assert_eq!(allocator.touch(1, 4 * MIB, 2 * MIB), no_host_memory(2));
    assert_eq!(allocator.touch(2, MIB, 2 * MIB), Touch::Back);
    back(&mut allocator, 2, MIB);
    assert_eq!(allocator.memory_came_back(MIB), Back::default());
    let waiting = &allocator.waiting()[0];
    assert_eq!((waiting.vm, waiting.bytes, waiting.reason), (1, 4 * MIB, WaitReason::HostMemory { free_bytes: MIB }));
    release(&mut allocator, 2, 3 * MIB);
    assert_eq!(allocator.memory_came_back(4 * MIB).resume, [1]);
    // What it was paused for is kept for it: nobody else gets it first.
    assert_eq!(allocator.touch(2, PAGE_SIZE, 4 * MIB), no_host_memory(0));
    assert_eq!(allocator.touch(1, 4 * MIB, 4 * MIB), Touch::Back);
    back(&mut allocator, 1, 4 * MIB);
    allocator.ended(1);
    assert_eq!(allocator.memory_came_back(64 * MIB).resume, [2]);
}

#[test]
fn the_oldest_goes_first_and_a_second_touch_does_not_lose_its_place() {
    let mut allocator = overcommitted(30, 1000);
    allocator.request(&Request { replicas: Some(4), ..vm("web", 60) }, 1).unwrap();
    populate(&mut allocator, 4, 30);
    for (vm, mib) in [(2, 3), (1, 2), (3, 1), (2, 2)] {
        assert_eq!(allocator.touch(vm, mib * MIB, 0), no_host_memory(0));
    }
    let line: Vec<u32> = allocator.waiting().iter().map(|waiting| waiting.vm).collect();
    assert_eq!(line, [2, 1, 3]);
    // The oldest does not fit, so the others wait behind it.
    assert_eq!(allocator.memory_came_back(MIB).resume, [0_u32; 0]);
    assert_eq!(allocator.memory_came_back(4 * MIB).resume, [2, 1]);
    // 4 of these are kept for the first two.
    assert_eq!(allocator.memory_came_back(4 * MIB).resume, [0_u32; 0]);
    assert_eq!(allocator.memory_came_back(5 * MIB).resume, [3]);
}

#[test]
fn who_is_stopped_or_destroyed_leaves_the_line_and_what_was_kept_is_free() {
    let mut allocator = overcommitted(10, 1000);
    allocator.request(&Request { replicas: Some(3), ..vm("web", 10) }, 1).unwrap();
    for vm in [1, 2, 3] {
        allocator.touch(vm, 2 * MIB, 0);
    }
    assert_eq!(allocator.memory_came_back(2 * MIB).resume, [1]);
    allocator.ended(1);
    assert_eq!(allocator.memory_came_back(2 * MIB).resume, [2]);
    allocator.remove(2);
    assert_eq!(allocator.memory_came_back(2 * MIB).resume, [3]);
    assert_eq!(allocator.waiting(), []);
}

#[test]
fn who_is_resumed_by_hand_goes_to_the_end_of_the_line() {
    let mut allocator = overcommitted(10, 1000);
    allocator.request(&Request { replicas: Some(2), ..vm("web", 10) }, 1).unwrap();
    allocator.touch(1, MIB, 0);
    allocator.touch(2, MIB, 0);
    allocator.resumed(1);
    assert_eq!(allocator.waiting().len(), 1);
    allocator.touch(1, MIB, 0);
    assert_eq!(allocator.memory_came_back(MIB).resume, [2]);
}

#[test]
fn a_vm_beyond_its_target_holds_up_nobody() {
    let mut allocator = overcommitted(10, 200);
    allocator.request(&vm("small", 1), 1).unwrap();
    allocator.request(&vm("b", 10), 2).unwrap();
    populate(&mut allocator, 1, 1);
    assert!(matches!(allocator.touch(1, MIB, MIB), Touch::Wait(WaitReason::BeyondTarget { .. })));
    assert_eq!(allocator.touch(2, MIB, 0), no_host_memory(0));
    assert_eq!(allocator.memory_came_back(MIB).resume, [2]);
}

#[test]
fn a_vm_that_is_not_there_has_nothing_and_changes_nothing() {
    let mut allocator = machine(1, 10, Strategy::Need);
    allocator.request(&vm("a", 10), 1).unwrap();
    let before = allocator.clone();
    allocator.measured(2, PAGE_SIZE);
    assert_eq!(allocator.granted_bytes(2), None);
    assert_eq!(allocator.touch(2, PAGE_SIZE, u64::MAX), Touch::Wait(WaitReason::Unknown));
    assert_eq!(allocator, before);
}

#[test]
fn what_is_granted_is_the_target_or_a_part_of_the_unreserved_on_the_way_down() {
    let mut allocator = machine(1, 100, Strategy::Need);
    allocator.request(&flexible("a", 30, 40), 1).unwrap();
    allocator.request(&flexible("b", 30, 40), 2).unwrap();
    assert_eq!((allocator.granted_bytes(1), allocator.granted_bytes(2)), (Some(30 * MIB), Some(30 * MIB)));
    for number in [1, 2] {
        allocator.set_can_shrink(number, true);
        populate(&mut allocator, number, 20);
        allocator.set_memory(number, 10 * MIB).unwrap();
    }
    // Each holds 20 MiB and may go up to its old 30: there is enough for both.
    assert_eq!((allocator.granted_bytes(1), allocator.granted_bytes(2)), (Some(30 * MIB), Some(30 * MIB)));
    // Of 8 MiB that are left, each may count on half.
    allocator.request(&vm("c", 52), 3).unwrap();
    assert_eq!((allocator.granted_bytes(1), allocator.granted_bytes(2)), (Some(24 * MIB), Some(24 * MIB)));
    // The balloon is there: the target counts.
    release(&mut allocator, 1, 12 * MIB);
    allocator.ballooned(1, 30 * MIB);
    assert_eq!(allocator.granted_bytes(1), Some(10 * MIB));
}
