//! Lives of VMs at random: created, started, paused, resumed, reset, restarted, stopped and destroyed, over all tiny guests
//! and with up to three alive at a time, beside a Linux guest that is restarted again and again. In the end the hypervisor
//! must hold what it held before: not a frame, a VPID or a byte of its heap more.

use anyhow::{Context, Result, bail, ensure};
use lamina_tests::{Bench, Case, Session, field, pass_time, reply};
use xtask::machine::PROMPT;

use crate::accounting::{self, holdings};
use crate::linux::TUNED;

/// The tiny guests, and what `vm create` says of each beside its name.
const GUESTS: [&str; 25] = [
    "--image hello --memory 4M",
    "--image hello-multiboot --memory 4M",
    "--image hello-flat16 --format flat16 --memory 4M",
    "--image hello-flat32 --format flat32 --memory 4M",
    "--image hello-flat64 --format flat64 --memory 4M",
    "--image exit-code --memory 4M --cmdline code=7",
    "--image ticker --memory 4M --cmdline 'ticks=3 hz=1000'",
    "--image memory-walk --memory 6M",
    "--image cpuid-dump --memory 4M",
    "--image msr-dump --memory 4M",
    "--image port-poke --memory 4M",
    "--image mmio-poke --memory 4M",
    "--image bad-guest --memory 4M",
    "--image apic --memory 4M",
    "--image clock --memory 4M",
    "--image fpu --memory 4M --cmdline 'rounds=3 hz=1000'",
    "--image fault --memory 4M",
    "--image fault --memory 4M --cmdline after_ms=2 --on-fault restart --restart-limit '2 in 1s'",
    "--image fault --memory 4M --cmdline kind=reset --on-fault pause --restart-limit '1 in 1s'",
    "--image fault --memory 4M --cmdline kind=outside-stack --on-fault preserve",
    "--image spin --memory 4M",
    MOST_VCPUS,
    "--image waker --memory 4M --cmdline 'wakes=20 period_us=1000'",
    "--image toucher --memory 8M --cmdline 'hold=1 mib=2'",
    "--image idle --memory 4M",
];

/// The one with the most vCPUs.
const MOST_VCPUS: &str = "--image smp --memory 8M --vcpus 3 --cmdline 'cpus=3 rounds=1'";

/// How many VMs live side by side, not counting Linux.
const SLOTS: usize = 3;
/// How often Linux is restarted in a run.
const LINUX_RESTARTS: usize = 5;
/// What seeds the choices, unless the environment variable says otherwise.
const SEED: u64 = 0x1a3d_c0de;
const SEED_VARIABLE: &str = "LAMINA_TEST_SEED";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("lifecycle::60_random_lives", |bench| lives(bench, 1, 60, 0)),
        Case::bios("lifecycle::60_random_lives_on_2_cpus", |bench| lives(bench, 2, 60, 0)),
        Case::bios("lifecycle::1000_random_lives_beside_linux", |bench| lives(bench, 2, 1000, LINUX_RESTARTS))
            .run_when_asked_for(),
    ]
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): the same choices for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the remainder does not matter here.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'item, T: ?Sized>(&mut self, items: &[&'item T]) -> &'item T {
        items[self.below(items.len())]
    }
}

fn config(linux: bool) -> String {
    let images: Vec<String> =
        GUESTS.iter().filter_map(|guest| guest.split_whitespace().nth(1)).map(|image| format!("\"{image}\"")).collect();
    let mut config = format!(
        "[host]\nstop_grace = \"50ms\"\n[[vm]]\nname = \"images\"\nimage = \"hello\"\nmodules = [{}]\nmemory = \"4M\"\n\
         autostart = false\n",
        images.join(", ")
    );
    if linux {
        config += &format!(
            "[[vm]]\nname = \"linux\"\nimage = \"linux/vmlinux\"\ninitrd = \"linux/initramfs.cpio.gz\"\n\
             cmdline = \"{TUNED}\"\nmemory = \"128M\"\nautostart = false\n"
        );
    }
    config
}

