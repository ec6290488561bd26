//! Who gets how much of the CPUs: weights, caps, each policy, and changes while the guests run. All guests spin, so all CPU
//! time is contended; what a guest had is the difference of its CPU time between two points of emulated time.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, Snapshot, Stretch, due, ensure_near, number, pass_time, reply, row};
use xtask::machine::PROMPT;

const SECOND_US: u64 = 1_000_000;
/// How long shares are measured for.
const MEASURED_US: u64 = 10 * SECOND_US;
/// For the guests to be started and the first slices to be over.
const SETTLE_US: u64 = SECOND_US / 2;
/// How far a share may be from what is due.
const TOLERANCE_PER_CENT: f64 = 1.0;
/// Jain's index that equals reach at least.
const JAIN_LEAST: f64 = 0.999;
/// The quantum of every guest that is not said to have another.
const QUANTUM_US: u64 = 10_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("sched::shares_follow_weights_on_2_cpus", |bench| shares_follow_weights(bench, 2)),
        Case::bios("sched::shares_follow_weights_on_4_cpus", |bench| shares_follow_weights(bench, 4)),
        Case::bios("sched::what_one_vcpu_cannot_use_is_shared", one_vcpu_cannot_use),
        Case::bios("sched::equals_get_equal_shares_on_2_cpus", |bench| equals(bench, 2)),
        Case::bios("sched::equals_get_equal_shares_on_4_cpus", |bench| equals(bench, 4)),
        Case::bios("sched::caps_hold_on_2_cpus", |bench| caps(bench, 2)),
        Case::bios("sched::caps_hold_on_4_cpus", |bench| caps(bench, 4)),
        Case::bios("sched::a_reservation_is_kept", reservation),
        Case::bios("sched::the_tick_thief_gets_no_more_than_its_share", tick_thief),
        Case::bios("sched::weights_change_within_a_quantum", live_weights),
        Case::bios("sched::policies_change_within_a_quantum", live_policy),
        Case::bios("sched::round_robin_gives_each_its_quantum", round_robin),
        Case::bios("sched::fcfs_runs_the_first_to_its_end", fcfs),
        Case::bios("sched::priority_starves_nobody", priority),
        Case::bios("sched::pinned_guests_stay_on_their_cpus", pinned),
    ]
}

/// A guest that spins on one vCPU, with what its `[[vm]]` says besides.
fn spin(name: &str, settings: &str) -> String {
    format!("[[vm]]\nname = \"{name}\"\nimage = \"spin\"\nmemory = \"4M\"\nquantum = \"10ms\"\n{settings}\n")
}

/// Boots the machine and waits until all its guests have been running for a while.
pub(crate) fn settled(bench: &Bench, cpus: u32, config: &str) -> Result<Session> {
    let mut session = bench.machine().cpus(cpus).config(config).boot()?;
    session.expect(PROMPT)?;
    pass_time(&mut session, SETTLE_US)?;
    Ok(session)
}

/// For each CPU one guest of each weight, so that nobody is due more than its one vCPU can use.
fn shares_follow_weights(bench: &Bench, cpus: u32) -> Result<()> {
    let guests: Vec<(String, u32)> =
        (0..cpus).flat_map(|set| [100, 200, 400].map(|weight| (format!("w{weight}-{set}"), weight))).collect();
    shares_are_due(bench, cpus, &guests)
}

/// Four sevenths of two CPUs are more than one vCPU can use.
fn one_vcpu_cannot_use(bench: &Bench) -> Result<()> {
    shares_are_due(bench, 2, &[100, 200, 400].map(|weight| (format!("w{weight}"), weight)))
}

