//! Each strategy against figures worked out by hand.

use super::*;

fn of_priority(name: &str, min_mib: u64, mib: u64, priority: u8) -> Request {
    Request { memory_min_bytes: min_mib * MIB, priority, ..vm(name, mib) }
}

fn full_machine() -> Allocator {
    let mut allocator = machine(1, 100, Strategy::Priority);
    allocator.request(&of_priority("low", 10, 40, 10), 1).unwrap();
    allocator.request(&of_priority("mid", 10, 40, 20), 2).unwrap();
    allocator.request(&of_priority("high", 10, 20, 30), 3).unwrap();
    allocator
}

#[test]
fn a_higher_priority_takes_from_the_lowest_first_and_no_more_than_it_lacks() {
    let mut allocator = full_machine();
    let grants = allocator.request(&of_priority("new", 1, 45, 30), 4).unwrap();
    assert!(grants.complete());
    assert_eq!(in_mib(&grants.changes), [(1, 40, 10, 0), (2, 40, 25, 0)]);
    assert_eq!(targets(&allocator), [10, 25, 20, 45]);
    assert_eq!(allocator.view().memory.reserved, 100 * MIB);
}

#[test]
fn what_lower_ones_cannot_give_is_refused_and_nothing_taken() {
    let mut allocator = full_machine();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&of_priority("new", 1, 61, 30), 4)),
        "insufficient resources: memory: requested 1 x 61 MiB = 61 MiB, available 60 MiB \
         (reserved: high 20 MiB, low 10 MiB, mid 10 MiB)"
    );
    // Equals take nothing from each other.
    refused(&mut allocator, |allocator| allocator.request(&of_priority("new", 1, 1, 10), 4));
    // What is populated without a balloon is not taken either.
    populate(&mut allocator, 1, 35);
    refused(&mut allocator, |allocator| allocator.request(&of_priority("new", 1, 6, 20), 4));
    allocator.request(&of_priority("new", 1, 5, 20), 4).unwrap();
    assert_eq!(targets(&allocator), [35, 40, 20, 5]);
}

#[test]
fn under_need_nothing_is_taken_whatever_the_priority() {
    let mut allocator = full_machine();
    allocator.set_strategy(Strategy::Need);
    refused(&mut allocator, |allocator| allocator.request(&of_priority("new", 1, 1, 99), 4));
    allocator.set_strategy(Strategy::Priority);
    allocator.request(&of_priority("new", 1, 1, 99), 4).unwrap();
}

#[test]
fn a_balloon_must_deliver_before_the_new_vm_may_start() {
    let mut allocator = full_machine();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    let grants = allocator.request(&of_priority("new", 1, 30, 40), 4).unwrap();
    assert_eq!(in_mib(&grants.changes), [(1, 40, 10, 30)]);
    assert_eq!(grants.vms[0].owed_bytes, 30 * MIB);
    assert!(!grants.complete());
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.may_start(4)),
        "vm new: 30 MiB of its memory are still to be given back (by: low 30 MiB); start it when they are, \
         or stop those VMs"
    );
    assert_eq!(allocator.touch(4, PAGE_SIZE, u64::MAX), Touch::Wait(WaitReason::Owed { owed_bytes: 30 * MIB }));
    // The place is held: nobody else gets what comes back, not even who asks first.
    release(&mut allocator, 1, 20 * MIB);
    refused(&mut allocator, |allocator| allocator.request(&of_priority("thief", 1, 1, 10), 5));
    assert!(allocator.memory_came_back(u64::MAX).ready.is_empty());
    release(&mut allocator, 1, 10 * MIB);
    assert_eq!(allocator.may_start(4), Ok(()));
    let back = allocator.memory_came_back(u64::MAX);
    assert_eq!((back.ready, back.resume), ([4].into(), [4].into()));
    assert_eq!(allocator.memory_came_back(u64::MAX), Back::default(), "it is told once");
    populate(&mut allocator, 4, 30);
}

