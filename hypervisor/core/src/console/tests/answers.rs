//! The answers: text in aligned columns, JSON that is the same data.

use crate::config::Config;
use crate::console::view::*;
use crate::console::{help, render, render_error};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::{Value, json};

fn parsed(text: &str) -> Value {
    assert_eq!(text.find('\n'), Some(text.len() - 1), "JSON is one line: {text}");
    serde_json::from_str(text).unwrap()
}

fn row(name: &str) -> VmRow {
    VmRow {
        name: name.into(),
        state: "running",
        group: Some("web".into()),
        vcpus: 2,
        weight: 200,
        image: "linux/vmlinuz".into(),
        memory_bytes: 128 << 20,
        populated_bytes: 1_640_448,
        quantum_us: 10_000,
        cpu_time_us: 1_234_567,
        exits: 98_765,
        uptime_us: 61_000_000,
        last_stop: Some("powered off".into()),
    }
}

#[test]
fn vm_list_is_a_table() {
    let view = VmListView {
        vms: [row("linux"), VmRow { name: "a".into(), state: "paused (memory)", ..VmRow::default() }].into(),
    };
    let expected = "\
NAME   STATE            VCPUS  MEMORY  POPULATED  WEIGHT     CPU   UPTIME  EXITS  GROUP  IMAGE          LAST STOP
linux  running              2    128M       1.5M     200  1.234s  61.000s  98765  web    linux/vmlinuz  powered off
a      paused (memory)      0       0         0B       0  0.000s   0.000s      0  -                     -
";
    assert_eq!(render(&view, false), expected);
    let json = parsed(&render(&view, true));
    assert_eq!(
        json["vms"][0],
        json!({
            "name": "linux", "state": "running", "group": "web", "vcpus": 2, "weight": 200, "image": "linux/vmlinuz",
            "memory_bytes": 128 << 20, "populated_bytes": 1_640_448, "quantum_us": 10_000, "cpu_time_us": 1_234_567,
            "exits": 98_765, "uptime_us": 61_000_000, "last_stop": "powered off",
        })
    );
    assert_eq!(json["vms"][1]["last_stop"], Value::Null);
    assert_eq!(render(&VmListView::default(), false), "no VMs; 'vm create NAME --image FILE' makes one\n");
}

#[test]
fn vm_info_shows_what_there_is() {
    let mut view = VmInfoView { row: row("linux"), format: "linux".into(), ..VmInfoView::default() };
    view.frames = VmFrames { ram: 400, ept: 5, vcpu: 9 };
    let text = render(&view, false);
    assert!(text.contains("host frames    414 (RAM 400, EPT 5, vCPU 9)\n"), "{text}");
    assert!(text.contains("command line   -\n") && !text.contains("initrd"), "{text}");
    view.initrd = Some("linux/initrd".into());
    view.modules = ["m x".to_string()].into();
    let text = render(&view, false);
    assert!(text.contains("initrd         linux/initrd\n") && text.contains("module         m x\n"), "{text}");
    let json = parsed(&render(&view, true));
    assert_eq!((&json["name"], &json["frames"]["ept"]), (&json!("linux"), &json!(5)));
    view.memory_min_bytes = 64 << 20;
    view.memory_max_bytes = 256 << 20;
    view.balloon = true;
    view.cap_percent = Some(150);
    view.affinity = "0-3,5".into();
    view.after = ["db".to_string(), "log".into()].into();
    view.vcpu_rows =
        [VcpuRow { state: "ready", cpu: Some(3), affinity: "3".into(), cpu_time_us: 500, ..VcpuRow::default() }].into();
    let text = render(&view, false);
    for line in [
        "starts after   db, log\n",
        "memory bounds  64M to 256M, with a balloon\n",
        "may run on     0-3,5\n",
        "cap            150%\n",
        "VCPU  STATE  CPU  MAY RUN ON  CPU TIME\n0     ready    3  3             0.000s\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn mem_names_every_holder() {
    let frames = VmFrames { ram: 256, ept: 4, vcpu: 10 };
    let vms = [MemRow { name: "linux".into(), frames }].into();
    let view = MemView {
        frame_bytes: 4096,
        total_frames: 65_536,
        free_frames: 60_000,
        heap_frames: 4096,
        host_frames: 1170,
        heap_used_bytes: 12_345,
        vpids: 3,
        vms,
    };
    let expected = "\
HOLDER             FRAMES   SIZE
total               65536   256M
free                60000  234.3M
hypervisor: heap     4096    16M  12.0K allocated
hypervisor: other    1170   4.5M  page tables, stacks, VMXON regions
vm linux              270   1.0M  RAM 256, EPT 4, vCPU 10
VPIDs in use: 3
";
    let text = render(&view, false);
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        expected.replace("12.0K", "12K").replace("1.0M", "1M").split_whitespace().collect::<Vec<_>>()
    );
    let json = parsed(&render(&view, true));
    assert_eq!(json["vms"][0]["frames"], json!({"ram": 256, "ept": 4, "vcpu": 10}));
}

