//! Each refusal's line, word by word, and that it changes nothing.

use super::*;

#[test]
fn cpu_and_memory_that_both_lack_are_both_named() {
    let mut allocator = machine(2, 100, Strategy::Need);
    allocator.request(&Request { cpu_reservation_percent: 50, ..vm("a", 60) }, 1).unwrap();
    let request = Request { replicas: Some(2), vcpus: 2, cpu_reservation_percent: 150, ..vm("b", 30) };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&request, 2)),
        "insufficient resources: cpu: requested 2 x 150 % = 300 %, available 150 % of 2 CPUs (reserved: a 50 %); \
         memory: requested 2 x 30 MiB = 60 MiB, available 40 MiB (reserved: a 60 MiB)"
    );
}

#[test]
fn sizes_are_exact_and_the_hosts_tables_have_a_name_of_their_own() {
    let mut allocator = machine(1, 10, Strategy::Need);
    allocator.request(&Request { overhead_bytes: 132 << 10, ..vm("a", 6) }, 1).unwrap();
    let request = Request { replicas: Some(2), overhead_bytes: 132 << 10, ..vm("b", 2) };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&request, 2)),
        "insufficient resources: memory: requested 2 x (2 MiB + 132 KiB tables) = 4360 KiB, available 3964 KiB \
         (reserved: a 6 MiB, host tables 132 KiB)"
    );
    assert_eq!(Size(4097).to_string(), "4097 bytes");
    assert_eq!(Size(0).to_string(), "0 MiB");
}

#[test]
fn a_request_beyond_64_bits_is_refused_with_its_true_figure() {
    let mut allocator = machine(1, 10, Strategy::Need);
    let request = Request { replicas: Some(u32::MAX), ..vm("big", 1 << 43) };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&request, 1)),
        "insufficient resources: memory: requested 4294967295 x 8796093022208 MiB = 37778931854161068687360 MiB, \
         available 10 MiB (reserved: nothing)"
    );
}

#[test]
fn a_long_list_names_the_largest_and_counts_the_others() {
    let mut allocator = machine(1, 1000, Strategy::Need);
    for index in 1..=20_u32 {
        allocator.request(&vm(&alloc::format!("vm{index}"), u64::from(index)), index).unwrap();
    }
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&vm("more", 791), 30)),
        "insufficient resources: memory: requested 1 x 791 MiB = 791 MiB, available 790 MiB (reserved: vm20 20 MiB, \
         vm19 19 MiB, vm18 18 MiB, vm17 17 MiB, vm16 16 MiB, vm15 15 MiB and 14 more 105 MiB)"
    );
}

#[test]
fn overcommit_is_told_with_the_memory_there_is() {
    let overcommit = Overcommit::from_percent(150).unwrap();
    let mut allocator = Allocator::new(Capacity { cpus: 1, memory_bytes: 100 * MIB }, overcommit, Strategy::Need);
    allocator.request(&vm("a", 120), 1).unwrap();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&vm("b", 31), 2)),
        "insufficient resources: memory: requested 1 x 31 MiB = 31 MiB, available 30 MiB of 1.5 x 100 MiB \
         (reserved: a 120 MiB)"
    );
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_overcommit(Overcommit::NONE)),
        "overcommit 1.0: 120 MiB are reserved and only 100 MiB would be allowed; shrink or destroy VMs first"
    );
    allocator.set_overcommit(Overcommit::from_percent(120).unwrap()).unwrap();
    assert_eq!(allocator.view().memory.available, 0);
}

#[test]
fn factors() {
    for (percent, text) in [(100, "1.0"), (150, "1.5"), (125, "1.25"), (205, "2.05"), (1000, "10.0")] {
        let overcommit = Overcommit::from_percent(percent).unwrap();
        assert_eq!((overcommit.percent(), overcommit.to_string().as_str()), (percent, text));
    }
    for percent in [0, 99, 1001, u32::MAX] {
        assert_eq!(Overcommit::from_percent(percent), None);
    }
}

#[test]
fn values_out_of_range_are_named_with_what_is_allowed() {
    let mut allocator = machine(64, 1024, Strategy::Need);
    let good = vm("a", 16);
    for (request, line) in [
        (Request { replicas: Some(0), ..good.clone() }, "vm a: 0 replicas; ask for at least 1"),
        (Request { vcpus: 0, ..good.clone() }, "vm a: 0 vCPUs; allowed are 1 to 64"),
        (Request { vcpus: 65, ..good.clone() }, "vm a: 65 vCPUs; allowed are 1 to 64"),
        (
            Request { vcpus: 2, cpu_reservation_percent: 201, ..good.clone() },
            "vm a: 201 % of a CPU reserved; its 2 vCPUs can use at most 200 %",
        ),
        (
            Request { memory_bytes: 4097, ..good.clone() },
            "vm a: memory of 4097 bytes; it must be a multiple of 4 KiB, and not 0",
        ),
        (
            Request { memory_min_bytes: 17 * MIB, ..good.clone() },
            "vm a: memory 16 MiB; allowed are 17 MiB (its minimum) to 16 MiB (its maximum)",
        ),
        (Request { priority: 100, ..good.clone() }, "vm a: priority 100; allowed are 0 to 99"),
        (Request { weight: 0, ..good.clone() }, "vm a: weight 0; allowed are 1 to 10000"),
        (Request { overhead_bytes: 1, ..good.clone() }, "vm a: tables of 1 bytes; they must be whole 4 KiB frames"),
    ] {
        assert_eq!(refused(&mut allocator, |allocator| allocator.request(&request, 1)), line);
    }
}

#[test]
fn names_and_numbers_are_not_given_twice() {
    let mut allocator = machine(1, 1024, Strategy::Need);
    allocator.request(&vm("web-2", 1), 5).unwrap();
    let three = Request { replicas: Some(3), ..vm("web", 1) };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&three, 6)),
        "there is a VM called web-2 already; choose another name or destroy it"
    );
    let others = Request { name: "db".into(), ..three };
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.request(&others, 3)),
        "there is a VM with the number 5 already"
    );
    refused(&mut allocator, |allocator| allocator.request(&others, u32::MAX - 1));
    allocator.request(&others, 6).unwrap();
    assert_eq!(refused(&mut allocator, |allocator| allocator.set_weight(99, 1)), "there is no VM with the number 99");
}

#[test]
fn what_is_set_live_is_refused_like_what_is_asked_for() {
    let mut allocator = machine(1, 64, Strategy::Need);
    allocator.request(&Request { cpu_reservation_percent: 60, ..vm("a", 8) }, 1).unwrap();
    allocator.request(&Request { cpu_reservation_percent: 30, ..vm("b", 8) }, 2).unwrap();
    assert_eq!(
        refused(&mut allocator, |allocator| allocator.set_cpu_reservation(2, 41)),
        "insufficient resources: cpu: requested 1 x 41 % = 41 %, available 40 % of 1 CPU (reserved: a 60 %)"
    );
    refused(&mut allocator, |allocator| allocator.set_cpu_reservation(2, 101));
    refused(&mut allocator, |allocator| allocator.set_priority(2, 100));
    refused(&mut allocator, |allocator| allocator.set_weight(2, 10_001));
    allocator.set_cpu_reservation(2, 40).unwrap();
    allocator.set_priority(2, 99).unwrap();
    allocator.set_weight(2, 10_000).unwrap();
    let row = &allocator.view().vms[1];
    assert_eq!((row.cpu_reservation_percent, row.priority, row.weight), (40, 99, 10_000));
}
