//! A guest that never yields holds neither the CPU nor the console.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, field, reply};

const SPIN_AND_TICKER: &str = r#"
[[vm]]
name = "spin"
image = "spin"
memory = "4M"
quantum = "10ms"
order = 1

[[vm]]
name = "ticker"
image = "ticker"
memory = "4M"
quantum = "10ms"
order = 2
"#;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::both("spinning_guest_is_preempted", spinning_guest_is_preempted)]
}

fn spinning_guest_is_preempted(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(SPIN_AND_TICKER).boot()?;
    let heard = session.expect("vm ticker: stopped (exit code 0)")?;
    ensure!(heard.contains("ticker| verdict: pass"), "the ticker did not pass beside the spinning guest");

    let sched = reply(&mut session, "sched")?;
    let switches = field(&sched, "/vms/0/switches")?.as_u64().unwrap_or(0);
    ensure!(field(&sched, "/vms/0/vm")? == "spin" && switches > 10, "spin was not preempted again and again: {sched}");
    let wait = field(&sched, "/vms/1/wait/max_ns")?.as_u64().unwrap_or(u64::MAX);
    ensure!(wait < 20_000_000, "the ticker once waited {wait} ns beside a quantum of 10 ms: {sched}");

    let list = reply(&mut session, "vm list")?;
    ensure!(field(&list, "/vms/0/state")? == "running", "spin no longer runs: {list}");
    session.command("vm stop spin --force")?;
    let list = reply(&mut session, "vm list")?;
    ensure!(field(&list, "/vms/0/state")? == "stopped", "spin still runs: {list}");
    session.power_off()
}