fn shares_are_due(bench: &Bench, cpus: u32, guests: &[(String, u32)]) -> Result<()> {
    let config: String = guests.iter().map(|(name, weight)| spin(name, &format!("weight = {weight}"))).collect();
    let mut session = settled(bench, cpus, &config)?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    hardly_idle(&stretch, cpus)?;
    let claims: Vec<(f64, f64)> = guests.iter().map(|(_, weight)| (f64::from(*weight), 1.0)).collect();
    for ((name, _), due) in guests.iter().zip(due(&claims, stretch.total_cpus())) {
        ensure_near(name, stretch.cpus(name)?, due, TOLERANCE_PER_CENT)?;
    }
    session.power_off()
}

/// What the guests had is nearly all there was: the rest is the hypervisor's own.
fn hardly_idle(stretch: &Stretch, cpus: u32) -> Result<()> {
    let (total, least) = (stretch.total_cpus(), 0.95 * f64::from(cpus));
    ensure!(total >= least, "the guests had {total:.3} of {cpus} CPUs, though all of them spin");
    Ok(())
}

/// Three guests for two CPUs, five for four: they must move among the CPUs to be equal.
fn equals(bench: &Bench, cpus: u32) -> Result<()> {
    let names: Vec<String> = (0..=cpus).map(|index| format!("equal-{index}")).collect();
    let mut session = settled(bench, cpus, &names.iter().map(|name| spin(name, "")).collect::<String>())?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    hardly_idle(&stretch, cpus)?;
    let jain = stretch.jain(&names)?;
    ensure!(jain >= JAIN_LEAST, "Jain's index is {jain:.6} at equal weights, {JAIN_LEAST} is asked for: {stretch:?}");
    let sched = reply(&mut session, "sched")?;
    let told = number(&sched, "/jain_millionths")?;
    ensure!(told >= 999_000, "`sched` tells a Jain's index of {told} millionths: {sched}");
    session.power_off()
}

fn caps(bench: &Bench, cpus: u32) -> Result<()> {
    let mut config = spin("cap-20", "cap = 20") + &spin("cap-50", "cap = 50");
    for index in 0..cpus {
        config += &spin(&format!("free-{index}"), "");
    }
    let mut session = settled(bench, cpus, &config)?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    hardly_idle(&stretch, cpus)?;
    for (name, cap) in [("cap-20", 0.2), ("cap-50", 0.5)] {
        ensure_near(name, stretch.cpus(name)?, cap, TOLERANCE_PER_CENT)?;
    }
    // A cap holds on an idle machine too, and one that is lifted is gone.
    session.command("vm pause free-0")?;
    session.command("vm set cap-50 cap=none")?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    ensure_near("cap-20 beside a pause", stretch.cpus("cap-20")?, 0.2, TOLERANCE_PER_CENT)?;
    let freed = stretch.cpus("cap-50")?;
    ensure!(freed > 0.6, "cap-50 without its cap had {freed:.3} of a CPU");
    session.power_off()
}

/// A tenth of the weight, half of the CPU reserved.
fn reservation(bench: &Bench) -> Result<()> {
    let config = spin("reserved", "weight = 10\nreservation = 50") + &spin("heavy", "weight = 1000");
    let mut session = settled(bench, 1, &config)?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    let had = stretch.cpus("reserved")?;
    ensure!(had >= 0.5 * (1.0 - TOLERANCE_PER_CENT / 100.0), "the reserved half of a CPU was {had:.4} of one");
    ensure_near("heavy", stretch.cpus("heavy")?, stretch.total_cpus() - 0.5, 2.0 * TOLERANCE_PER_CENT)?;
    session.power_off()
}

