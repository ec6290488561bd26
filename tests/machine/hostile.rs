//! A hostile guest and its neighbours. For each seed VMs are created that do whatever a guest can do to hurt the host (the
//! guest `hostile`), beside two quiet ones that check their memory all the time. Each may come to any end of its own, which it
//! mostly does soon; the next one goes on with the step after its last, until all the steps of the seed were begun. Then the
//! host must be alive, the quiet guests must have gone on, and the hypervisor must hold what it held before: not a frame, a
//! VPID or a byte of its heap more.
//!
//! A seed and a CPU's number determine what a guest does, so a failure is repeated by `LAMINA_TEST_SEED=N cargo xtask test
//! hostile --seeds 1`.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use lamina_tests::{Bench, Case, Session, field, number, pass_time, reply, uptime_us};
use xtask::machine::PROMPT;

use crate::accounting::{self, Holdings, holdings};

/// The first seed, and how many there are, unless the environment variables say otherwise.
const FIRST_SEED: u64 = 1;
const SEEDS: u64 = 16;
const SEED_VARIABLE: &str = "LAMINA_TEST_SEED";
/// How many seeds one boot sees.
const SEEDS_PER_BOOT: u64 = 8;

/// How many steps are done of each seed.
const STEPS: u64 = 16;
/// Emulated time after which a VM is ended that says nothing more: it may have lost itself with interrupts off.
const SILENCE_US: u64 = 300_000;
/// The same where it goes on saying something.
const LIFE_US: u64 = 1_500_000;
/// Of how many themes the guest's steps are, at least, in one boot: it has 12, and picks one at random for each.
const THEMES: usize = 10;

const QUIET: [&str; 2] = ["quiet-1", "quiet-2"];

const NEIGHBOURS: &str = r#"
[[vm]]
name = "images"
image = "hostile"
memory = "8M"
autostart = false

[[vm]]
name = "quiet-1"
image = "quiet"
memory = "4M"
quantum = "2ms"
cmdline = "seed=101"

[[vm]]
name = "quiet-2"
image = "quiet"
memory = "4M"
quantum = "2ms"
cmdline = "seed=202"
"#;

pub(crate) fn cases() -> Vec<Case> {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = setting(SEED_VARIABLE).unwrap_or(FIRST_SEED);
    let end = first + setting(xtask::test::HOSTILE_SEEDS).unwrap_or(SEEDS);
    let boots = (first..end).step_by(SEEDS_PER_BOOT as usize);
    let case = |(boot, first): (usize, u64)| {
        let (seeds, cpus) = (first..end.min(first + SEEDS_PER_BOOT), 1 + (boot as u32 + 1) % 2);
        let on = if cpus == 1 { "1_cpu" } else { "2_cpus" };
        let name = format!("hostile::seeds_{}_to_{}_on_{on}", seeds.start, seeds.end - 1);
        Case::bios(name, move |bench| beside_quiet_guests(bench, cpus, seeds.clone()))
    };
    boots.enumerate().map(case).collect()
}

fn beside_quiet_guests(bench: &Bench, cpus: u32, seeds: Range<u64>) -> Result<()> {
    let mut session = bench.machine().cpus(cpus).config(NEIGHBOURS).boot()?;
    session.expect(PROMPT)?;
    // What the hypervisor sets up once, for as many vCPUs.
    life(&mut session, 1, 0, 1)?;
    let (mut themes, mut lives, mut heard) = (BTreeSet::new(), 0, 0);
    let all_seeds = seeds.clone();
    let mut rounds = progress(&mut session, [0; 2])?;
    let before = held(&mut session)?;
    for seed in seeds {
        let how = format!("with {SEED_VARIABLE}={seed}");
        let mut step = 0;
        while step < STEPS {
            let Life { end, begun } = life(&mut session, seed, step, STEPS - step).with_context(|| how.clone())?;
            lives += 1;
            heard += u64::from(!begun.is_empty());
            let last = begun.last().map_or(step, |(step, _)| *step);
            println!("hostile, seed {seed}, steps {step} to {last}: {end}");
            themes.extend(begun.into_iter().map(|(_, theme)| theme));
            step = step.max(last) + 1;
        }
        rounds = progress(&mut session, rounds).with_context(|| how.clone())?;
        accounting::check(&mut session).with_context(|| how.clone())?;
        let after = held(&mut session)?;
        ensure!(before == after, "{how}: {before:?} before, {after:?} after");
    }
    // One may ruin its serial line, or itself by its second CPU, before it says a word.
    ensure!(heard * 2 >= lives, "only {heard} of {lives} hostile guests were heard of");
    let enough = themes.len() >= THEMES || all_seeds.count() < SEEDS_PER_BOOT as usize;
    ensure!(enough, "hostile guests did these things only: {themes:?}");
    for (name, rounds) in QUIET.iter().zip(rounds) {
        session.command(&format!("vm stop {name}"))?;
        pass_time(&mut session, 200_000)?;
        let log = session.command(&format!("vm log {name}"))?;
        ensure!(log.contains("verdict: pass quiet"), "{name} does not pass after {rounds} rounds: {log}");
    }
    session.power_off()
}

