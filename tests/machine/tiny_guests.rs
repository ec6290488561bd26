//! Each tiny guest alone: it says its verdict and ends by the exit port; and all of them side by side.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, Session, field, reply};

/// A guest, what its `[[vm]]` says beside its name and image, and the exit code it ends with.
const GUESTS: [(&str, &str, u32); 19] = [
    ("hello", "", 0),
    ("hello-multiboot", "", 0),
    ("hello-flat16", "format = \"flat16\"", 0),
    ("hello-flat32", "format = \"flat32\"", 0),
    ("hello-flat64", "format = \"flat64\"", 0),
    ("exit-code", "cmdline = \"code=7\"", 7),
    ("ticker", "cmdline = \"late=25\"", 0),
    ("memory-walk", "memory = \"32M\"", 0),
    ("cpuid-dump", "", 0),
    ("msr-dump", "", 0),
    ("port-poke", "", 0),
    ("mmio-poke", "", 0),
    ("bad-guest", "", 0),
    ("apic", "", 0),
    ("clock", "", 0),
    ("fpu", "", 0),
    ("waker", "cmdline = \"bound_us=500\"", 0),
    ("tick-thief", "cmdline = \"seconds=1\"", 0),
    ("toucher", "memory = \"32M\"\ncmdline = \"mib_per_s=64\"", 0),
];

/// A processor with unrestricted guests and without APIC virtualisation: interrupts go by event injection.
const WITHOUT_APICV: &str = "corei7_sandy_bridge_2600k";

pub(crate) fn cases() -> Vec<Case> {
    let alone = GUESTS.map(|(name, settings, exit_code)| {
        Case::both(format!("guest::{name}"), move |bench| ends_with_its_verdict(bench, name, settings, exit_code))
    });
    let together = [
        Case::both("guests_side_by_side", side_by_side),
        Case::bios("registers_are_each_guests_own", registers),
        Case::bios("guests_without_apic_virtualisation", without_apicv),
    ];
    alone.into_iter().chain(together).collect()
}

fn ends_with_its_verdict(bench: &Bench, name: &str, settings: &str, exit_code: u32) -> Result<()> {
    let config = format!("[[vm]]\nname = \"{name}\"\nimage = \"{name}\"\n{settings}\n");
    let mut session = bench.machine().config(&config).boot()?;
    let heard = session.expect(format!("vm {name}: stopped (exit code {exit_code})"))?;
    ensure!(heard.contains(&format!("{name}| verdict: pass")), "{name} ended without passing");
    // The guest's memory is gone, its log is not.
    let log = reply(&mut session, &format!("vm log {name}"))?;
    let lines = field(&log, "/lines")?.as_array().cloned().unwrap_or_default();
    ensure!(
        lines.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with("verdict: pass"))),
        "no verdict in {log}"
    );
    session.power_off()
}

/// Four guests at once: each passes, and each had the CPU more than once.
fn side_by_side(bench: &Bench) -> Result<()> {
    let names = ["hello", "ticker", "memory-walk", "cpuid-dump"];
    let config: String = names
        .iter()
        .map(|name| format!("[[vm]]\nname = \"{name}\"\nimage = \"{name}\"\nmemory = \"16M\"\nquantum = \"1ms\"\n"))
        .collect();
    let mut session = bench.machine().config(&config).boot()?;
    let mut heard = String::new();
    while !names.iter().all(|name| heard.contains(&format!("vm {name}: stopped (exit code 0)"))) {
        heard += &session.expect("\n")?;
    }
    for name in names {
        ensure!(heard.contains(&format!("{name}| verdict: pass")), "{name} ended without passing");
    }
    let list = reply(&mut session, "vm list")?;
    for (index, name) in names.iter().enumerate() {
        ensure!(field(&list, &format!("/vms/{index}/name"))? == name, "the VMs are not in the file's order: {list}");
        ensure!(field(&list, &format!("/vms/{index}/state"))? == "stopped", "{name} has not stopped: {list}");
    }
    session.power_off()
}

/// Two guests that fill x87, SSE and AVX registers, debug registers and MSRs, each with its own pattern.
fn registers(bench: &Bench) -> Result<()> {
    let guest = |pattern: u8| {
        format!(
            "[[vm]]\nname = \"fpu-{pattern}\"\nimage = \"fpu\"\ncmdline = \"pattern={pattern}\"\nmemory = \"16M\"\nquantum = \"1ms\"\n"
        )
    };
    let mut session = bench.machine().config(&(guest(1) + &guest(2))).boot()?;
    all_pass(&mut session, &["fpu-1", "fpu-2"])?;
    session.power_off()
}

/// The guests that use interrupts, on a CPU where each of them is injected.
fn without_apicv(bench: &Bench) -> Result<()> {
    let names = ["apic", "ticker", "clock", "bad-guest"];
    let config: String = names
        .iter()
        .map(|name| format!("[[vm]]\nname = \"{name}\"\nimage = \"{name}\"\nmemory = \"16M\"\nquantum = \"1ms\"\n"))
        .collect();
    let mut session = bench.machine().cpu_model(WITHOUT_APICV).config(&config).boot()?;
    all_pass(&mut session, &names)?;
    session.power_off()
}

/// Waits until each of these guests has ended with exit code 0.
fn all_pass(session: &mut Session, names: &[&str]) -> Result<()> {
    let mut heard = String::new();
    while !names.iter().all(|name| heard.contains(&format!("vm {name}: stopped"))) {
        heard += &session.expect("\n")?;
    }
    for name in names {
        ensure!(heard.contains(&format!("vm {name}: stopped (exit code 0)")), "{name} ended without passing");
    }
    Ok(())
}