#[test]
fn what_a_balloon_already_owes_is_not_promised_twice() {
    let mut allocator = machine(1, 100, Strategy::Priority);
    allocator.request(&of_priority("low", 10, 100, 10), 1).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 100);
    allocator.request(&of_priority("a", 1, 50, 20), 2).unwrap();
    let grants = allocator.request(&of_priority("b", 1, 40, 20), 3).unwrap();
    assert_eq!(in_mib(&grants.changes), [(1, 50, 10, 90)]);
    refused(&mut allocator, |allocator| allocator.request(&of_priority("c", 1, 1, 20), 4));
    // Whoever can be paid whole is, the older of equals first.
    release(&mut allocator, 1, 45 * MIB);
    assert_eq!((allocator.may_start(2).is_ok(), allocator.may_start(3).is_ok()), (false, true));
    allocator.ended(1);
    assert_eq!(allocator.may_start(2), Ok(()));
    assert_eq!(allocator.view().memory.reserved, 100 * MIB);
}

#[test]
fn who_is_owed_memory_and_made_smaller_is_owed_less() {
    let mut allocator = full_machine();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    allocator.request(&of_priority("new", 1, 30, 40), 4).unwrap();
    assert_eq!(allocator.set_memory(4, 20 * MIB).unwrap().owed_bytes, 20 * MIB);
    release(&mut allocator, 1, 19 * MIB);
    assert_eq!(allocator.view().vms[3].owed_bytes, 20 * MIB, "paid whole or not at all");
    release(&mut allocator, 1, MIB);
    assert_eq!(allocator.view().vms[3].owed_bytes, 0);
    populate(&mut allocator, 4, 20);
}

#[test]
fn an_overcommit_that_could_not_deliver_what_is_promised_is_refused() {
    let mut allocator = full_machine();
    allocator.set_overcommit(Overcommit::from_percent(110).unwrap()).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    // 10 unreserved and 30 to come.
    let grants = allocator.request(&of_priority("new", 1, 40, 40), 4).unwrap();
    assert_eq!(grants.vms[0].owed_bytes, 40 * MIB);
    let line = "overcommit 1.0: 110 MiB are reserved and only 100 MiB would be allowed; shrink or destroy VMs first";
    assert_eq!(refused(&mut allocator, |allocator| allocator.set_overcommit(Overcommit::NONE)), line);
    allocator.remove(4);
    allocator.set_memory(1, 40 * MIB).unwrap();
    allocator.set_overcommit(Overcommit::NONE).unwrap();
}

#[test]
fn a_guest_that_is_owed_memory_draws_nothing_from_what_is_unreserved() {
    let mut allocator = machine(1, 100, Strategy::Priority);
    allocator.request(&of_priority("low", 10, 40, 10), 1).unwrap();
    allocator.request(&of_priority("high", 10, 60, 30), 2).unwrap();
    for vm_number in [1, 2] {
        allocator.set_can_shrink(vm_number, true);
    }
    populate(&mut allocator, 1, 40);
    populate(&mut allocator, 2, 20);
    allocator.set_memory(2, 20 * MIB).unwrap();
    allocator.request(&of_priority("filler", 10, 30, 30), 3).unwrap();
    // 10 are unreserved, and 20 to come.
    assert_eq!(allocator.set_memory(2, 50 * MIB).unwrap().owed_bytes, 30 * MIB);
    let owed = Touch::Wait(WaitReason::Owed { owed_bytes: 30 * MIB });
    assert_eq!(allocator.touch(2, 5 * MIB, u64::MAX), owed);
    release(&mut allocator, 1, 20 * MIB);
    assert_eq!(allocator.touch(2, 30 * MIB, u64::MAX), Touch::Back);
}

#[test]
fn what_is_promised_is_not_called_back_by_raising_the_target_again() {
    let mut allocator = full_machine();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    allocator.request(&of_priority("new", 1, 30, 40), 4).unwrap();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_memory(1, 11 * MIB)),
        "insufficient resources: memory: requested 1 x 11 MiB = 11 MiB, available 10 MiB \
         (reserved: mid 40 MiB, new 30 MiB, high 20 MiB)"
    );
    allocator.remove(4);
    allocator.set_memory(1, 40 * MIB).unwrap();
    assert_eq!(allocator.view().memory.reserved, 100 * MIB);
}