/// What is held while the quiet guests stand still, so that none of their words is on its way.
fn held(session: &mut Session) -> Result<Holdings> {
    let quiet = QUIET.join(" ");
    done(session, &format!("vm pause {quiet}"))?;
    let holdings = holdings(session)?;
    done(session, &format!("vm resume {quiet}"))?;
    Ok(holdings)
}

/// The life of a hostile guest.
struct Life {
    /// How it ended.
    end: String,
    /// The steps that it began, with their themes.
    begun: Vec<(u64, String)>,
}

/// The whole life of a hostile guest that does so many steps from `first` on.
fn life(session: &mut Session, seed: u64, first: u64, steps: u64) -> Result<Life> {
    let vcpus = 1 + seed % 2;
    let cmdline = format!("seed={seed} first={first} steps={steps}");
    done(session, &format!("vm create hostile --image hostile --memory 8M --vcpus {vcpus} --cmdline '{cmdline}'"))?;
    done(session, "vm start hostile")?;
    let start = uptime_us(session)?;
    let (mut said, mut said_at) = (0, start);
    let end = loop {
        let info = reply(session, "vm info hostile")?;
        if matches!(field(&info, "/state")?.as_str(), Some("stopped" | "crashed")) {
            break field(&info, "/last_stop")?
                .as_str()
                .and_then(|text| text.lines().next())
                .unwrap_or_default()
                .to_owned();
        }
        let now = uptime_us(session)?;
        let bytes = number(&info, "/serial_bytes")?;
        if bytes != said {
            (said, said_at) = (bytes, now);
        }
        let resets = number(&info, "/starts")? > 1;
        if resets || now > said_at + SILENCE_US || now > start + LIFE_US {
            // It may end by itself before the command arrives.
            session.command("vm stop hostile --force")?;
            break if resets { "it reset itself" } else { "ended by force" }.to_owned();
        }
    };
    if end.contains("bug of the hypervisor") {
        bail!("{end}; {}", session.command("vm faults hostile 1")?);
    }
    let log = session.command("vm log hostile")?;
    let marker = format!("hostile: seed {seed} step ");
    let begun = log.lines().filter_map(|line| {
        let (step, theme) = line.split_once(&marker)?.1.split_once(": ")?;
        Some((step.parse().ok()?, theme.trim_end().to_owned()))
    });
    let begun = begun.filter(|(step, _)| (first..first + steps).contains(step)).collect();
    done(session, "vm destroy hostile")?;
    Ok(Life { end, begun })
}

/// How many rounds each quiet guest has done, once that is more than `before`.
fn progress(session: &mut Session, before: [u64; 2]) -> Result<[u64; 2]> {
    let mut now = before;
    for (name, rounds) in QUIET.iter().zip(&mut now) {
        let earlier = *rounds;
        while *rounds <= earlier {
            let info = reply(session, &format!("vm info {name}"))?;
            ensure!(field(&info, "/state")? == "running", "{name} does not run: {info}");
            let log = session.command(&format!("vm log {name} --tail 2"))?;
            let last = log.lines().filter_map(|line| line.strip_prefix("quiet: ")?.split(' ').next()?.parse().ok());
            *rounds = last.max().unwrap_or(0);
        }
    }
    Ok(now)
}

/// A command that must be done.
fn done(session: &mut Session, command: &str) -> Result<()> {
    let answer = session.command(command)?;
    ensure!(!answer.contains("error: "), "`{command}` was not done: {answer}");
    Ok(())
}
