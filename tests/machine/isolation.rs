//! What one guest does to itself does nothing to the others, and it sees nothing of theirs.
//!
//! What the cases stand for, and what was seen to make each fail:
//!
//! | taken out | case that fails |
//! |---|---|
//! | the zeroing of frames (`mem::frames::alloc_zeroed`) | `memory_of_a_vm_that_is_gone_reads_zero` |
//! | the shoot-down before a frame is freed (`GuestRam::free_all`) | `a_page_given_away_is_out_of_every_cpus_sight` |
//!
//! Two more are there by the manual and cannot be seen to be needed in Bochs, which forgets translations at every VM entry and
//! exit: without the INVEPT of `GuestRam::enter`, and without the flush when a vCPU comes to another CPU (`VmxRoot::make_current`),
//! no case fails there.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, field, reply};
use xtask::machine::PROMPT;

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
        Case::both("isolation::triple_fault_leaves_the_others_alive", triple_fault),
        Case::bios("isolation::bad_guest_leaves_the_others_alive", bad_guest),
        Case::bios("isolation::memory_of_a_vm_that_is_gone_reads_zero", scrubbed),
        Case::bios("isolation::a_page_given_away_is_out_of_every_cpus_sight", out_of_sight),
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

/// One VM fills nearly all memory and is destroyed; the next one finds nothing of it, in small pages as in large ones.
fn scrubbed(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"images\"\nimage = \"toucher\"\nmemory = \"4M\"\nautostart = false\n";
    let mut session = bench.machine().memory_mib(96).config(config).boot()?;
    session.expect(PROMPT)?;
    // VMs of less than 32 MiB get small pages.
    for memory in ["--memory 64M", "--memory 28M", "--memory 64M", "--memory 28M"] {
        session.command(&format!("vm create last --image toucher {memory}"))?;
        session.send("vm start last")?;
        let heard = session.expect("vm last: stopped (exit code ")?;
        ensure!(heard.contains("last| verdict: pass"), "the VM saw what an earlier one had left: {heard}");
        session.command("vm destroy last")?;
    }
    session.power_off()
}

/// A page that the balloon took is no other VM's before every CPU has forgotten it: one that reads it all the time and never
/// leaves the guest by itself is made to.
fn out_of_sight(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"giver\"\nimage = \"balloon\"\nvcpus = 2\nmemory = \"16M\"\nmemory_min = \"8M\"\nquantum = \"100ms\"\n\
                  cmdline = \"watch=1 rounds=1 touch=4\"\n";
    let mut session = bench.machine().cpus(2).config(config).boot()?;
    session.expect("giver| balloon: device at")?;
    session.command("vm set giver memory=12M")?;
    let heard = session.expect("vm giver: stopped (exit code ")?;
    for said in ["giver| balloon: the other CPU lost sight of the page", "giver| verdict: pass"] {
        ensure!(heard.contains(said), "the guest did not say `{said}`: {heard}");
    }
    session.power_off()
}