fn cpu_row() -> CpuRow {
    CpuRow { cpu: 1, apic_id: 2, busy_us: 3_000_000, idle_us: 1_000_000, switches: 42, running: Some("a/0".into()) }
}

fn sched() -> SchedView {
    let vm = SchedRow {
        vm: "a".into(),
        state: "running",
        vcpus: 1,
        weight: 200,
        cap_percent: None,
        reservation_percent: 25,
        priority: 50,
        quantum_us: 10_000,
        cpu_time_us: 3_000_000,
        share_millicpu: 667,
        due_millicpu: Some(666),
        wait: Latency { count: 9, p50_ns: 950, p99_ns: 12_345, max_ns: 4_000_000 },
        wakeup: Latency { count: 3, p50_ns: 1_000, p99_ns: 2_000, max_ns: 1_250_000_000 },
        switches: 7,
        migrations: 2,
        steal_us: 1500,
    };
    SchedView {
        policy: "fair".into(),
        measured_us: 4_500_000,
        vms: [vm].into(),
        cpus: [cpu_row()].into(),
        figures: [FigureRow { symbol: "T", value_thousandths: 1_250, unit: "1/s", about: "(1/n) sum 1/t_i" }].into(),
        jain_millionths: Some(999_871),
    }
}

fn alloc_view() -> AllocView {
    let vm = AllocRow {
        vm: "a".into(),
        state: "running",
        priority: 50,
        min_bytes: 32 << 20,
        target_bytes: 64 << 20,
        max_bytes: 128 << 20,
        populated_bytes: 40 << 20,
        reserved_bytes: 64 << 20,
        cpu_reserved_percent: 25,
    };
    AllocView {
        strategy: "need".into(),
        overcommit_percent: 150,
        cpu: CpuResource { capacity_percent: 200, reserved_percent: 25, used_percent: 67 },
        memory: MemoryResource {
            capacity_bytes: 400 << 20,
            limit_bytes: 600 << 20,
            reserved_bytes: 64 << 20,
            used_bytes: 40 << 20,
        },
        vms: [vm].into(),
        waiting: [WaitingRow { vm: "b".into(), needed_bytes: 4096, waited_us: 1_500_000 }].into(),
    }
}

#[test]
fn sched_shows_shares_waits_cpus_and_figures() {
    let expected = "\
policy fair, measured over 4.500s
VM  STATE    VCPUS  WEIGHT  CAP  RESERVED  PRIO  QUANTUM  CPU TIME  SHARE    DUE
a   running      1     200    -       25%    50     10ms    3.000s  66.7%  66.6%
VM  WAIT P50     P99    MAX  WAKE-UP P50    P99   MAX  SWITCHES  MIGRATIONS  STOLEN
a      950ns  12.3us  4.0ms        1.0us  2.0us  1.2s         7           2  0.001s
CPU  APIC ID   LOAD    BUSY    IDLE  SWITCHES  RUNNING
  1        2  75.0%  3.000s  1.000s        42  a/0
T = 1.250 1/s: (1/n) sum 1/t_i
Jain's index 0.999871: 1 is perfectly fair
";
    assert_eq!(render(&sched(), false), expected);
    let json = parsed(&render(&sched(), true));
    assert_eq!(json["vms"][0]["wait"], json!({"count": 9, "p50_ns": 950, "p99_ns": 12_345, "max_ns": 4_000_000}));
    assert_eq!(json["vms"][0]["cap_percent"], Value::Null);
}

#[test]
fn alloc_shows_resources_and_who_waits() {
    let expected = "\
strategy need, overcommit 1.5
RESOURCE  CAPACITY  LIMIT  RESERVED  AVAILABLE  USED
CPU           200%   200%       25%       175%   67%
memory        400M   600M       64M       536M   40M
VM  STATE    PRIO  MIN  TARGET   MAX  POPULATED  RESERVED  CPU RESERVED
a   running    50  32M     64M  128M        40M       64M           25%
vm b waits for 4K of memory, for 1.500s by now
";
    assert_eq!(render(&alloc_view(), false), expected);
    assert_eq!(parsed(&render(&alloc_view(), true))["waiting"][0]["needed_bytes"], 4096);
}

#[test]
fn the_configuration_is_printed_as_a_file() {
    let text = "[host]\novercommit = 1.5\n\n[[vm]]\nname = \"a\"\nimage = \"b\"\nweight = 7\n";
    let view = ConfigView::new(&Config::parse(text).unwrap());
    assert_eq!(render(&view, false), text);
    assert_eq!(parsed(&render(&view, true)), json!({ "toml": text }));
}

