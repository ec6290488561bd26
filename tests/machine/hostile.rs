//! A hostile guest and its neighbours. For each seed a VM is created that does whatever a guest can do to hurt the host (the
//! guest `hostile`), beside two quiet ones that check their memory all the time. It may come to any end of its own. Then the
//! host must be alive, the quiet guests must have gone on, and the hypervisor must hold what it held before: not a frame, a
//! VPID or a byte of its heap more.
//!
//! A seed and a CPU's number determine what a guest does, so a failure is repeated by `LAMINA_TEST_SEED=N cargo xtask test
//! hostile --seeds 1`.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, number, pass_time, reply, uptime_us};
use xtask::machine::PROMPT;

use crate::accounting::{self, Holdings, holdings};

/// The first seed, and how many there are, unless the environment variables say otherwise.
const FIRST_SEED: u64 = 1;
const SEEDS: u64 = 16;
const SEED_VARIABLE: &str = "LAMINA_TEST_SEED";
/// How many seeds one boot sees.
const SEEDS_PER_BOOT: u64 = 8;

/// How many steps a guest does, of those that a run of the guest counts.
const STEPS: u64 = 48;
/// Emulated time after which it is ended: it may have lost itself with interrupts off.
const LIFE_US: u64 = 1_500_000;
/// How often it may reset itself.
const STARTS: u64 = 3;

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
    life(&mut session, 1, 1)?;
    let (mut lives, mut heard) = (0, 0);
    let mut rounds = progress(&mut session, [0; 2])?;
    let before = held(&mut session)?;
    for seed in seeds {
        let how = format!("with {SEED_VARIABLE}={seed}");
        let end = life(&mut session, seed, STEPS).with_context(|| how.clone())?;
        println!("hostile, seed {seed}: {end}");
        lives += 1;
        heard += u32::from(end.contains(" step "));
        rounds = progress(&mut session, rounds).with_context(|| how.clone())?;
        accounting::check(&mut session).with_context(|| how.clone())?;
        let after = held(&mut session)?;
        ensure!(before == after, "{how}: {before:?} before, {after:?} after");
    }
    ensure!(heard * 2 >= lives, "only {heard} of {lives} hostile guests got to their first step: they prove nothing");
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

/// The whole life of a hostile guest. Answers with how it ended.
fn life(session: &mut Session, seed: u64, steps: u64) -> Result<String> {
    let vcpus = 1 + seed % 2;
    let create =
        format!("vm create hostile --image hostile --memory 8M --vcpus {vcpus} --cmdline 'seed={seed} steps={steps}'");
    done(session, &create)?;
    done(session, "vm start hostile")?;
    let end = uptime_us(session)? + LIFE_US;
    let mut ended = String::from("ended by force");
    loop {
        let info = reply(session, "vm info hostile")?;
        if matches!(field(&info, "/state")?.as_str(), Some("stopped" | "crashed")) {
            ended =
                field(&info, "/last_stop")?.as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
            break;
        }
        if uptime_us(session)? > end || number(&info, "/starts")? > STARTS {
            // It may end by itself before the command arrives.
            session.command("vm stop hostile --force")?;
            break;
        }
    }
    let log = session.command("vm log hostile")?;
    let last = log.lines().rfind(|line| line.starts_with("hostile: seed ")).unwrap_or("nothing").to_owned();
    done(session, "vm destroy hostile")?;
    Ok(format!("{ended}; it said last: {last}"))
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
