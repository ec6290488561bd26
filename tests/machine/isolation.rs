//! What one guest does to itself does nothing to the others.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, field, reply};

const TRIPLE_FAULT_AND_TICKER: &str = r#"
[[vm]]
name = "ticker"
image = "ticker"
memory = "4M"
order = 1

[[vm]]
name = "triple-fault"
image = "fault"
memory = "4M"
order = 2
"#;

const BAD_GUEST_AND_TICKER: &str = r#"
[[vm]]
name = "bad-guest"
image = "bad-guest"
memory = "4M"
quantum = "1ms"

[[vm]]
name = "ticker"
image = "ticker"
memory = "4M"
quantum = "1ms"
"#;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both("triple_fault_leaves_the_others_alive", triple_fault),
        Case::bios("bad_guest_leaves_the_others_alive", bad_guest),
    ]
}

fn triple_fault(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(TRIPLE_FAULT_AND_TICKER).boot()?;
    let crash = session.expect("vm triple-fault: crashed: ")?;
    ensure!(!crash.contains("vm ticker: stopped"), "the ticker had ended before the crash, so nothing is shown");
    let report = session.expect("\n")?;
    ensure!(report.to_lowercase().contains("triple fault"), "the crash is not explained: {report}");
    let heard = session.expect("vm ticker: stopped (exit code 0)")?;
    ensure!(heard.contains("ticker| verdict: pass"), "the ticker did not pass after the other guest's crash");
    let list = reply(&mut session, "vm list")?;
    ensure!(field(&list, "/vms/1/state")? == "crashed", "the crashed VM is not shown as such: {list}");
    session.command("vm start triple-fault")?;
    session.expect("vm triple-fault: crashed: ")?;
    session.power_off()
}

fn bad_guest(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(BAD_GUEST_AND_TICKER).boot()?;
    let mut heard = String::new();
    while !["bad-guest", "ticker"].iter().all(|name| heard.contains(&format!("vm {name}: stopped (exit code 0)"))) {
        heard += &session.expect("\n")?;
    }
    ensure!(heard.contains("bad-guest| verdict: pass") && heard.contains("ticker| verdict: pass"), "not both passed");
    session.power_off()
}
