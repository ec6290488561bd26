//! Touches, the line of those who wait, and overcommit's memory running out.

use super::*;

fn overcommitted(mib: u64, factor: &str) -> Allocator {
    let capacity = Capacity { cpus: 1, memory_bytes: mib * MIB };
    Allocator::new(capacity, Overcommit::from_factor(factor).unwrap(), Strategy::Need)
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
    let mut allocator = overcommitted(100, "1.5");
    allocator.request(&vm("a", 75), 1).unwrap();
    allocator.request(&vm("b", 75), 2).unwrap();
    assert_eq!(allocator.view().memory.available, 0);
    populate(&mut allocator, 1, 60);
    populate(&mut allocator, 2, 38);
    // 2 MiB are free.
    assert_eq!(allocator.touch(1, 4 * MIB, 2 * MIB), no_host_memory(2));
    assert_eq!(allocator.touch(2, MIB, 2 * MIB), Touch::Back);
    allocator.backed(2, MIB).unwrap();
    assert_eq!(allocator.memory_came_back(MIB), Back::default());
    let waiting = &allocator.waiting()[0];
    assert_eq!((waiting.vm, waiting.bytes, waiting.reason), (1, 4 * MIB, WaitReason::HostMemory { free_bytes: MIB }));
    allocator.released(2, 3 * MIB).unwrap();
    assert_eq!(allocator.memory_came_back(4 * MIB).resume, [1]);
    // What it was paused for is kept for it: nobody else gets it first.
    assert_eq!(allocator.touch(2, PAGE_SIZE, 4 * MIB), no_host_memory(0));
    assert_eq!(allocator.touch(1, 4 * MIB, 4 * MIB), Touch::Back);
    allocator.backed(1, 4 * MIB).unwrap();
    allocator.ended(1);
    assert_eq!(allocator.memory_came_back(64 * MIB).resume, [2]);
}

#[test]
fn the_oldest_goes_first_and_a_second_touch_does_not_lose_its_place() {
    let mut allocator = overcommitted(30, "10");
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
    let mut allocator = overcommitted(10, "10");
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
    let mut allocator = overcommitted(10, "10");
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
    let mut allocator = overcommitted(10, "2");
    allocator.request(&vm("small", 1), 1).unwrap();
    allocator.request(&vm("b", 10), 2).unwrap();
    populate(&mut allocator, 1, 1);
    assert!(matches!(allocator.touch(1, MIB, MIB), Touch::Wait(WaitReason::BeyondTarget { .. })));
    assert_eq!(allocator.touch(2, MIB, 0), no_host_memory(0));
    assert_eq!(allocator.memory_came_back(MIB).resume, [2]);
}

#[test]
fn reports_that_cannot_be_change_nothing() {
    let mut allocator = machine(1, 10, Strategy::Need);
    allocator.request(&vm("a", 10), 1).unwrap();
    let before = allocator.clone();
    assert_eq!(allocator.backed(1, 10 * MIB + PAGE_SIZE), Err(Miscount::NotGranted));
    assert_eq!(allocator.backed(1, u64::MAX), Err(Miscount::NotGranted));
    assert_eq!(allocator.backed(2, PAGE_SIZE), Err(Miscount::Unknown));
    assert_eq!(allocator.touch(2, PAGE_SIZE, u64::MAX), Touch::Wait(WaitReason::Unknown));
    assert_eq!(allocator, before);
}
