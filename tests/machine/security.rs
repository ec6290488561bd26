//! `security`: what protects the hypervisor, and what is done against speculative execution, by what the CPU reports.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, pass_time, reply};
use serde_json::Value;
use xtask::machine::PROMPT;

/// Reports IBRS, IBPB, STIBP, L1D_FLUSH, MD_CLEAR and IA32_ARCH_CAPABILITIES.
const WITH_MEANS: &str = "tigerlake";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("security::nothing_is_off_that_can_be_on", nothing_is_off),
        Case::bios("security::mitigations_are_switched_off_one_by_one", switched_off),
        Case::bios("security::guests_run_with_all_that_a_newer_cpu_has", newer_cpu),
        Case::bios("security::a_guest_executes_from_small_pages_only", small_pages),
    ]
}

/// Name and state of each row.
fn states(session: &mut Session) -> Result<Vec<(String, String)>> {
    let answer = reply(session, "security")?;
    let mut states = Vec::new();
    for part in ["/protections", "/mitigations"] {
        let rows = field(&answer, part)?.as_array().cloned().unwrap_or_default();
        ensure!(!rows.is_empty(), "nothing in {part}: {answer}");
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        for row in &rows {
            ensure!(!text(row, "reason").is_empty(), "no reason is given: {row}");
            states.push((text(row, "name"), text(row, "state")));
        }
    }
    Ok(states)
}

fn state<'states>(states: &'states [(String, String)], name: &str) -> Result<&'states str> {
    let row = states.iter().find(|(other, _)| other == name).with_context(|| format!("no row {name} in {states:?}"))?;
    Ok(&row.1)
}

fn nothing_is_off(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().cpus(2).boot()?;
    session.expect(PROMPT)?;
    let states = states(&mut session)?;
    for name in ["CR0.WP", "EFER.NXE", "CR4.SMEP", "CR4.SMAP", "W^X", "guard pages", "rsb-fill", "nx-huge-pages"] {
        ensure!(state(&states, name)? == "on", "{name} is not on: {states:?}");
    }
    // What this CPU has no means for.
    for (name, expected) in [("ibrs", "unavailable"), ("l1d-flush", "unavailable"), ("verw", "unavailable")] {
        ensure!(state(&states, name)? == expected, "{name} is not {expected}: {states:?}");
    }
    ensure!(states.iter().all(|(_, state)| state != "off"), "something is off: {states:?}");
    let answer = session.command("security")?;
    ensure!(answer.contains("below each of 8 stacks a page is not mapped"), "not all stacks were looked at: {answer}");
    session.power_off()
}

fn switched_off(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config("[host]\nmitigations = \"-rsb-fill,-verw\"\n").boot()?;
    session.expect(PROMPT)?;
    let states = states(&mut session)?;
    for (name, expected) in [("rsb-fill", "off"), ("nx-huge-pages", "on"), ("verw", "unavailable")] {
        ensure!(state(&states, name)? == expected, "{name} is not {expected}: {states:?}");
    }
    let saved = session.command("config save")?;
    ensure!(saved.contains("mitigations = \"-rsb-fill,-verw\""), "`config save` forgets it: {saved}");
    session.power_off()
}

const TWO_GUESTS: &str = r#"
[[vm]]
name = "clock"
image = "clock"
memory = "4M"
autostart = false

[[vm]]
name = "walk"
image = "memory-walk"
memory = "34M"
quantum = "1ms"
autostart = false
"#;

/// Barriers, flushes and register writes in the way of every switch and every exit: two guests that take turns pass.
fn newer_cpu(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().cpu_model(WITH_MEANS).config(TWO_GUESTS).boot()?;
    session.expect(PROMPT)?;
    let states = states(&mut session)?;
    for name in ["CR4.UMIP", "ibrs", "ibpb", "rsb-fill"] {
        ensure!(state(&states, name)? == "on", "{name} is not on: {states:?}");
    }
    both_pass(&mut session)?;
    session.power_off()
}

fn both_pass(session: &mut Session) -> Result<()> {
    session.send("vm start clock walk")?;
    let mut heard = String::new();
    while !["clock", "walk"].iter().all(|name| heard.contains(&format!("vm {name}: stopped (exit code 0)"))) {
        heard += &session.expect("\n")?;
    }
    ensure!(heard.contains("clock| verdict: pass") && heard.contains("walk| verdict: pass"), "not both passed");
    Ok(())
}

/// A large page from which a guest fetches is split, so it needs a table more than without the mitigation.
fn small_pages(bench: &Bench) -> Result<()> {
    let mut tables = Vec::new();
    for mitigations in ["auto", "-nx-huge-pages"] {
        let config = format!(
            "[host]\nmitigations = \"{mitigations}\"\n[[vm]]\nname = \"spin\"\nimage = \"spin\"\nmemory = \"32M\"\n\
             cmdline = \"at=0x1000000\"\n"
        );
        let mut session = bench.machine().config(&config).boot()?;
        session.expect("spin| spin: spinning for ever")?;
        pass_time(&mut session, 10_000)?;
        let mem = reply(&mut session, "mem")?;
        tables.push(field(&mem, "/vms/0/frames/ept")?.as_u64().context("no number of EPT frames")?);
        session.power_off()?;
    }
    ensure!(tables[0] == tables[1] + 1, "{tables:?} EPT tables with small pages to execute from and without");
    Ok(())
}
