//! A machine with several CPUs: all come online, and guests run as they do on one.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, field, reply};
use xtask::machine::PROMPT;

const ONE_GUEST: &str = r#"
[[vm]]
name = "hello"
image = "hello"
memory = "4M"
"#;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("all_cpus_come_online", all_cpus_come_online),
        Case::bios("guests_run_beside_other_cpus", guests_run_beside_other_cpus),
    ]
}

fn all_cpus_come_online(bench: &Bench) -> Result<()> {
    for cpus in [1, 4] {
        let mut session = bench.machine().cpus(cpus).config("").boot()?;
        session.expect(format!("CPUs: {cpus} of {cpus} online").as_str())?;
        session.expect(PROMPT)?;
        let answer = reply(&mut session, "cpu")?;
        ensure!(field(&answer, "/cpus")?.as_u64() == Some(u64::from(cpus)), "not {cpus} CPUs: {answer}");
        session.power_off()?;
    }
    Ok(())
}

fn guests_run_beside_other_cpus(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().cpus(2).config(ONE_GUEST).boot()?;
    let heard = session.expect("vm hello: stopped (exit code 0)")?;
    ensure!(heard.contains("hello| verdict: pass"), "the guest ended without passing");
    session.power_off()
}