#[test]
fn a_raise_of_a_higher_priority_takes_back_too() {
    let mut allocator = full_machine();
    allocator.set_memory_bounds(3, 10 * MIB, 90 * MIB).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 40);
    populate(&mut allocator, 3, 20);
    let change = allocator.set_memory(3, 60 * MIB).unwrap();
    assert_eq!(in_mib(&change.others), [(1, 40, 10, 30), (2, 40, 30, 0)]);
    assert_eq!(change.owed_bytes, 40 * MIB);
    assert!(matches!(allocator.touch(3, PAGE_SIZE, u64::MAX), Touch::Wait(WaitReason::Owed { .. })));
    release(&mut allocator, 1, 30 * MIB);
    assert_eq!(allocator.memory_came_back(u64::MAX).resume, [3]);
    populate(&mut allocator, 3, 40);
}

#[test]
fn capacity_shares_what_is_left_by_weight_up_to_each_ones_maximum() {
    let mut allocator = machine(1, 100, Strategy::Capacity);
    let shared = |name: &str, min: u64, max: u64, weight| Request {
        memory_min_bytes: min * MIB,
        memory_bytes: min * MIB,
        memory_max_bytes: max * MIB,
        weight,
        ..vm(name, 1)
    };
    let grants = allocator.request(&shared("a", 10, 200, 100), 1).unwrap();
    assert_eq!(grants.vms[0].target_bytes, 100 * MIB);
    // 10 + L and 10 + 3 L make 100: L = 20.
    let grants = allocator.request(&shared("b", 10, 200, 300), 2).unwrap();
    assert_eq!((in_mib(&grants.changes), targets(&allocator)), ([(1, 100, 30, 0)].into(), [30, 70].into()));
    // C is full at 16; the rest, 100 - 16 - 20 = 64, goes 1:3.
    allocator.request(&shared("c", 10, 16, 900), 3).unwrap();
    assert_eq!(targets(&allocator), [26, 58, 16]);
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&shared("d", 71, 80, 1), 4)),
        "insufficient resources: memory: requested 1 x 71 MiB = 71 MiB, available 70 MiB \
         (reserved: a 10 MiB, b 10 MiB, c 10 MiB)"
    );
    allocator.remove(2);
    allocator.set_weight(1, 200).unwrap();
    assert_eq!(in_mib(&allocator.rebalance(0, &[])), [(1, 26, 84, 0)]);
}

#[test]
fn capacity_lets_balloons_deliver_before_it_gives_their_memory_away() {
    let mut allocator = machine(1, 100, Strategy::Capacity);
    let shared = |name: &str| Request {
        memory_min_bytes: 10 * MIB,
        memory_bytes: 10 * MIB,
        memory_max_bytes: 200 * MIB,
        ..vm(name, 1)
    };
    allocator.request(&shared("a"), 1).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 100);
    let grants = allocator.request(&shared("b"), 2).unwrap();
    assert_eq!(in_mib(&grants.changes), [(1, 100, 50, 50)]);
    assert_eq!((grants.vms[0].target_bytes, grants.vms[0].owed_bytes), (10 * MIB, 10 * MIB));
    release(&mut allocator, 1, 30 * MIB);
    assert_eq!(allocator.may_start(2), Ok(()));
    assert_eq!(in_mib(&allocator.rebalance(0, &[])), [(2, 10, 30, 0)]);
    release(&mut allocator, 1, 20 * MIB);
    assert_eq!(in_mib(&allocator.rebalance(0, &[])), [(2, 30, 50, 0)]);
}