/// So many lives; `restarts` times in between Linux is restarted, and comes up.
fn lives(bench: &Bench, cpus: u32, rounds: usize, restarts: usize) -> Result<()> {
    let seed = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let machine = bench.machine().cpus(cpus).memory_mib(if restarts > 0 { 640 } else { 256 });
    let machine = machine.many_times_the_work(if restarts > 0 { 30 } else { 4 });
    let mut session = machine.config(&config(restarts > 0)).boot()?;
    session.expect(PROMPT)?;
    let mut random = Random(seed);
    let mut world = World::default();
    // What the hypervisor sets up once: the first life of each guest, and of as many vCPUs side by side as there will be.
    for guest in GUESTS.into_iter().chain([MOST_VCPUS; SLOTS]) {
        world.life(&mut session, &mut random, guest)?;
    }
    world.clear(&mut session)?;
    if restarts > 0 {
        start_linux(&mut session, "vm start linux")?;
        session.command("vm stop linux --force")?;
    }
    let before = holdings(&mut session)?;

    if restarts > 0 {
        start_linux(&mut session, "vm start linux")?;
    }
    for round in 0..rounds {
        let guest = random.pick(&GUESTS);
        world
            .life(&mut session, &mut random, guest)
            .with_context(|| format!("in round {round} with {SEED_VARIABLE}={seed}, `{guest}`"))?;
        if round % 25 == 24 {
            accounting::check(&mut session).with_context(|| format!("after round {round}"))?;
        }
        if restarts > 0 && (round + 1).is_multiple_of(rounds / restarts) {
            let how = if round % 2 == 0 { "vm reset linux" } else { "vm stop linux --force" };
            restart_linux(&mut session, how).with_context(|| format!("after round {round}"))?;
        }
    }
    world.clear(&mut session)?;
    if restarts > 0 {
        session.command("vm stop linux --force")?;
    }
    let after = holdings(&mut session)?;
    ensure!(before == after, "{before:?} before {rounds} lives, {after:?} after them");
    accounting::check(&mut session)?;
    session.power_off()
}

/// The VMs that live now, by slot.
#[derive(Default)]
struct World {
    alive: [bool; SLOTS],
    next: usize,
}

impl World {
    /// Ends the VM in the next slot, creates another there, starts it, and does to it whatever comes to mind. It may live on
    /// beside those of the next rounds.
    fn life(&mut self, session: &mut Session, random: &mut Random, guest: &str) -> Result<()> {
        let slot = self.next % SLOTS;
        self.next += 1;
        self.end(session, slot)?;
        let name = name(slot);
        done(session, &format!("vm create {name} {guest}"))?;
        if let Some(alive) = self.alive.get_mut(slot) {
            *alive = true;
        }
        done(session, &format!("vm start {name}"))?;
        for _ in 0..random.below(5) {
            step(session, random, &name)?;
        }
        Ok(())
    }

    fn end(&mut self, session: &mut Session, slot: usize) -> Result<()> {
        let Some(alive) = self.alive.get_mut(slot).filter(|alive| **alive) else { return Ok(()) };
        let name = name(slot);
        if is_alive(&state_of(session, &name)?) {
            // It may end by itself before the command arrives.
            session.command(&format!("vm stop {name} --force"))?;
        }
        done(session, &format!("vm destroy {name}"))?;
        *alive = false;
        Ok(())
    }

    fn clear(&mut self, session: &mut Session) -> Result<()> {
        (0..SLOTS).try_for_each(|slot| self.end(session, slot))
    }
}

fn name(slot: usize) -> String {
    format!("life-{slot}")
}

/// Something that an operator may do to the VM in its state.
fn step(session: &mut Session, random: &mut Random, name: &str) -> Result<()> {
    let before = state_of(session, name)?;
    let verbs: &[&str] = match before.as_str() {
        "running" => &["pause", "reset", "stop", "stop --force", "wait", "wait"],
        "paused" => &["resume", "resume", "reset", "stop --force"],
        "stopping" => &["wait", "stop --force"],
        "starting" => &["wait"],
        "paused (fault)" => &["resume", "reset", "stop --force"],
        "crashed (preserved)" => &["start", "reset", "stop --force"],
        "restarting" => &["wait", "stop", "reset", "stop --force"],
        "stopped" | "crashed" => &["start"],
        other => bail!("{name} is {other}"),
    };
    let verb = random.pick(verbs);
    if verb == "wait" {
        return pass_time(session, 1000 * (1 + random.next() % 20));
    }
    let command = match verb.split_once(' ') {
        Some((verb, option)) => format!("vm {verb} {name} {option}"),
        None => format!("vm {verb} {name}"),
    };
    let answer = session.command(&command)?;
    if answer.contains("error: ") {
        // Only because the guest, or its time, has ended on its own in the meantime.
        let after = state_of(session, name)?;
        ensure!(after != before, "`{command}` was refused of a VM that is {after}: {answer}");
    }
    Ok(())
}

fn is_alive(state: &str) -> bool {
    !matches!(state, "defined" | "stopped" | "crashed" | "crashed (preserved)")
}

fn state_of(session: &mut Session, name: &str) -> Result<String> {
    let info = reply(session, &format!("vm info {name}"))?;
    Ok(field(&info, "/state")?.as_str().unwrap_or_default().to_owned())
}

/// A command that must be done.
fn done(session: &mut Session, command: &str) -> Result<()> {
    let answer = session.command(command)?;
    ensure!(!answer.contains("error: "), "`{command}` was not done: {answer}");
    Ok(())
}

fn restart_linux(session: &mut Session, how: &str) -> Result<()> {
    if how.contains("reset") {
        return start_linux(session, how);
    }
    done(session, how)?;
    start_linux(session, "vm start linux")
}

/// Starts it anew, and waits for its shell.
fn start_linux(session: &mut Session, how: &str) -> Result<()> {
    session.send(how)?;
    session.expect("linux| verdict: pass linux shell")?;
    Ok(())
}
