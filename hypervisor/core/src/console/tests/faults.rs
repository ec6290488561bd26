//! `vm faults`: the same report as text and as JSON.

use crate::console::render;
use crate::console::view::FaultsView;
use crate::exit::ExitCounters;
use crate::exit::tests::{FakeVcpu, memory_with};
use crate::fault::{Capture, ExitTrail, Fault, FaultKind, FaultReport, Subject};
use crate::vmx::GuestField;
use crate::x86::{Gprs, VcpuState};
use alloc::string::String;
use alloc::sync::Arc;
use serde_json::{Value, json};

fn report(number: u64) -> FaultReport {
    let mut state = FakeVcpu::bits64();
    state.write(GuestField::CsSelector, 8);
    let mut trail = ExitTrail::new();
    trail.record(30, 1000);
    trail.record(0x8000_0021, 1010);
    let memory = memory_with(&[0x0f, 0x0b]);
    let gprs = Gprs { rax: u64::MAX, ..Gprs::default() };
    let subject = Subject {
        vcpu: 1,
        state: &state,
        gprs: &gprs,
        cr2: 0x55,
        physical_bits: 39,
        memory: &memory,
        trail: &trail,
        tick: 1020,
    };
    let mut fault = *Fault::new(FaultKind::InvalidGuestState, "VM entry failed, invalid guest state: x");
    fault.capture = Some(Capture::of(&subject));
    let mut report = FaultReport {
        number,
        at_us: 12_345_678,
        start: 2,
        ran_us: 345_678,
        fault,
        exits: [].into(),
        unknown: [0; 3],
        action: "paused".into(),
    };
    let mut counters = ExitCounters::new();
    (0..3).for_each(|_| counters.count_exit(30));
    counters.count_exit(33);
    counters.unknown_pages.count(0xd000_0000);
    report.count(&counters);
    report
}

#[test]
fn a_report_is_the_same_as_text_and_json() {
    let reports = [Arc::new(report(4)), Arc::new(FaultReport { number: 5, ..report(5) })];
    let view = FaultsView::new("web".into(), 5, &reports, None);
    let json: Value = serde_json::from_str(&render(&view, true)).unwrap();
    assert_eq!(
        (&json["vm"], &json["faults"], json["reports"].as_array().unwrap().len()),
        (&json!("web"), &json!(5), 2)
    );
    let first = &json["reports"][0];
    assert_eq!((&first["kind"], &first["action"]), (&json!("invalid-guest-state"), &json!("paused")));
    assert_eq!(
        first["exit_counts"],
        json!([
            { "reason": "I/O instruction", "count": 3 },
            { "reason": "VM-entry failure due to invalid guest state", "count": 1 },
        ])
    );
    let vcpu = &first["vcpu"];
    assert_eq!((&vcpu["index"], &vcpu["tick"], &vcpu["code_bits"]), (&json!(1), &json!(1020), &json!(64)));
    assert_eq!(vcpu["registers"][0], json!({ "name": "RAX", "value": "0xffffffffffffffff" }));
    assert_eq!(vcpu["segments"][0]["selector"], "0x8");
    assert_eq!((&vcpu["walks"][0]["leads_to"], &vcpu["walks"][0]["fault"]), (&json!("0x2000"), &Value::Null));
    assert_eq!(vcpu["exits"][0], json!({ "reason": "I/O instruction", "tick": 1000 }));

    let text = render(&view, false);
    for part in [
        "    4  12.345s      2  invalid-guest-state  paused  VM entry failed, invalid guest state: x\n",
        "fault 5 of vm web: invalid-guest-state: VM entry refused the guest's registers\n",
        "  at 12.345s of the host's uptime, 0.345s after start 2 of the VM\n",
        "vCPU 1, 64-bit code, guest tick 1020\n",
        "   RAX 0xffffffffffffffff",
        "   CR2 0x55",
        "code at 0x2000\n  0f 0b 00 ",
        "RIP 0x2000 through the page tables\n  PML4E  at 0x10000  0x11007\n  PDPTE  at 0x11000  0x87\n  guest-physical 0x2000\n",
        "  0x8000: 0x0                 0x8008: 0x0\n",
        "  I/O instruction @ 1000",
        ", entry failed @ 1010\n",
        "accesses to what is not there: 0 to ports, 0 to MSRs, 1 to memory\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("fault 4 of vm web:") && text.lines().all(|line| line == line.trim_end()), "{text}");
    let other = render(&FaultsView { shown: Some(4), ..view }, false);
    assert!(other.contains("fault 4 of vm web:"), "{other}");
}

#[test]
fn what_is_not_known_is_said() {
    let mut lost = report(1);
    lost.fault.capture = None;
    let text = render(&FaultsView::new("web".into(), 1, &[Arc::new(lost)], None), false);
    assert!(text.contains("the host's memory was too short to keep the vCPU's state\n"), "{text}");
    let none = FaultsView::new("web".into(), 0, &[], None);
    assert_eq!(render(&none, false), "vm web: no faults\n");
    assert_eq!(render(&none, true), String::from("{\"vm\":\"web\",\"faults\":0,\"reports\":[]}\n"));
}
