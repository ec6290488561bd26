//! Creating, pausing, resetting and destroying VMs from the console, with every frame given back.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, pass_time, reply, uptime_us};

use crate::accounting;

/// The image is in the ramdisk because a VM that does not start by itself names it.
const ON_DEMAND: &str = r#"
[[vm]]
name = "template"
image = "memory-walk"
memory = "4M"
autostart = false

[[vm]]
name = "other"
image = "spin"
memory = "4M"
autostart = false
"#;

/// Two guests that the power button reaches: one powers itself off, the other takes no notice.
const BUTTONS: &str = r#"
[host]
stop_grace = "300ms"

[[vm]]
name = "obedient"
image = "idle"
memory = "4M"

[[vm]]
name = "deaf"
image = "idle"
cmdline = "ignore_button=1"
memory = "4M"
"#;

const ROUNDS: usize = 20;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both("lifecycle::create_and_destroy_give_all_frames_back", create_and_destroy),
        Case::bios("lifecycle::pause_resume_reset_stop", pause_resume_reset_stop),
        Case::bios("lifecycle::more_memory_than_there_is", more_memory_than_there_is),
        Case::bios("lifecycle::stop_asks_and_after_the_grace_forces", stop_and_grace),
        Case::bios("lifecycle::groups_start_in_the_order_of_their_dependencies", groups),
    ]
}

fn create_and_destroy(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    // The first VM may cost the hypervisor something once; from then on nothing.
    one_life(&mut session)?;
    let before = free_frames(&mut session)?;
    for round in 1..=ROUNDS {
        one_life(&mut session).with_context(|| format!("in round {round}"))?;
    }
    let after = free_frames(&mut session)?;
    ensure!(before == after, "{before} frames were free before {ROUNDS} VMs lived and died, {after} after");
    session.power_off()
}

fn one_life(session: &mut Session) -> Result<()> {
    session.command("vm create walker --image memory-walk --memory 4M")?;
    session.send("vm start walker")?;
    let heard = session.expect("vm walker: stopped (exit code 0)")?;
    ensure!(heard.contains("walker| verdict: pass"), "the guest ended without passing");
    session.command("vm destroy walker")?;
    Ok(())
}

fn free_frames(session: &mut Session) -> Result<u64> {
    let mem = reply(session, "mem")?;
    field(&mem, "/free_frames")?.as_u64().context("free_frames is no number")
}

fn state(session: &mut Session, index: usize) -> Result<String> {
    let list = reply(session, "vm list")?;
    Ok(field(&list, &format!("/vms/{index}/state"))?.as_str().unwrap_or_default().to_owned())
}

fn pause_resume_reset_stop(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    session.command("vm start other")?;
    session.command("vm pause other")?;
    ensure!(state(&mut session, 1)? == "paused", "`vm pause` did not pause");
    let first = cpu_time(&mut session)?;
    let second = cpu_time(&mut session)?;
    ensure!(first == second, "a paused VM used CPU time: {first} us, then {second} us");
    session.command("vm resume other")?;
    ensure!(state(&mut session, 1)? == "running", "`vm resume` did not resume");
    session.command("vm reset other")?;
    let info = reply(&mut session, "vm info other")?;
    ensure!(field(&info, "/starts")? == 2, "`vm reset` started nothing anew: {info}");
    session.command("vm stop other --force")?;
    ensure!(state(&mut session, 1)? == "stopped", "`vm stop --force` did not stop");
    session.power_off()
}

fn cpu_time(session: &mut Session) -> Result<u64> {
    let info = reply(session, "vm info other")?;
    field(&info, "/cpu_time_us")?.as_u64().context("cpu_time_us is no number")
}

