//! Creating, pausing, resetting and destroying VMs from the console, with every frame given back.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, reply};

/// The image is in the ramdisk because a VM that does not start by itself names it.
const ON_DEMAND: &str = r#"
[[vm]]
name = "template"
image = "memory-walk"
autostart = false

[[vm]]
name = "other"
image = "spin"
autostart = false
"#;

const ROUNDS: usize = 20;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both("create_and_destroy_give_all_frames_back", create_and_destroy),
        Case::bios("pause_resume_reset_stop", pause_resume_reset_stop),
        Case::bios("more_memory_than_there_is", more_memory_than_there_is),
    ]
}

fn create_and_destroy(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    // The first VM may cost the hypervisor something once; from then on nothing.
    one_life(&mut session)?;
    let before = free_frames(&mut session)?;
    for round in 1..=ROUNDS {
        one_life(&mut session).with_context(|| format!("in round {round}"))?;
    }
    let after = free_frames(&mut session)?;
    ensure!(before == after, "{before} frames were free before {ROUNDS} VMs lived and died, {after} after");
    session.power_off()
}

fn one_life(session: &mut Session) -> Result<()> {
    session.command("vm create walker --image memory-walk --memory 4M")?;
    session.send("vm start walker")?;
    let heard = session.expect("vm walker: stopped (exit code 0)")?;
    ensure!(heard.contains("walker| verdict: pass"), "the guest ended without passing");
    session.command("vm destroy walker")?;
    Ok(())
}

fn free_frames(session: &mut Session) -> Result<u64> {
    let mem = reply(session, "mem")?;
    field(&mem, "/free_frames")?.as_u64().context("free_frames is no number")
}

fn state(session: &mut Session, index: usize) -> Result<String> {
    let list = reply(session, "vm list")?;
    Ok(field(&list, &format!("/vms/{index}/state"))?.as_str().unwrap_or_default().to_owned())
}

fn pause_resume_reset_stop(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    session.command("vm start other")?;
    session.command("vm pause other")?;
    ensure!(state(&mut session, 1)? == "paused", "`vm pause` did not pause");
    let first = cpu_time(&mut session)?;
    let second = cpu_time(&mut session)?;
    ensure!(first == second, "a paused VM used CPU time: {first} us, then {second} us");
    session.command("vm resume other")?;
    ensure!(state(&mut session, 1)? == "running", "`vm resume` did not resume");
    session.command("vm reset other")?;
    let info = reply(&mut session, "vm info other")?;
    ensure!(field(&info, "/starts")? == 2, "`vm reset` started nothing anew: {info}");
    session.command("vm stop other --force")?;
    ensure!(state(&mut session, 1)? == "stopped", "`vm stop --force` did not stop");
    session.power_off()
}

fn cpu_time(session: &mut Session) -> Result<u64> {
    let info = reply(session, "vm info other")?;
    field(&info, "/cpu_time_us")?.as_u64().context("cpu_time_us is no number")
}

/// Memory is given on demand; a guest that touches more than there is ends alone, with the reason.
fn more_memory_than_there_is(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().memory_mib(128).config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    session.command("vm create glutton --image memory-walk --memory 1G")?;
    session.send("vm start glutton")?;
    session.expect("vm glutton: crashed: ")?;
    let report = session.expect("\n")?;
    ensure!(report.contains("memory"), "the crash does not name memory: {report}");
    one_life(&mut session)?;
    session.power_off()
}
