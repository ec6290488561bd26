//! Tests of the configuration file: what is taken, every error with its line, any text, round trips.

mod together;

use super::*;
use crate::fault::{OnFault, RestartLimit};
use crate::loader::Format;
use crate::resources::Strategy;
use crate::sched::{CpuId, CpuSet, PolicyKind};
use alloc::format;
use alloc::string::{String, ToString};
use log::LevelFilter;
use proptest::prelude::{Just, Strategy as _, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const FULL: &str = r#"
[host]
log_level = "debug"
on_panic = "reboot"
tee_serial = true
poweroff_after = "30s"
poweroff_when_done = true
cpus = 4
sched_policy = "round-robin"
alloc_strategy = "capacity"
overcommit = 1.5
stop_grace = "5s"

[[vm]]
name = "linux"
image = "linux/vmlinuz"
initrd = "linux/initrd"
cmdline = "console=ttyS0 quiet"
memory = "128M"
quantum = "5ms"
order = 10
autostart = false
format = "pvh"
modules = ["a.bin", "b.bin one  two"]
memory_min = "64M"
memory_max = "256M"
balloon = false
steal_time = false
vcpus = 4
weight = 200
cap = 150
reservation = 50
priority = 70
affinity = "0-3,5"
after = ["db"]
group = "web"
replicas = 2
stop_grace = "1s"
on_fault = "restart"
restart_limit = "5 in 90s"
access_loop = 20000

[[vm]]
name = "flat"
image = "boot.bin"
memory = 1_048_576
order = 5
format = "flat16"
load_address = 0x7c00
entry = "0x7c02"
cap = "none"
affinity = 2
group = "db"
"#;

#[test]
fn every_key_is_taken() {
    let config = Config::parse(FULL).unwrap();
    let host = HostConfig {
        log_level: LevelFilter::Debug,
        on_panic: OnPanic::Reboot,
        tee_serial: true,
        poweroff_after_us: Some(30_000_000),
        poweroff_when_done: true,
        cpus: Some(4),
        sched_policy: PolicyKind::RoundRobin,
        alloc_strategy: Strategy::Capacity,
        overcommit_percent: 150,
        stop_grace_us: 5_000_000,
    };
    assert_eq!(config.host, host);
    let mut linux = VmConfig::new("linux", "linux/vmlinuz").unwrap();
    linux.initrd = Some("linux/initrd".into());
    linux.cmdline = "console=ttyS0 quiet".into();
    linux.memory_bytes = 128 << 20;
    linux.quantum_us = 5_000;
    linux.order = 10;
    linux.autostart = false;
    linux.format = Format::Pvh;
    let module = |file: &str, cmdline: &str| ModuleConfig { file: file.into(), cmdline: cmdline.into() };
    linux.modules = [module("a.bin", ""), module("b.bin", "one  two")].into();
    linux.memory_min_bytes = Some(64 << 20);
    linux.memory_max_bytes = Some(256 << 20);
    linux.balloon = false;
    linux.steal_time = false;
    linux.vcpus = 4;
    linux.weight = 200;
    linux.cap_percent = Some(150);
    linux.reservation_percent = 50;
    linux.priority = 70;
    linux.affinity = "0-3,5".parse().unwrap();
    linux.after = ["db".into()].into();
    linux.group = Some("web".into());
    linux.replicas = 2;
    linux.stop_grace_us = Some(1_000_000);
    linux.on_fault = OnFault::Restart;
    linux.restart_limit = RestartLimit { restarts: 5, within_us: 90_000_000 };
    linux.access_loop = Some(20_000);
    let mut flat = VmConfig::new("flat", "boot.bin").unwrap();
    flat.memory_bytes = 1 << 20;
    flat.order = 5;
    flat.format = Format::Flat16;
    flat.load_address = Some(0x7c00);
    flat.entry = Some(0x7c02);
    flat.affinity = CpuSet::only(CpuId(2));
    flat.group = Some("db".into());
    assert_eq!(config.vms, [linux, flat]);
    let files: Vec<_> = config.vms[0].files().map(|(key, file)| (key.name(), file)).collect();
    let expected = [("image", "linux/vmlinuz"), ("initrd", "linux/initrd"), ("modules", "a.bin"), ("modules", "b.bin")];
    assert_eq!(files, expected);
}

#[test]
fn what_is_not_given_has_its_documented_default() {
    let config = Config::parse("[[vm]]\nname = 'a'\nimage = 'b'").unwrap();
    let vm = &config.vms[0];
    assert_eq!((vm.memory_bytes, vm.quantum_us, vm.order, vm.autostart), (64 << 20, 10_000, 100, true));
    assert_eq!((vm.format, vm.load_address, vm.entry, vm.initrd.as_ref()), (Format::Auto, None, None, None));
    assert_eq!((vm.memory_min(), vm.memory_max(), vm.balloon, vm.steal_time), (64 << 20, 64 << 20, true, true));
    assert_eq!((vm.vcpus, vm.weight, vm.cap_percent, vm.reservation_percent, vm.priority), (1, 100, None, 0, 50));
    assert_eq!((vm.affinity, vm.replicas, vm.stop_grace_us), (CpuSet::ALL, 1, None));
    assert_eq!((vm.after.as_slice(), vm.group.as_ref()), (&[] as &[String], None));
    assert_eq!(
        (vm.on_fault, vm.restart_limit, vm.access_loop),
        (OnFault::Stop, RestartLimit::DEFAULT, Some(10_000_000))
    );
    let host = &config.host;
    assert_eq!((host.cpus, host.overcommit_percent, host.stop_grace_us), (None, 100, 30_000_000));
    assert_eq!((host.sched_policy, host.alloc_strategy), (PolicyKind::Fair, Strategy::Need));
    assert_eq!(config.host.log_level, LevelFilter::Info);
    assert_eq!(Config::parse(""), Ok(Config::default()));
}

#[test]
fn the_documented_file_is_one() {
    let source = include_str!("../mod.rs");
    let (_, file) = source.split_once("```toml\n").unwrap();
    let (file, _) = file.split_once("//! ```").unwrap();
    let text: String = file.lines().map(|line| line.trim_start_matches("//!").to_string() + "\n").collect();
    let error = Config::parse(&text).unwrap_err().message;
    assert!(error.contains("load_address = 0x100000: only a flat image has it"), "{error}");
    let text = text.replace("\"auto\"", "\"flat32\"");
    let error = Config::parse(&text).unwrap_err().message;
    assert!(error.contains("after db: no VM and no group has this name"), "{error}");
    let db = "\n[[vm]]\nname = 'db'\nimage = 'db'";
    let Config { host, mut vms } = Config::parse(&format!("{text}{db}")).unwrap();
    vms.pop();
    assert_eq!(HostConfig { poweroff_after_us: None, ..host }, HostConfig::default());
    // What the file says in its comments to be the default is the default.
    let mut expected = VmConfig::new("linux", "linux/vmlinuz").unwrap();
    for (key, value) in [
        (VmKey::Initrd, "linux/initrd"),
        (VmKey::Cmdline, "console=ttyS0"),
        (VmKey::Modules, "mod.bin arg"),
        (VmKey::Format, "flat32"),
        (VmKey::LoadAddress, "0x100000"),
        (VmKey::Entry, "0x100000"),
        (VmKey::MemoryMin, "64M"),
        (VmKey::MemoryMax, "64M"),
        (VmKey::After, "db"),
        (VmKey::Group, "web"),
        (VmKey::StopGrace, "30s"),
    ] {
        expected.set(key, value).unwrap();
    }
    assert_eq!(vms, [expected]);
    for key in VmKey::ALL.iter().map(|key| key.name()).chain(HostKey::ALL.iter().map(|key| key.name())) {
        assert!(text.contains(&format!("\n {key} = ")), "{key} is not documented");
    }
}

fn boot_order(config: &Config) -> Vec<String> {
    config.boot_order().unwrap().into_iter().map(|vm| vm.name).collect()
}

#[test]
fn vms_start_in_their_order() {
    let vm = |name: &str, more: &str| format!("[[vm]]\nname = '{name}'\nimage = 'i'\n{more}\n");
    let text = vm("last", "order = 200")
        + &vm("a", "")
        + &vm("not", "autostart = false")
        + &vm("b", "")
        + &vm("first", "order = 1");
    let config = Config::parse(&text).unwrap();
    assert_eq!(boot_order(&config), ["first", "a", "b", "last"]);
}

#[test]
fn an_error_names_line_vm_key_and_remedy() {
    // The VM's table begins in line 3 of the text, its name is in line 4, the first further line is line 6.
    let vm = |lines: &str| format!("# a VM\n\n[[vm]]\nname = \"web\"\nimage = \"w\"\n{lines}");
    let cases = [
        (
            vm("memory = \"12Q\""),
            r#"lamina.toml:6: vm "web": memory = "12Q": not a size; write a number with K, M or G, such as "64M""#,
        ),
        (vm("\nmemory = 4096"), r#"lamina.toml:7: vm "web": memory = 4096: memory is 1M to 1024G"#),
        (
            vm("memory = -1"),
            r#"lamina.toml:6: vm "web": memory = -1: not a size; write a number with K, M or G, such as "64M""#,
        ),
        (vm("memory = 1048577"), r#"lamina.toml:6: vm "web": memory = 1048577: memory is a multiple of 4K"#),
        (vm("memory = true"), r#"lamina.toml:6: vm "web": memory = true: write a size, such as "64M" or 67108864"#),
        (vm("memroy = '1M'"), r#"lamina.toml:6: vm "web": unknown key "memroy"; did you mean memory?"#),
        (vm("quantum = 10"), r#"lamina.toml:6: vm "web": quantum = 10: write a time in quotes, such as "10ms""#),
        (vm("quantum = '50us'"), r#"lamina.toml:6: vm "web": quantum = '50us': a quantum is 100us to 1s"#),
        (vm("quantum = '2s'"), r#"lamina.toml:6: vm "web": quantum = '2s': a quantum is 100us to 1s"#),
        (
            vm("format = 'elf'"),
            r#"lamina.toml:6: vm "web": format = 'elf': not one of auto, linux, pvh, multiboot, flat16, flat32, flat64"#,
        ),
        (vm("order = 1.5"), r#"lamina.toml:6: vm "web": order = 1.5: write a whole number"#),
        (vm("order = -1"), r#"lamina.toml:6: vm "web": order = -1: not a whole number from 0 to 4294967295"#),
        (vm("autostart = 'yes'"), r#"lamina.toml:6: vm "web": autostart = 'yes': write true or false"#),
        (
            vm("modules = 'm'"),
            r#"lamina.toml:6: vm "web": modules = 'm': write an array of strings, such as ["ONE", "TWO"]"#,
        ),
        (
            vm("modules = [\n'ok',\n'/m']"),
            r#"lamina.toml:8: vm "web": modules = '/m': not a file of the ramdisk; write its path as in "linux/vmlinuz", without a leading / and without .."#,
        ),
        (
            vm("entry = 1"),
            r#"lamina.toml:6: vm "web": entry = 1: only a flat image has it; give the format flat16, flat32 or flat64, or leave this out"#,
        ),
        (
            vm("cmdline = \"\"\"a\nb\"\"\""),
            r#"lamina.toml:6: vm "web": cmdline = """a b""": a command line is one line, without control characters"#,
        ),
        (
            vm("[[vm]]\nname = 'web'\nimage = 'x'"),
            r#"lamina.toml:7: vm "web": this name is taken by the VM in line 4; give each VM its own"#,
        ),
        (vm("[[vm]]\nimage = 'x'"), "lamina.toml:6: vm number 2: name is missing; write name = \"NAME\""),
        (
            "[[vm]]\nname = 'a'".into(),
            r#"lamina.toml:1: vm "a": image is missing; write image = "FILE", a file of the boot image's ramdisk"#,
        ),
        (
            "[[vm]]\nname = 'Web'\n".into(),
            r#"lamina.toml:2: vm "Web": name = 'Web': not a VM name; write a-z, 0-9 and -, at most 31 characters, the first a letter or digit"#,
        ),
        (
            "[vm]\nname = 'a'".into(),
            "lamina.toml:1: vm is a list of tables; write [[vm]] on a line of its own before each VM",
        ),
        ("\nhost = 1".into(), "lamina.toml:2: host: write [host] on a line of its own, and its keys below it"),
        ("[host]\non_panic = 'cry'".into(), "lamina.toml:2: host: on_panic = 'cry': not one of halt, reboot"),
        ("[hosts]".into(), r#"lamina.toml:1: unknown key "hosts"; did you mean host?"#),
        ("[network]".into(), r#"lamina.toml:1: unknown key "network"; allowed are host, vm"#),
        (
            "[host]\nlog_level = 'loud'".into(),
            "lamina.toml:2: host: log_level = 'loud': not one of error, warn, info, debug, trace",
        ),
        (
            "[host]\npoweroff_after = '1h'".into(),
            r#"lamina.toml:2: host: poweroff_after = '1h': not a time; write a number with us, ms or s, such as "10ms""#,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Config::parse(&text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line() {
    for (text, line) in [("[host\n", 1), ("a = 1\na = 2", 2), ("[[vm]]\nname = \"x", 2), ("\n\n\n=", 4)] {
        let error = Config::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_name_is_short_and_plain() {
    for good in ["a", "0", "web-1", "a--", "abcdefghijklmnopqrstuvwxyz01234"] {
        assert!(VmConfig::new(good, "i").is_ok(), "{good}");
    }
    for bad in ["", "-a", "A", "a_b", "a b", "ä", "abcdefghijklmnopqrstuvwxyz012345"] {
        assert_eq!(VmConfig::new(bad, "i"), Err(ValueError::NotAName), "{bad}");
    }
    for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\nb"] {
        assert_eq!(VmConfig::new("a", bad), Err(ValueError::NotAFile), "{bad}");
    }
}

fn file_name() -> impl proptest::strategy::Strategy<Value = String> {
    "[a-zA-Z0-9_]{1,8}(/[a-z.0-9]{0,4}[a-z]){0,2}"
}

/// Keys of the image.
fn set_image() -> impl proptest::strategy::Strategy<Value = VmConfig> {
    let flat = prop_oneof![Just(Format::Flat16), Just(Format::Flat32), Just(Format::Flat64)];
    let address = proptest::option::of(any::<u64>());
    let format = prop_oneof![
        prop_oneof![Just(Format::Auto), Just(Format::Linux), Just(Format::Pvh), Just(Format::Multiboot)]
            .prop_map(|format| (format, None, None)),
        (flat, address.clone(), address),
    ];
    let modules = proptest::collection::vec((file_name(), "\\PC{0,9}"), 0..3);
    (file_name(), proptest::option::of(file_name()), modules, "\\PC{0,20}", format).prop_map(
        |(image, initrd, modules, cmdline, (format, load_address, entry))| {
            let modules = modules.into_iter().map(|(file, cmdline)| ModuleConfig { file, cmdline }).collect();
            VmConfig { image, initrd, modules, cmdline, format, load_address, entry, ..VmConfig::blank() }
        },
    )
}

/// Keys of memory and of starting and stopping.
fn set_memory(vm: VmConfig) -> impl proptest::strategy::Strategy<Value = VmConfig> {
    let pages = (256u64..1 << 28, proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>()));
    let life = (any::<u32>(), any::<bool>(), any::<bool>(), proptest::option::of(0u64..=3_600_000_000));
    let limit = (1u32..=100, 1_000_000u64..=3_600_000_000);
    let limit = limit.prop_map(|(restarts, within_us)| RestartLimit { restarts, within_us });
    let fault = (proptest::sample::select(&OnFault::ALL[..]), limit, proptest::option::of(1000u64..=u32::MAX.into()));
    (pages, life, fault).prop_map(move |((pages, min, max), life, (on_fault, restart_limit, access_loop))| VmConfig {
        memory_bytes: pages * 4096,
        memory_min_bytes: min.map(|min| (256 + min % (pages - 255)) * 4096),
        memory_max_bytes: max.map(|max| (pages + max % ((1 << 28) - pages + 1)) * 4096),
        order: life.0,
        autostart: life.1,
        balloon: life.2,
        stop_grace_us: life.3,
        on_fault,
        restart_limit,
        access_loop,
        ..vm.clone()
    })
}

/// Keys of the CPUs.
fn set_cpu(vm: VmConfig) -> impl proptest::strategy::Strategy<Value = VmConfig> {
    let numbers = (1u16..=64, 100u64..=1_000_000, 1u32..=10_000, any::<u32>(), 0u8..=99);
    let cpus = proptest::collection::btree_set(0u16..256, 1..20);
    let affinity = prop_oneof![Just(CpuSet::ALL), cpus.prop_map(|cpus| set_of(&cpus))];
    (numbers, proptest::option::of(1u32..=6400), affinity).prop_map(
        move |((vcpus, quantum_us, weight, reserved, priority), cap_percent, affinity)| {
            let reservable = u32::from(vcpus) * 100;
            let reservable = cap_percent.map_or(reservable, |cap| reservable.min(cap));
            let reservation_percent = reserved % (reservable + 1);
            VmConfig { vcpus, quantum_us, weight, reservation_percent, priority, cap_percent, affinity, ..vm.clone() }
        },
    )
}

fn set_of(cpus: &alloc::collections::BTreeSet<u16>) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    cpus.iter().for_each(|&cpu| set.insert(CpuId(cpu)));
    set
}

fn any_vm() -> impl proptest::strategy::Strategy<Value = VmConfig> {
    set_image().prop_flat_map(set_memory).prop_flat_map(set_cpu)
}

fn any_host() -> impl proptest::strategy::Strategy<Value = HostConfig> {
    const LEVELS: &[LevelFilter] =
        &[LevelFilter::Error, LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
    let words = (
        proptest::sample::select(LEVELS),
        any::<bool>(),
        proptest::sample::select(&PolicyKind::ALL[..]),
        proptest::sample::select(&Strategy::ALL[..]),
    );
    let numbers =
        (proptest::option::of(any::<u64>()), proptest::option::of(1u32..=256), 100u32..=1000, 0u64..=3_600_000_000);
    (words, numbers, any::<(bool, bool)>()).prop_map(
        |(
            (log_level, reboot, sched_policy, alloc_strategy),
            (poweroff_after_us, cpus, overcommit_percent, stop_grace_us),
            (tee_serial, poweroff_when_done),
        )| HostConfig {
            log_level,
            on_panic: if reboot { OnPanic::Reboot } else { OnPanic::Halt },
            tee_serial,
            poweroff_after_us,
            poweroff_when_done,
            cpus,
            sched_policy,
            alloc_strategy,
            overcommit_percent,
            stop_grace_us,
        },
    )
}

/// Valid configurations: names are unique, and VMs come only after earlier ones, their replicas and their groups.
fn any_config() -> impl proptest::strategy::Strategy<Value = Config> {
    let vm = (any_vm(), "[a-z0-9-]{0,20}", 1u32..4, proptest::option::of(0u8..3), any::<[u8; 2]>());
    (any_host(), proptest::collection::vec(vm, 0..5)).prop_map(|(host, parts)| {
        let mut vms: Vec<VmConfig> = Vec::new();
        let mut earlier: Vec<String> = Vec::new();
        for (index, (mut vm, name, replicas, group, after)) in parts.into_iter().enumerate() {
            vm.name = format!("{index}{name}");
            vm.replicas = replicas;
            // A group of its own, so that nobody waits for a group that he is in.
            vm.group = group.filter(|group| *group > 0).map(|group| format!("g{index}-{group}"));
            vm.after = after
                .into_iter()
                .filter(|&pick| pick % 3 == 0)
                .filter_map(|pick| earlier.get(usize::from(pick) % earlier.len().max(1)).cloned())
                .collect();
            earlier.extend(vm.expand().into_iter().flat_map(|vm| [Some(vm.name), vm.group]).flatten());
            vms.push(vm);
        }
        Config { host, vms }
    })
}

proptest! {
    #[test]
    fn what_is_saved_is_read(config in any_config()) {
        let text = config.to_toml();
        prop_assert_eq!(Config::parse(&text), Ok(config), "{}", text);
    }

    #[test]
    fn what_runs_is_saved_as_well(config in any_config()) {
        let running = Config { host: config.host.clone(), vms: config.machines() };
        let text = running.to_toml();
        prop_assert_eq!(Config::parse(&text), Ok(running.clone()), "{}", text);
        prop_assert_eq!(running.boot_order(), config.boot_order());
    }

    #[test]
    fn everything_starts_after_what_it_comes_after(config in any_config()) {
        let machines = config.machines();
        let order = start_order(&machines, 0..machines.len(), |_| false).unwrap();
        prop_assert_eq!(order.len(), machines.len());
        let place = |index: usize| order.iter().position(|&vm| vm == index).unwrap();
        for (index, vm) in machines.iter().enumerate() {
            for (other, _) in machines.iter().enumerate().filter(|(_, other)| {
                vm.after.iter().any(|name| *name == other.name || Some(name) == other.group.as_ref())
            }) {
                prop_assert!(place(other) < place(index), "{} before {}", machines[other].name, vm.name);
            }
        }
    }

    #[test]
    fn any_text_is_answered_in_one_line(text in "(\\PC|\n){0,80}") {
        if let Err(error) = Config::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
            prop_assert!(error.line <= text.lines().count() + 1);
        }
    }

    #[test]
    fn a_damaged_file_is_answered_in_one_line(at in 0usize..600, damage in "(\\PC|\n|[\\[\\]\"'=.]){0,4}", cut in 0usize..6) {
        let at = at.min(FULL.len());
        let text = format!("{}{damage}{}", &FULL[..at], &FULL[(at + cut).min(FULL.len())..]);
        if let Err(error) = Config::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
            prop_assert!(error.line <= text.lines().count() + 1);
        }
    }
}

#[test]
fn nesting_is_bounded() {
    for open in ["[", "{a="] {
        assert!(Config::parse(&format!("vm = {}", open.repeat(20_000))).is_err());
    }
    assert!(Config::parse(&format!("{}a = 1", "a.".repeat(20_000))).is_err());
}