/// In each of its ways: by HLT and by PAUSE, at fixed marks and counted from when it last had the CPU, which is where a
/// slice of its own would end.
fn tick_thief(bench: &Bench) -> Result<()> {
    for (index, ways) in ["", "follow=1", "pause=1", "pause=1 follow=1", "period_us=5000 lead_us=50"].iter().enumerate()
    {
        let thief =
            format!("[[vm]]\nname = \"thief\"\nimage = \"tick-thief\"\ncmdline = \"{ways}\"\nmemory = \"4M\"\n");
        let mut session = settled(bench, 1, &(thief + &spin("honest", "")))?;
        let stretch = Stretch::of(&mut session, MEASURED_US / 2)?;
        let (thief, honest) = (stretch.cpus("thief")?, stretch.cpus("honest")?);
        let half = stretch.total_cpus() / 2.0 * (1.0 + TOLERANCE_PER_CENT / 100.0);
        ensure!(thief <= half, "the thief ({ways:?}) had {thief:.4} of the CPU and the other guest {honest:.4}");
        ensure!(thief > 0.1, "the thief ({ways:?}) had {thief:.4} of the CPU: it did not try, so nothing is shown");
        session.power_off().with_context(|| format!("in way {index}"))?;
    }
    Ok(())
}

/// What follows a change is as if it had always been so, but for one quantum of each guest.
fn as_due(stretch: &Stretch, dues: &[(&str, f64)]) -> Result<()> {
    for (name, due) in dues {
        let (found, due_us) = (stretch.cpu_us(name)?, due * stretch.total_cpus() * stretch.length_us as f64);
        let off = (found as f64 - due_us).abs();
        let allowed = 2.0 * QUANTUM_US as f64 + due_us * TOLERANCE_PER_CENT / 100.0;
        ensure!(off <= allowed, "{name} had {found} us instead of {due_us:.0}, allowed are {allowed:.0} more or less");
    }
    Ok(())
}

fn live_weights(bench: &Bench) -> Result<()> {
    let mut session = settled(bench, 1, &(spin("a", "") + &spin("b", "")))?;
    as_due(&Stretch::of(&mut session, SECOND_US)?, &[("a", 0.5), ("b", 0.5)])?;
    for (weight, share) in [(300, 0.75), (50, 1.0 / 3.0), (100, 0.5)] {
        session.command(&format!("vm set a weight={weight}"))?;
        let begin = Snapshot::take(&mut session)?;
        pass_time(&mut session, SECOND_US)?;
        let stretch = Stretch::since(&mut session, &begin)?;
        as_due(&stretch, &[("a", share), ("b", 1.0 - share)]).with_context(|| format!("with a's weight {weight}"))?;
    }
    session.power_off()
}

fn live_policy(bench: &Bench) -> Result<()> {
    let config = spin("a", "weight = 300\npriority = 90") + &spin("b", "weight = 100\npriority = 90");
    let mut session = settled(bench, 1, &config)?;
    // Equal quanta and equal priorities make equals of them; the weights count under `fair` alone.
    for (policy, share) in [("fair", 0.75), ("round-robin", 0.5), ("fair", 0.75), ("priority", 0.5), ("fair", 0.75)] {
        session.command(&format!("sched policy {policy}"))?;
        let begin = Snapshot::take(&mut session)?;
        pass_time(&mut session, SECOND_US)?;
        let stretch = Stretch::since(&mut session, &begin)?;
        as_due(&stretch, &[("a", share), ("b", 1.0 - share)]).with_context(|| format!("under {policy}"))?;
        let sched = reply(&mut session, "sched")?;
        ensure!(sched["policy"] == policy, "`sched` does not name {policy}: {sched}");
    }
    session.power_off()
}

/// `T_next = T_current + T_quantum`: shares are as the quanta, whatever the weights.
fn round_robin(bench: &Bench) -> Result<()> {
    let mut config = String::from("[host]\nsched_policy = \"round-robin\"\n");
    for ms in [5, 10, 20] {
        write!(
            config,
            "[[vm]]\nname = \"q{ms}\"\nimage = \"spin\"\nmemory = \"4M\"\nquantum = \"{ms}ms\"\nweight = 500\n"
        )?;
    }
    let mut session = settled(bench, 1, &config)?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    for (name, share) in [("q5", 1.0 / 7.0), ("q10", 2.0 / 7.0), ("q20", 4.0 / 7.0)] {
        ensure_near(name, stretch.cpus(name)?, share * stretch.total_cpus(), TOLERANCE_PER_CENT)?;
    }
    session.power_off()
}

