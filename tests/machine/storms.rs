//! Guests that cost their host as much as they can, by exits, interrupts and wake-ups: each pays for them out of its own share,
//! so that a neighbour of equal weight, which only computes, gets its half of the CPU all the same.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, Stretch};

use crate::sched;

/// How long shares are measured for.
const MEASURED_US: u64 = 3_000_000;
/// How much of the CPU the neighbour gets at least, where a half is its due.
const LEAST: f64 = 0.49;
/// The same beside one that prints for ever: the boot CPU carries its words to the line, as fast as that takes them.
const LEAST_BESIDE_WORDS: f64 = 0.47;

const KINDS: [&str; 9] = ["cpuid", "port", "msr", "memory", "serial", "ipi", "nmi", "timer", "wakes"];

pub(crate) fn cases() -> Vec<Case> {
    let case = |kind: &'static str| {
        Case::bios(format!("storms::{kind}_is_paid_from_its_own_share"), move |bench| pays_for_itself(bench, kind))
    };
    KINDS.map(case).into()
}

fn pays_for_itself(bench: &Bench, kind: &str) -> Result<()> {
    let vcpus = if kind == "wakes" { 2 } else { 1 };
    let config = format!(
        "[[vm]]\nname = \"storm\"\nimage = \"storm\"\nmemory = \"4M\"\nvcpus = {vcpus}\ncmdline = \"kind={kind}\"\n\
         [[vm]]\nname = \"spin\"\nimage = \"spin\"\nmemory = \"4M\"\n"
    );
    let mut session = sched::settled(bench, 1, &config)?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    let (spin, storm) = (stretch.cpus("spin")?, stretch.cpus("storm")?);
    println!("{kind}: the neighbour had {spin:.4} of the CPU, the storm {storm:.4}");
    let least = if kind == "serial" { LEAST_BESIDE_WORDS } else { LEAST };
    ensure!(spin >= least, "beside a storm of {kind} the neighbour had {spin:.4} of the CPU, the storm {storm:.4}");
    session.power_off()
}
