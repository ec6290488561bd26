//! The answers: text in aligned columns, JSON that is the same data.

use crate::console::view::*;
use crate::console::{help, render, render_error};
use alloc::string::{String, ToString};
use serde_json::{Value, json};

fn parsed(text: &str) -> Value {
    assert_eq!(text.find('\n'), Some(text.len() - 1), "JSON is one line: {text}");
    serde_json::from_str(text).unwrap()
}

fn row(name: &str) -> VmRow {
    VmRow {
        name: name.into(),
        state: "running",
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
        vms: [row("linux"), VmRow { name: "a".into(), state: "defined", quantum_us: 500, ..VmRow::default() }].into(),
    };
    let expected = "\
NAME   STATE    MEMORY  POPULATED  QUANTUM     CPU   UPTIME  EXITS  IMAGE          LAST STOP
linux  running    128M       1.5M     10ms  1.234s  61.000s  98765  linux/vmlinuz  powered off
a      defined       0         0B    500us  0.000s   0.000s      0                 -
";
    assert_eq!(render(&view, false), expected);
    let json = parsed(&render(&view, true));
    assert_eq!(
        json["vms"][0],
        json!({
            "name": "linux", "state": "running", "image": "linux/vmlinuz", "memory_bytes": 128 << 20,
            "populated_bytes": 1_640_448, "quantum_us": 10_000, "cpu_time_us": 1_234_567, "exits": 98_765,
            "uptime_us": 61_000_000, "last_stop": "powered off",
        })
    );
    assert_eq!(json["vms"][1]["last_stop"], Value::Null);
    assert_eq!(render(&VmListView::default(), false), "no VMs; 'vm create NAME --image FILE' makes one\n");
}

#[test]
fn vm_info_shows_what_there_is() {
    let mut view = VmInfoView { row: row("linux"), format: "linux".into(), vcpus: 1, ..VmInfoView::default() };
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
        vms,
    };
    let expected = "\
HOLDER             FRAMES   SIZE
total               65536   256M
free                60000  234.3M
hypervisor: heap     4096    16M  12.0K allocated
hypervisor: other    1170   4.5M  page tables, stacks, VMXON regions
vm linux              270   1.0M  RAM 256, EPT 4, vCPU 10
";
    let text = render(&view, false);
    assert_eq!(
        text.split_whitespace().collect::<alloc::vec::Vec<_>>(),
        expected.replace("12.0K", "12K").replace("1.0M", "1M").split_whitespace().collect::<alloc::vec::Vec<_>>()
    );
    let json = parsed(&render(&view, true));
    assert_eq!(json["vms"][0]["frames"], json!({"ram": 256, "ept": 4, "vcpu": 10}));
}

#[test]
fn the_other_views() {
    let cpu = CpuView {
        brand: "Some CPU".into(),
        tsc_hz: 2_400_001_000,
        tsc_source: "CPUID leaf 15H".into(),
        cpus: 1,
        vmx: [CapabilityRow { name: "unrestricted guest".into(), present: true, used: false }].into(),
    };
    assert_eq!(
        render(&cpu, false),
        "Some CPU\n1 CPU in use, TSC 2400.001 MHz (CPUID leaf 15H)\n\
         VT-x CAPABILITY     PRESENT  USED\nunrestricted guest  yes      no\n"
    );
    let reasons =
        [("HLT", 12u64), ("I/O instruction", 3456)].map(|(reason, count)| ReasonRow { reason: reason.into(), count });
    let stats = VmStats { name: "a".into(), exits: 3468, reasons: reasons.into(), unknown_ports: 1, unknown_msrs: 2 };
    assert_eq!(
        render(&StatsView { vms: [stats].into() }, false),
        "vm a: 3468 exits, 1 accesses to unknown ports, 2 to unknown MSRs\n  HLT                12\n  I/O instruction  3456\n"
    );
    let vcpus = [SchedRow {
        vm: "a".into(),
        state: "ready",
        quantum_us: 10_000,
        runs: 3,
        used_us: 30_000,
        ..SchedRow::default()
    }]
    .into();
    let sched =
        SchedView { policy: "round-robin".into(), current: Some("a/0".into()), idle_us: 1_500_000, switches: 2, vcpus };
    assert_eq!(
        render(&sched, false),
        "policy round-robin, 2 switches, idle 1.500s, last on the CPU: a/0\n\
         VM  VCPU  STATE  QUANTUM  RUNS    USED  WAITED  LONGEST WAIT\n\
         a      0  ready     10ms     3  0.030s  0.000s        0.000s\n"
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