/// Memory is given on demand. More than there is can be promised, when the operator says so; a guest that then touches what is
/// not there waits alone, with the reason told, and all that it took comes back when it is ended.
fn more_memory_than_there_is(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().memory_mib(128).config(ON_DEMAND).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    let create = "vm create glutton --image memory-walk --memory 512M";
    let answer = session.command(create)?;
    ensure!(answer.contains("insufficient resources: memory: "), "more than there is was promised: {answer}");
    session.command("alloc overcommit 8")?;
    let before = free_frames(&mut session)?;
    session.command(create)?;
    session.send("vm start glutton")?;
    session.expect("vm glutton: paused: ")?;
    let reason = session.expect("\n")?;
    ensure!(reason.contains("the host's memory is used up"), "the reason is not that memory is short: {reason}");
    ensure!(state(&mut session, 2)? == "paused (memory)", "the glutton does not wait");
    accounting::check(&mut session)?;
    session.command("vm stop glutton --force")?;
    let after = free_frames(&mut session)?;
    ensure!(before == after, "{before} frames were free before the glutton ran, {after} after");
    one_life(&mut session)?;
    session.power_off()
}

/// `vm stop` presses the power button; who has not powered off when the grace time is over is ended.
fn stop_and_grace(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(BUTTONS).boot()?;
    for name in ["obedient", "deaf"] {
        session.expect(format!("{name}| idle: halted until the power button is pressed"))?;
    }
    session.send("vm stop obedient")?;
    let heard = session.expect("vm obedient: stopped")?;
    ensure!(heard.contains("obedient| verdict: pass"), "the obedient guest was ended and did not end itself");
    let begin = uptime_us(&mut session)?;
    session.send("vm stop deaf")?;
    session.expect("deaf| idle: the power button was pressed 1 times and is ignored")?;
    session.expect("vm deaf: stopped")?;
    let took = uptime_us(&mut session)? - begin;
    ensure!(took >= 300_000, "the deaf guest was ended {took} us after it was asked, its grace time is 300 ms");
    // A grace time of its own, and none at all.
    session.command("vm start deaf")?;
    session.expect("deaf| idle: halted until the power button is pressed")?;
    let begin = uptime_us(&mut session)?;
    session.send("vm stop deaf --grace 20s")?;
    session.expect("deaf| idle: the power button was pressed 1 times and is ignored")?;
    // The time of an idle machine flies: the 300 ms are over before one can ask.
    ensure!(state(&mut session, 1)? == "stopping", "the deaf guest is not shown as stopping");
    session.expect("vm deaf: stopped")?;
    let took = uptime_us(&mut session)? - begin;
    ensure!(took >= 20_000_000, "the deaf guest was ended {took} us after it was asked, its grace time is 20 s");
    session.command("vm start deaf")?;
    session.command("vm stop --all --force")?;
    ensure!(state(&mut session, 1)? == "stopped", "`vm stop --all --force` did not stop");
    session.power_off()
}

/// Dependencies before those who need them, at boot and for a group; stopped the other way round.
fn groups(bench: &Bench) -> Result<()> {
    let vm = |name: &str, settings: &str| {
        format!("[[vm]]\nname = \"{name}\"\nimage = \"idle\"\nmemory = \"4M\"\ngroup = \"shop\"\n{settings}\n")
    };
    let config = vm("web", "after = [\"app\"]") + &vm("app", "after = [\"db\"]") + &vm("db", "");
    let mut session = bench.machine().config(&config).boot()?;
    session.expect(xtask::machine::PROMPT)?;
    in_order(&mut session, &["db", "app", "web"], "running")?;
    session.send("vm stop --group shop")?;
    in_order(&mut session, &["web", "app", "db"], "stopped")?;
    session.send("vm start --group shop")?;
    in_order(&mut session, &["db", "app", "web"], "running")?;
    session.power_off()
}

/// The log's last lines about these VMs' coming to the state are in this order.
fn in_order(session: &mut Session, names: &[&str], state: &str) -> Result<()> {
    let mut last = 0;
    for _ in 0..100 {
        pass_time(session, 100_000)?;
        let list = reply(session, "vm list")?;
        let rows = field(&list, "/vms")?.as_array().cloned().unwrap_or_default();
        last = rows.iter().filter(|row| row["state"] == state).count();
        if last == names.len() {
            break;
        }
    }
    ensure!(last == names.len(), "{last} of {} VMs are {state}", names.len());
    let dmesg = session.command("dmesg")?;
    let word = if state == "running" { "started" } else { state };
    let place = |name: &&str| dmesg.rfind(&format!("vm {name}: {word}"));
    let places: Vec<Option<usize>> = names.iter().map(place).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "not {names:?} in this order: {dmesg}");
    Ok(())
}