fn fcfs(bench: &Bench) -> Result<()> {
    let config =
        format!("[host]\nsched_policy = \"fcfs\"\n{}{}", spin("first", "order = 1"), spin("second", "order = 2"));
    let mut session = settled(bench, 1, &config)?;
    let stretch = Stretch::of(&mut session, SECOND_US)?;
    ensure!(stretch.cpu_us("second")? == 0, "the second guest ran while the first had not ended: {stretch:?}");
    hardly_idle(&stretch, 1)?;
    session.command("vm stop first --force")?;
    let stretch = Stretch::of(&mut session, SECOND_US)?;
    ensure!(stretch.cpus("second")? > 0.95, "the second guest did not run after the first had ended: {stretch:?}");
    session.power_off()
}

/// Ageing: `W <= (P - p) * 10 ms + the others' quanta`, with `P` = 99.
fn priority(bench: &Bench) -> Result<()> {
    let guests = [("high", 90), ("middle", 50), ("low", 0)];
    let settings: String =
        guests.iter().map(|(name, priority)| spin(name, &format!("priority = {priority}"))).collect();
    let mut session = settled(bench, 1, &format!("[host]\nsched_policy = \"priority\"\n{settings}"))?;
    let stretch = Stretch::of(&mut session, MEASURED_US)?;
    let shares = guests.map(|(name, _)| stretch.cpus(name));
    let [Ok(high), Ok(middle), Ok(low)] = shares else { anyhow::bail!("a guest is missing: {stretch:?}") };
    ensure!(high > middle && middle > low && low > 0.0, "priorities 90, 50, 0 had {high:.3}, {middle:.3}, {low:.3}");
    let sched = reply(&mut session, "sched")?;
    for (name, priority) in guests {
        let bound_ns = ((99 - priority) * 10_000 + 2 * QUANTUM_US) * 1000;
        let wait_ns = number(row(&sched, "/vms", "vm", name)?, "/wait/max_ns")?;
        // A hundredth more, for what the hypervisor itself takes at each switch.
        ensure!(wait_ns <= bound_ns + bound_ns / 100, "{name} once waited {wait_ns} ns, the bound is {bound_ns}");
    }
    session.power_off()
}

/// Two guests on one CPU, one on the other; and then the other way round.
fn pinned(bench: &Bench) -> Result<()> {
    let config = spin("a", "affinity = \"0\"") + &spin("b", "affinity = \"0\"") + &spin("c", "affinity = \"1\"");
    let mut session = settled(bench, 2, &config)?;
    let stretch = Stretch::of(&mut session, 2 * SECOND_US)?;
    ensure_near("a and b", stretch.cpus("a")? / stretch.cpus("b")?, 1.0, 2.0 * TOLERANCE_PER_CENT)?;
    ensure!(stretch.cpus("c")? > 0.95, "c does not have CPU 1 for itself: {stretch:?}");
    session.command("vm pin b 1")?;
    pass_time(&mut session, 2 * QUANTUM_US)?;
    let stretch = Stretch::of(&mut session, 2 * SECOND_US)?;
    ensure!(stretch.cpus("a")? > 0.9, "a does not have CPU 0 for itself: {stretch:?}");
    ensure_near("b and c", stretch.cpus("b")? / stretch.cpus("c")?, 1.0, 2.0 * TOLERANCE_PER_CENT)?;
    for (name, cpu) in [("a", 0), ("b", 1), ("c", 1)] {
        let info = reply(&mut session, &format!("vm info {name}"))?;
        ensure!(number(&info, "/vcpu_rows/0/cpu")? == cpu, "{name} is not on CPU {cpu}: {info}");
    }
    session.power_off()
}
