//! Tests of several VMs together: replicas, groups, the order of starting; and of changes to one.

use crate::config::{Config, SetError, VmChange, VmConfig, check_set, start_order};
use crate::sched::CpuSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

/// A file of VMs, each a name and further keys.
fn file(vms: &[(&str, &str)]) -> String {
    vms.iter().map(|(name, keys)| format!("[[vm]]\nname = '{name}'\nimage = 'i'\n{keys}\n")).collect()
}

fn order(vms: &[(&str, &str)]) -> Vec<String> {
    let config = Config::parse(&file(vms)).unwrap();
    config.boot_order().unwrap().into_iter().map(|vm| vm.name).collect()
}

#[test]
fn replicas_are_a_group() {
    let config = Config::parse(&file(&[("web", "replicas = 3"), ("db", "replicas = 2\ngroup = 'data'")])).unwrap();
    let machines = config.machines();
    let shown: Vec<(&str, Option<&str>)> = machines.iter().map(|vm| (vm.name.as_str(), vm.group.as_deref())).collect();
    let (web, data) = (Some("web"), Some("data"));
    assert_eq!(shown, [("web-1", web), ("web-2", web), ("web-3", web), ("db-1", data), ("db-2", data)]);
    assert_eq!(Config::parse(&file(&[("web", "replicas = 1")])).unwrap().machines()[0].name, "web");
}

#[test]
fn a_vm_comes_after_the_names_and_groups_it_says() {
    let vms = [("web", "after = ['db', 'disk']"), ("db", "replicas = 2"), ("disk", ""), ("other", "")];
    let machines = Config::parse(&file(&vms)).unwrap().machines();
    let web = &machines[0];
    let names: Vec<&str> = machines.iter().filter(|vm| web.comes_after(vm)).map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["db-1", "db-2", "disk"]);
    assert!(machines.iter().all(|vm| !vm.comes_after(web)));
}

#[test]
fn what_comes_after_starts_after() {
    assert_eq!(order(&[("web", "after = ['db']"), ("db", "")]), ["db", "web"]);
    assert_eq!(order(&[("web", "after = ['db']\norder = 1"), ("db", "order = 200"), ("a", "")]), ["a", "db", "web"]);
    // A group is all its members, a replica is a VM.
    assert_eq!(
        order(&[("web", "after = ['db']\norder = 1"), ("x", "after = ['db-1']\norder = 2"), ("db", "replicas = 2")]),
        ["db-1", "x", "db-2", "web"]
    );
    // What an autostarted VM comes after starts with it, also through others.
    let not = "autostart = false\n";
    let vms = [("web", "after = ['db']"), ("db", "autostart = false\nafter = ['disk']"), ("disk", not), ("other", not)];
    assert_eq!(order(&vms), ["disk", "db", "web"]);
}

#[test]
fn what_runs_is_not_started_again() {
    let config = Config::parse(&file(&[("web", "after = ['db']"), ("db", "after = ['disk']"), ("disk", "")])).unwrap();
    let start = |running: &[usize]| start_order(&config.vms, [0], |vm| running.contains(&vm)).unwrap();
    assert_eq!(start(&[]), [2, 1, 0]);
    assert_eq!(start(&[2]), [1, 0]);
    // The database runs: whether its disk does is its own affair.
    assert_eq!(start(&[1]), [0]);
    assert_eq!(start(&[0]), [0; 0]);
}

