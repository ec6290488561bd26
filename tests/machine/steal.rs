//! What a guest is told of the time that others had its CPU. The guest `steal` holds it against its own TSC; here is who
//! else runs meanwhile, and how much must have been stolen.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, Session, pass_time};
use xtask::machine::PROMPT;

/// For how long each guest measures, of its own time.
const MEASURED_MS: u64 = 2_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("sched::steal_time_is_half_beside_an_equal", beside_an_equal),
        Case::bios("sched::steal_time_follows_weights", follows_weights),
        Case::bios("sched::steal_time_of_a_lone_guest_is_none", alone),
        Case::bios("sched::steal_time_leaves_pauses_out", paused),
        Case::bios("sched::steal_time_of_each_vcpu_is_its_own", each_vcpu),
        Case::bios("sched::steal_time_can_be_withheld", withheld),
    ]
}

/// A guest that measures, and what must have been stolen from it in percent.
fn steal(name: &str, least: u64, most: u64, options: &str, settings: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nimage = \"steal\"\nmemory = \"4M\"\n{settings}\n\
         cmdline = \"ms={MEASURED_MS} least={least} most={most} {options}\"\n"
    )
}

fn spin(settings: &str) -> String {
    format!("[[vm]]\nname = \"spin\"\nimage = \"spin\"\nmemory = \"4M\"\n{settings}\n")
}

fn passes(session: &mut Session, names: &[&str]) -> Result<()> {
    let mut heard = String::new();
    while !names.iter().all(|name| heard.contains(&format!("vm {name}: stopped"))) {
        heard += &session.expect("\n")?;
    }
    for name in names {
        ensure!(heard.contains(&format!("{name}| verdict: pass")), "{name} ended without passing: {heard}");
    }
    Ok(())
}

/// Two guests on one CPU, each of which loses half of its time, twice: what a VM lost in an earlier life is not told it again.
fn beside_an_equal(bench: &Bench) -> Result<()> {
    let config = steal("left", 47, 53, "", "") + &steal("right", 47, 53, "", "");
    let mut session = bench.machine().config(&config).boot()?;
    passes(&mut session, &["left", "right"])?;
    session.command("vm start left right")?;
    passes(&mut session, &["left", "right"])?;
    session.power_off()
}

/// A fifth of the CPU is left.
fn follows_weights(bench: &Bench) -> Result<()> {
    let config = steal("light", 78, 82, "", "weight = 100") + &spin("weight = 400");
    let mut session = bench.machine().config(&config).boot()?;
    passes(&mut session, &["light"])?;
    session.power_off()
}

/// On one CPU of two, with the console at work on the other and a guest that sleeps beside it.
fn alone(bench: &Bench) -> Result<()> {
    let idle = "[[vm]]\nname = \"idle\"\nimage = \"idle\"\nmemory = \"4M\"\n";
    let mut session = bench.machine().cpus(2).config(&(steal("alone", 0, 1, "", "") + idle)).boot()?;
    passes(&mut session, &["alone"])?;
    session.power_off()
}

/// A pause is time that the guest did not have: its clock stands still, and nothing was stolen.
fn paused(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&steal("paused", 0, 1, "", "")).boot()?;
    session.expect("paused| steal: spinning on 1 CPU(s)")?;
    session.expect(PROMPT)?;
    for _ in 0..3 {
        session.command("vm pause paused")?;
        pass_time(&mut session, MEASURED_MS * 1000 / 4)?;
        session.command("vm resume paused")?;
    }
    passes(&mut session, &["paused"])?;
    session.power_off()
}

/// Three vCPUs on one CPU: each has a third, and sees the others off the CPU while it runs.
fn each_vcpu(bench: &Bench) -> Result<()> {
    let config = steal("three", 62, 70, "cpus=3 exclusive=1", "vcpus = 3");
    let mut session = bench.machine().config(&config).boot()?;
    passes(&mut session, &["three"])?;
    session.power_off()
}

/// `steal_time = false` takes KVM's signature away, so the guest finds nothing to ask.
fn withheld(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&steal("untold", 0, 100, "", "steal_time = false")).boot()?;
    session.expect("untold| verdict: fail steal: no leaf has KVM's signature")?;
    session.power_off()
}
