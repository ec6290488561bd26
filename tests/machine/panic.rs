//! A panic of the hypervisor's: all CPUs stop, the epitaph says where it was, and what follows is as configured.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case};
use xtask::symbolize::symbolize;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("panic::stops_all_cpus_and_tells_where", tells_where),
        Case::bios("panic::reboots_where_that_is_wanted", reboots),
    ]
}

const SPINNER: &str = "[[vm]]\nname = \"spin\"\nimage = \"spin\"\nmemory = \"4M\"\naffinity = \"1\"\n";

fn tells_where(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().cpus(2).config(SPINNER).boot()?;
    session.expect("spin| spin: spinning for ever")?;
    session.send("debug panic")?;
    let epitaph = session.expect("*** the machine halts")?;
    ensure!(epitaph.contains("*** LAMINA PANIC: "), "no epitaph: {epitaph}");
    ensure!(epitaph.contains("1 of 1 other CPUs stopped"), "the CPU with the guest did not stop: {epitaph}");
    let lines = symbolize(&epitaph, bench.kernel())?;
    let place = |name: &str| lines.iter().position(|line| line.contains(name));
    let (execute, run) = (place("execute at "), place("run_loop.rs:"));
    ensure!(
        matches!((execute, run), (Some(execute), Some(run)) if execute < run),
        "the way from the run loop to the command is not in the backtrace: {lines:#?}"
    );
    ensure!(lines.iter().any(|line| line.contains("console_task.rs:")), "no line is named: {lines:#?}");
    let other = epitaph.replace("build id ", "build id 00");
    ensure!(symbolize(&other, bench.kernel()).is_err(), "an epitaph of another build was taken");
    Ok(())
}

fn reboots(bench: &Bench) -> Result<()> {
    let config = format!("[host]\non_panic = \"reboot\"\n{SPINNER}").replace("affinity = \"1\"\n", "");
    let mut session = bench.machine().config(&config).boot()?;
    session.expect("spin| spin: spinning for ever")?;
    session.send("debug panic")?;
    session.expect("*** the machine reboots")?;
    session.expect("spin| spin: spinning for ever")?;
    session.power_off()
}