#[test]
fn under_capacity_a_target_is_raised_by_hand_only_out_of_what_nobody_holds() {
    let mut allocator = machine(1, 100, Strategy::Need);
    for (name, vm_number) in [("a", 1), ("b", 2)] {
        allocator.request(&Request { memory_max_bytes: 100 * MIB, ..vm(name, 40) }, vm_number).unwrap();
    }
    allocator.set_strategy(Strategy::Capacity);
    refused(&mut allocator, |allocator| allocator.set_memory(1, 61 * MIB));
    assert_eq!(allocator.set_memory(1, 60 * MIB).unwrap().owed_bytes, 0);
}

fn measured(allocator: &mut Allocator, second: u64, sets_mib: &[(u32, u64)]) -> Vec<(u32, u64, u64, u64)> {
    let samples: Vec<Sample> = sets_mib.iter().map(|&(vm, mib)| Sample { vm, working_set_bytes: mib * MIB }).collect();
    in_mib(&allocator.rebalance(second * REBALANCE_PERIOD_US, &samples))
}

#[test]
fn utilization_grows_at_once_and_shrinks_by_an_eighth_of_the_way() {
    let mut allocator = machine(1, 200, Strategy::Utilization);
    let request = |name| Request { memory_min_bytes: 8 * MIB, memory_max_bytes: 120 * MIB, ..vm(name, 100) };
    allocator.request(&request("a"), 1).unwrap();
    allocator.set_can_shrink(1, true);
    populate(&mut allocator, 1, 100);
    // Wants 16 + 4 of its 100: an eighth of 80 is 10.
    assert_eq!(measured(&mut allocator, 5, &[(1, 16)]), [(1, 100, 90, 10)]);
    assert_eq!(in_mib(&allocator.rebalance(6 * REBALANCE_PERIOD_US - 1, &[])), [], "too early");
    assert_eq!(measured(&mut allocator, 6, &[]), [], "not measured");
    for second in 7..200 {
        measured(&mut allocator, second, &[(1, 16)]);
    }
    assert_eq!(targets(&allocator), [20]);
    assert_eq!(measured(&mut allocator, 300, &[(1, 80)]), [(1, 20, 100, 0)]);
    // Neither beyond the maximum nor below the minimum.
    measured(&mut allocator, 301, &[(1, 1000)]);
    assert_eq!(targets(&allocator), [120]);
    for second in 302..500 {
        measured(&mut allocator, second, &[(1, 0)]);
    }
    assert_eq!(targets(&allocator), [8]);
}

#[test]
fn utilization_takes_nothing_that_a_guest_without_a_balloon_has_populated() {
    let mut allocator = machine(1, 200, Strategy::Utilization);
    allocator.request(&vm("a", 100), 1).unwrap();
    populate(&mut allocator, 1, 40);
    for second in 0..200 {
        measured(&mut allocator, second, &[(1, 1)]);
    }
    assert_eq!(targets(&allocator), [50]);
}

#[test]
fn utilization_shares_what_there_is_among_those_who_want_more() {
    let mut allocator = machine(1, 100, Strategy::Utilization);
    for (name, vm_number, weight) in [("a", 1, 100), ("b", 2, 300)] {
        let request = Request { memory_max_bytes: 90 * MIB, weight, ..vm(name, 30) };
        allocator.request(&request, vm_number).unwrap();
        populate(&mut allocator, vm_number, 30);
    }
    // Both want 75; 40 are left: 10 and 30.
    assert_eq!(measured(&mut allocator, 1, &[(1, 60), (2, 60)]), [(1, 30, 40, 0), (2, 30, 60, 0)]);
}

#[test]
fn a_paused_vm_is_given_what_it_waits_for() {
    let mut allocator = machine(1, 100, Strategy::Utilization);
    allocator.request(&Request { memory_max_bytes: 90 * MIB, ..vm("a", 20) }, 1).unwrap();
    populate(&mut allocator, 1, 20);
    assert!(matches!(allocator.touch(1, 4 * MIB, u64::MAX), Touch::Wait(_)));
    assert_eq!(measured(&mut allocator, 1, &[(1, 1)]), [(1, 20, 30, 0)]);
    assert_eq!(allocator.memory_came_back(u64::MAX).resume, [1]);
}
