//! One CPU, 1 GiB, and two VMs that want it; and requests for several VMs at once.

use super::*;

fn half_the_memory_and_a_cpu(name: &str) -> Request {
    Request { cpu_reservation_percent: 100, ..vm(name, 512) }
}

#[test]
fn a_is_granted_and_b_refused_for_cpu_and_runs_when_cpu_is_shared_by_weight() {
    let mut allocator = machine(1, 1024, Strategy::Need);
    assert!(allocator.request(&half_the_memory_and_a_cpu("a"), 1).unwrap().complete());
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&half_the_memory_and_a_cpu("b"), 2)),
        "insufficient resources: cpu: requested 1 x 100 % = 100 %, available 0 % of 1 CPU (reserved: a 100 %)"
    );
    let by_weight = Request { cpu_reservation_percent: 0, ..half_the_memory_and_a_cpu("b") };
    assert!(allocator.request(&by_weight, 2).unwrap().complete());
    assert_eq!(allocator.may_start(2), Ok(()));
    // Both can have all their memory.
    populate(&mut allocator, 1, 512);
    populate(&mut allocator, 2, 512);
    let view = allocator.view();
    assert_eq!((view.memory.available, view.memory.reserved, view.populated_bytes), (0, 1024 * MIB, 1024 * MIB));
    assert_eq!((view.cpu.available, view.cpu.reserved, view.cpu.capacity), (0, 100, 100));
}

#[test]
fn replicas_are_all_granted_or_none() {
    let mut allocator = machine(4, 512 + 64 + 120, Strategy::Need);
    allocator.request(&vm("linux", 512), 1).unwrap();
    allocator.request(&Request { replicas: Some(1), ..vm("web", 64) }, 2).unwrap();
    let three = Request { replicas: Some(3), ..vm("www", 64) };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&three, 3)),
        "insufficient resources: memory: requested 3 x 64 MiB = 192 MiB, available 120 MiB \
         (reserved: linux 512 MiB, web-1 64 MiB)"
    );
    assert!(allocator.remove(1));
    let grants = allocator.request(&three, 3).unwrap();
    let names: Vec<(u32, &str)> = grants.vms.iter().map(|grant| (grant.vm, grant.name.as_str())).collect();
    assert_eq!(names, [(3, "www-1"), (4, "www-2"), (5, "www-3")]);
    assert_eq!(allocator.view().memory.reserved, 4 * 64 * MIB);
}

#[test]
fn one_vm_is_numbered_only_if_asked_for() {
    let names = |replicas| Request { replicas, ..vm("web", 1) }.names().collect::<Vec<_>>();
    assert_eq!(names(None), ["web"]);
    assert_eq!(names(Some(1)), ["web-1"]);
    assert_eq!(names(Some(2)), ["web-1", "web-2"]);
}

#[test]
fn a_stopped_vm_keeps_its_place_and_a_destroyed_one_gives_it_back() {
    let mut allocator = machine(1, 64, Strategy::Need);
    let empty = allocator.clone();
    allocator.request(&half_of(64, "a"), 7).unwrap();
    populate(&mut allocator, 7, 32);
    allocator.ended(7);
    assert_eq!((allocator.populated_bytes(7), allocator.target_bytes(7)), (Some(0), Some(32 * MIB)));
    assert_eq!(allocator.view().memory.available, 32 * MIB);
    populate(&mut allocator, 7, 32);
    assert!(allocator.remove(7));
    assert!(!allocator.remove(7));
    assert_eq!(allocator, empty);
}

fn half_of(mib: u64, name: &str) -> Request {
    Request { cpu_reservation_percent: 50, ..vm(name, mib / 2) }
}

#[test]
fn more_vcpus_than_cpus_are_no_reason_to_refuse() {
    let mut allocator = machine(1, 64, Strategy::Need);
    allocator.request(&Request { vcpus: 64, cpu_reservation_percent: 100, ..vm("wide", 1) }, 1).unwrap();
    assert_eq!(allocator.view().cpu.available, 0);
}