/// A state with one of everything, so that every field is in its JSON.
fn state() -> StateView {
    let reason = ReasonRow { reason: "HLT".into(), count: 1 };
    StateView {
        lamina: VersionView { name: "Lamina", ..VersionView::default() },
        cpu: CpuView { cpus: [cpu_row()].into(), vmx: [CapabilityRow::default()].into(), ..CpuView::default() },
        mem: MemView { vms: [MemRow::default()].into(), ..MemView::default() },
        sched: sched(),
        alloc: alloc_view(),
        vms: [VmInfoView {
            row: row("a"),
            vcpu_rows: [VcpuRow::default()].into(),
            suspect: Some(SuspectView::default()),
            ..VmInfoView::default()
        }]
        .into(),
        stats: [VmStats { name: "a".into(), reasons: [reason].into(), ..VmStats::default() }].into(),
        ..StateView::default()
    }
}

/// The paths of all fields, as `vms[].name`.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| paths(element, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_document_of_the_state_names_every_field_and_no_other() {
    let json = parsed(&render(&state(), true));
    assert_eq!((&json["schema"], &json["version"]), (&json!("lamina-state"), &json!(1)));
    let mut fields = BTreeSet::new();
    paths(&json, "", &mut fields);
    let document = include_str!("../../../../../docs/STATE.md");
    let rows =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(path, _)| path.into());
    let documented: BTreeSet<String> = rows.collect();
    let missing: Vec<&String> = fields.difference(&documented).collect();
    let unknown: Vec<&String> = documented.difference(&fields).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not documented: {missing:#?}; documented, but not there: {unknown:#?}"
    );
    assert!(document.contains("`\"lamina-state\"`") && document.contains("Version 1"));
}

#[test]
fn the_state_as_text_is_what_the_commands_show() {
    let state = state();
    let text = render(&state, false);
    for part in [render(&state.cpu, false), render(&state.sched, false), render(&state.vms[0], false)] {
        assert!(text.contains(&part), "{part} is not in\n{text}");
    }
}

#[test]
fn the_other_views() {
    let cpu = CpuView {
        brand: "Some CPU".into(),
        tsc_hz: 2_400_001_000,
        tsc_source: "CPUID leaf 15H".into(),
        found: 4,
        cpus: [cpu_row()].into(),
        vmx: [CapabilityRow { name: "unrestricted guest".into(), present: true, used: false }].into(),
    };
    assert_eq!(
        render(&cpu, false),
        "Some CPU\n1 of 4 CPUs in use, TSC 2400.001 MHz (CPUID leaf 15H)\n\
         CPU  APIC ID   LOAD    BUSY    IDLE  SWITCHES  RUNNING\n\
        \x20 1        2  75.0%  3.000s  1.000s        42  a/0\n\
         VT-x CAPABILITY     PRESENT  USED\nunrestricted guest  yes      no\n"
    );
    let reasons =
        [("HLT", 12u64), ("I/O instruction", 3456)].map(|(reason, count)| ReasonRow { reason: reason.into(), count });
    let stats = VmStats { name: "a".into(), exits: 3468, reasons: reasons.into(), unknown_ports: 1, unknown_msrs: 2 };
    assert_eq!(
        render(&StatsView { vms: [stats].into() }, false),
        "vm a: 3468 exits, 1 accesses to unknown ports, 2 to unknown MSRs\n  HLT                12\n  I/O instruction  3456\n"
    );
    let version = VersionView {
        name: "Lamina",
        version: "0.1.0",
        profile: "release",
        firmware: "UEFI".into(),
        uptime_us: 2_000_000,
    };
    assert_eq!(render(&version, false), "Lamina 0.1.0 (release build), started by UEFI, up 2.000s\n");
    assert_eq!(parsed(&render(&version, true))["uptime_us"], 2_000_000);
    let help = render(&help(Some("vm log")).unwrap(), false);
    assert_eq!(help, "vm log NAME [--tail LINES] [--json]\n  what the VM wrote to its serial port\n");
}

#[test]
fn a_log_is_lines_without_control_characters() {
    let view = LogView::new("web", b"one\r\n\x1b[31mtwo\x1b[0m\r\nthree", 7, None);
    assert_eq!(render(&view, false), "[the first 7 bytes are lost to newer ones]\none\ntwo\nthree\n");
    let tail = LogView::new("web", b"one\ntwo\nthree\n", 0, Some(2));
    assert_eq!(parsed(&render(&tail, true)), json!({"source": "web", "lost_bytes": 0, "lines": ["two", "three"]}));
    assert_eq!(LogView::new("web", b"one", 0, Some(0)).lines, [""; 0]);
}

#[test]
fn what_is_done_and_what_is_not() {
    assert_eq!(render(&DoneView { done: "vm web started".into() }, true), "{\"done\":\"vm web started\"}\n");
    assert_eq!(render_error(&"no VM \"x\"", false), "error: no VM \"x\"\n");
    assert_eq!(render_error(&String::from("no VM \"x\"\n"), true), "{\"error\":\"no VM \\\"x\\\"\\n\"}\n");
}