#[test]
fn mistakes_of_several_vms_name_line_and_vm() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("db", ""), ("web", "\nafter = ['bd']")],
            r#"lamina.toml:9: vm "web": after bd: no VM and no group has this name; did you mean db?"#,
        ),
        (
            &[("a", "after = ['b']"), ("b", "after = ['c']"), ("c", "after = ['a']")],
            r#"lamina.toml:4: vm "a": a after b after c after a: this is a circle; take one of them out"#,
        ),
        (&[("a", "after = ['a']")], r#"lamina.toml:4: vm "a": a after a: this is a circle; take one of them out"#),
        (
            &[("x", ""), ("web", "replicas = 2\nafter = ['web']")],
            r#"lamina.toml:9: vm "web": web-1 after group web after web-1: this is a circle; take one of them out"#,
        ),
        (
            &[("db", ""), ("web", "group = 'db'")],
            r#"lamina.toml:8: vm "web": group db has the name of a VM; give it another"#,
        ),
        (
            &[("web-2", ""), ("web", "replicas = 2")],
            r#"lamina.toml:6: vm "web": the name web-2 is taken by another VM; give each VM its own"#,
        ),
        (
            &[("a-name-of-twenty-nine-charactr", "replicas = 10")],
            r#"lamina.toml:4: vm "a-name-of-twenty-nine-charactr": replicas = 10: the replicas' names, up to a-name-of-twenty-nine-charactr-10, are longer than 31 characters"#,
        ),
    ];
    for (vms, expected) in cases {
        assert_eq!(&Config::parse(&file(vms)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_vm_that_others_need_cannot_go() {
    let config = Config::parse(&file(&[("web", "after = ['db']"), ("db", "")])).unwrap();
    assert_eq!(check_set(&config.vms), Ok(()));
    let error = check_set(&config.vms[..1]).unwrap_err();
    assert_eq!(error, SetError::Unknown { vm: 0, name: "db".into(), hint: String::new() });
}

#[test]
fn the_limits_of_a_share_are_told() {
    for (keys, expected) in [
        ("vcpus = 0", "vcpus = 0: the number of vCPUs is 1 to 64"),
        ("vcpus = 65", "vcpus = 65: the number of vCPUs is 1 to 64"),
        ("weight = 0", "weight = 0: a weight is 1 to 10000"),
        ("cap = 0", "cap = 0: a cap is 1 to 6400"),
        ("cap = true", "cap = true: write none or a number, the percent of a CPU"),
        ("reservation = 101", "reservation = 101: a reservation is at most 100 for each vCPU, which is 100 here"),
        ("cap = 50\nreservation = 60", "reservation = 60: a reservation is at most the cap, which is 50 here"),
        ("priority = 100", "priority = 100: a priority is 0 to 99"),
        ("affinity = ''", "affinity = '': not a set of CPUs; write all, or numbers and ranges as in 0-3,5"),
        ("affinity = 256", "affinity = 256: a CPU is 0 to 255"),
        ("replicas = 0", "replicas = 0: the number of replicas is 1 to 1000"),
        ("memory_min = '65M'", "memory_min = '65M': memory_min is at most memory, which is 64M here"),
        ("memory_max = '63M'", "memory_max = '63M': memory_max is at least memory, which is 64M here"),
        ("stop_grace = '2h'", "stop_grace = '2h': not a time; write a number with us, ms or s, such as \"10ms\""),
        ("on_fault = 'reboot'", "on_fault = 'reboot': not one of restart, stop, pause, preserve"),
        (
            "restart_limit = '3 per minute'",
            "restart_limit = '3 per minute': not a restart limit; write 1 to 100 restarts and a time of 1s to 3600s, such \
             as \"3 in 60s\"",
        ),
        ("access_loop = 10", "access_loop = 10: the number of accesses is 1000 to 4294967295"),
        ("stop_grace = '3601s'", "stop_grace = '3601s': a grace time is 0s to 3600s"),
        ("watchdog = '999ms'", "watchdog = '999ms': a watchdog is 1s to 3600s, or none"),
        ("watchdog = '3601s'", "watchdog = '3601s': a watchdog is 1s to 3600s, or none"),
        ("after = 'db'", "after = 'db': write an array of strings, such as [\"ONE\", \"TWO\"]"),
    ] {
        let error = Config::parse(&file(&[("web", keys)])).unwrap_err().message;
        assert_eq!(error, format!("vm \"web\": {expected}"));
    }
    for (key, expected) in [
        ("cpus = 0", "cpus = 0: the number of CPUs is 1 to 256"),
        ("cpus = []", "cpus = []: write all or a number of CPUs"),
        ("sched_policy = 'rr'", "sched_policy = 'rr': not one of fair, round-robin, fcfs, priority"),
        ("alloc_strategy = 'x'", "alloc_strategy = 'x': not one of need, priority, utilization, capacity"),
        ("overcommit = 0.99", "overcommit = 0.99: overcommit is 1.0 (none) to 10.0"),
        ("overcommit = 10.01", "overcommit = 10.01: overcommit is 1.0 (none) to 10.0"),
        (
            "overcommit = 1.555",
            "overcommit = 1.555: not a ratio; write a number with at most two digits behind the point, such as 1.5",
        ),
        ("overcommit = true", "overcommit = true: write a number such as 1.5"),
    ] {
        let error = Config::parse(&format!("[host]\n{key}")).unwrap_err().message;
        assert_eq!(error, format!("host: {expected}"));
    }
    assert_eq!(Config::parse("[host]\novercommit = 2").unwrap().host.overcommit_percent, 200);
}

fn web() -> VmConfig {
    let mut vm = VmConfig::new("web", "hello").unwrap();
    vm.memory_min_bytes = Some(32 << 20);
    vm.memory_max_bytes = Some(128 << 20);
    vm
}

#[test]
fn a_change_is_all_or_nothing() {
    let words = ["weight=200", "cap=150", "quantum=5ms", "priority=9", "reservation=50", "affinity=0-1", "memory=96M"];
    let change = VmChange::parse(words.into_iter().chain([
        "stop_grace=2s",
        "weight=300",
        "on_fault=pause",
        "restart_limit=1 in 2s",
        "watchdog=90s",
    ]))
    .unwrap();
    let changed = change.apply(&web(), true).unwrap();
    assert_eq!((changed.weight, changed.cap_percent, changed.quantum_us), (300, Some(150), 5000));
    assert_eq!((changed.priority, changed.reservation_percent, changed.memory_bytes), (9, 50, 96 << 20));
    assert_eq!((changed.on_fault.name(), changed.restart_limit.to_string().as_str()), ("pause", "1 in 2s"));
    assert_eq!((changed.affinity, changed.stop_grace_us), ("0-1".parse::<CpuSet>().unwrap(), Some(2_000_000)));
    assert_eq!(changed.watchdog_us, Some(90_000_000));
    assert_eq!(VmChange::parse(["watchdog=none"]).unwrap().apply(&changed, true).unwrap().watchdog_us, None);
    assert_eq!(
        VmChange::parse(["watchdog=soon"]).unwrap_err(),
        "watchdog=soon: not a time; write a number with us, ms or s, such as \"10ms\""
    );
    assert_eq!(VmChange::parse(["cap=none"]).unwrap().apply(&changed, true).unwrap().cap_percent, None);
    assert!(VmChange::parse([]).unwrap().is_empty());
    let refused = |words: &[&str]| VmChange::parse(words.iter().copied()).unwrap().apply(&web(), true).unwrap_err();
    assert_eq!(
        refused(&["weight=2", "reservation=101"]),
        "reservation: a reservation is at most 100 for each vCPU, which is 100 here"
    );
    assert_eq!(
        refused(&["weight=2", "memory=129M"]),
        "memory: memory is from memory_min to memory_max, which are 32M and 128M here"
    );
}

#[test]
fn the_bounds_of_a_living_vm_stay() {
    let vm = VmConfig::new("web", "hello").unwrap();
    let change = VmChange::parse(["memory=32M"]).unwrap();
    assert!(change.apply(&vm, true).is_err(), "it was started with 64M, which nothing lets it fall below");
    let changed = change.apply(&vm, false).unwrap();
    assert_eq!((changed.memory_bytes, changed.memory_min(), changed.memory_max()), (32 << 20, 32 << 20, 32 << 20));
    let mut vm = vm;
    vm.memory_min_bytes = Some(16 << 20);
    let changed = change.apply(&vm, true).unwrap();
    assert_eq!((changed.memory_min(), changed.memory_max()), (16 << 20, 64 << 20));
    assert!(VmChange::parse(["memory=64M"]).unwrap().apply(&changed, true).is_ok(), "and back");
}

proptest! {
    #[test]
    fn any_words_of_a_change_are_answered(words in proptest::collection::vec("\\PC{0,9}|(weight|cap|memory)=[0-9M]{0,4}|\n=\t", 0..4)) {
        match VmChange::parse(words.iter().map(String::as_str)) {
            Ok(change) => { let _ = change.apply(&web(), true); }
            Err(line) => prop_assert!(!line.contains(char::is_control), "{}", line),
        }
    }

    /// Any graph: either an order in which everything comes after what it names, or a circle that is one.
    #[test]
    fn any_set_has_an_order_or_a_circle(
        edges in proptest::collection::vec(proptest::collection::vec(0usize..12, 0..3), 1..9),
        groups in any::<[u8; 9]>(),
    ) {
        let count = edges.len();
        let mut vms: Vec<VmConfig> = (0..count).map(|vm| VmConfig::new(&format!("v{vm}"), "i").unwrap()).collect();
        for (index, vm) in vms.iter_mut().enumerate() {
            vm.group = (groups[index] % 4 < 3).then(|| format!("g{}", groups[index] % 4));
        }
        let all: Vec<Option<String>> = vms.iter().map(|vm| vm.group.clone()).collect();
        let has = |group: usize| all.contains(&Some(format!("g{group}")));
        for (vm, edges) in vms.iter_mut().zip(&edges) {
            vm.after = edges.iter().filter_map(|&edge| match edge {
                9.. => has(edge - 9).then(|| format!("g{}", edge - 9)),
                _ => (edge < count).then(|| format!("v{edge}")),
            }).collect();
        }
        let comes_after = |vm: &VmConfig, other: &VmConfig| {
            vm.after.iter().any(|name| *name == other.name || Some(name) == other.group.as_ref())
        };
        match start_order(&vms, 0..count, |_| false) {
            Ok(order) => {
                prop_assert_eq!(order.len(), count);
                for (place, &vm) in order.iter().enumerate() {
                    for &later in &order[place..] {
                        prop_assert!(!comes_after(&vms[vm], &vms[later]));
                    }
                }
            }
            Err(SetError::Circle { vm, circle }) => {
                let names: Vec<&str> = circle.split(" after ").collect();
                prop_assert_eq!(names.first(), names.last());
                prop_assert_eq!(names[0], &vms[vm].name);
                for pair in names.windows(2) {
                    let step = match (pair[0].strip_prefix("group "), pair[1].strip_prefix("group ")) {
                        (None, group) => {
                            let vm = vms.iter().find(|vm| vm.name == pair[0]).unwrap();
                            vm.after.iter().any(|name| name == group.unwrap_or(pair[1]))
                        }
                        (Some(group), None) => {
                            vms.iter().any(|vm| vm.name == pair[1] && vm.group.as_deref() == Some(group))
                        }
                        _ => false,
                    };
                    prop_assert!(step, "{}", circle);
                }
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
