//! Guests that stop working, told by themselves (pvpanic, hypercall), by their watchdog device, or by the heartbeat rule; and those
//! that only look like it.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, number, pass_time, reply};

use crate::linux::{self, SHELL, TUNED, ask, attach};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("watchdog::a_panic_is_told", panics),
        Case::bios("watchdog::one_that_is_not_fed_ends_the_vm_and_says_so_afterwards", starved),
        Case::bios("watchdog::one_that_is_fed_does_not", fed),
        Case::bios("watchdog::the_heartbeat_finds_the_dead", dead),
        Case::bios("watchdog::the_heartbeat_leaves_the_living_alone", alive),
        Case::bios("watchdog::a_pause_is_no_silence", paused),
        Case::bios("watchdog::resumed_a_guest_has_its_time_again", resumed),
        Case::bios("watchdog::the_heartbeat_rule_is_set_while_the_vm_runs", set),
        Case::bios("watchdog::a_storm_of_exits_makes_a_vm_suspect", storm),
        Case::bios("watchdog::linux_stops_feeding_and_panics_and_is_restarted_to_a_shell", linux_drivers),
    ]
}

/// A guest called like its kind.
fn hang(kind: &str, settings: &str) -> String {
    vm(kind, "hang", &format!("cmdline = \"kind={kind}\"\n{settings}"))
}

fn vm(name: &str, image: &str, settings: &str) -> String {
    format!("[[vm]]\nname = \"{name}\"\nimage = \"{image}\"\nmemory = \"4M\"\n{settings}\n")
}

/// Listens until all of these were said, in any order.
fn hears(session: &mut Session, wanted: &[&str]) -> Result<String> {
    let mut heard = String::new();
    while !wanted.iter().all(|text| heard.contains(text)) {
        heard += &session.expect("\n")?;
    }
    Ok(heard)
}

fn panics(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&(hang("pvpanic", "") + &hang("hypercall", ""))).boot()?;
    hears(
        &mut session,
        &[
            "pvpanic| hang: went on after a panic that is its own business",
            "vm pvpanic: crashed: guest panic: told by the pvpanic port 0x505; RIP",
            "vm hypercall: crashed: guest panic: told by the panic hypercall, code 0x2a; RIP",
        ],
    )?;
    session.power_off()
}

/// Each life is told how the one before ended.
fn starved(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&hang("watchdog", "")).boot()?;
    for fired in [0, 1, 1] {
        let heard = session.expect("vm watchdog: crashed: watchdog: the guest did not feed it within 100 ms")?;
        ensure!(heard.contains(&format!("boot status {fired};")), "the boot status is not {fired}: {heard}");
        session.command("vm start watchdog")?;
    }
    session.power_off()
}

fn fed(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&hang("fed", "")).boot()?;
    let heard = session.expect("vm fed: stopped (exit code 0)")?;
    ensure!(heard.contains("fed| verdict: pass"), "it ended without passing: {heard}");
    session.power_off()
}

const LIMIT: &str = "watchdog = \"1s\"";

fn dead(bench: &Bench) -> Result<()> {
    let config = hang("halt", LIMIT)
        + &hang("lock", LIMIT)
        + &vm("spin", "spin", LIMIT)
        + &vm("spins", "spin", &format!("{LIMIT}\nvcpus = 2\ncmdline = \"cpus=2\""))
        + &vm("alone", "hang", &format!("{LIMIT}\nvcpus = 2\ncmdline = \"kind=halt\""));
    let mut session = bench.machine().config(&config).boot()?;
    let crashed = |name: &str| format!("vm {name}: crashed: heartbeat: no sign of life for ");
    let names = ["halt", "lock", "spin", "spins", "alone"];
    let wanted: Vec<String> = names.iter().map(|name| crashed(name)).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let heard = hears(&mut session, &wanted)?;
    for (name, what) in names.into_iter().zip(["is halted", "goes around", "goes around", "goes around", "is halted"]) {
        let line = heard.lines().find(|line| line.contains(&crashed(name))).unwrap_or_default();
        ensure!(line.contains(&format!("{what} with interrupts disabled; RIP")), "vm {name} was told wrongly: {line}");
    }
    session.power_off()
}

/// Those that compute beside each other have the CPU for a part of the time only, and end by themselves; the idle one is there
/// afterwards, and at its power button's service.
fn alive(bench: &Bench) -> Result<()> {
    let config = hang("busy", LIMIT) + &hang("half", &format!("{LIMIT}\nvcpus = 2")) + &vm("idle", "idle", LIMIT);
    let mut session = bench.machine().config(&config).boot()?;
    let heard = hears(&mut session, &["vm busy: stopped", "vm half: stopped"])?;
    for name in ["busy", "half"] {
        ensure!(heard.contains(&format!("{name}| verdict: pass")), "{name} ended without passing: {heard}");
    }
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    pass_time(&mut session, 5_000_000)?;
    session.send("vm stop idle")?;
    session.expect("vm idle: stopped (powered off)")?;
    session.power_off()
}

/// A guest that is dead is not found hung while it is paused, for no time of its own passes. Its limit is long, since an idle machine's
/// time runs ahead of what is typed.
fn paused(bench: &Bench) -> Result<()> {
    const LIMIT_S: f64 = 600.0;
    const PAUSE_S: f64 = 5.0;
    let mut session = bench.machine().config(&hang("halt", "watchdog = \"600s\"")).boot()?;
    session.expect("halt| hang: halted for ever")?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    session.command("vm pause halt")?;
    pass_time(&mut session, 5_000_000)?;
    let info = reply(&mut session, "vm info halt")?;
    ensure!(field(&info, "/state")? == "paused", "it did not stay paused: {info}");
    session.send("vm resume halt")?;
    let heard = session.expect("vm halt: crashed: heartbeat: no sign of life for 600000 ms")?;
    let stamp = heard.rsplit_once(']').and_then(|(before, _)| before.rsplit_once('['));
    let at_s: f64 = stamp.context("the crash has no time")?.1.trim().parse()?;
    ensure!(at_s > LIMIT_S + PAUSE_S, "it was found hung at {at_s} s: the time of its pause counts");
    session.power_off()
}

/// Paused by its policy and resumed, a guest that was late goes on with a watchdog that waits for it, and a dead one has the whole
/// limit again.
fn resumed(bench: &Bench) -> Result<()> {
    let pause = "on_fault = \"pause\"";
    let config = hang("late", pause) + &hang("halt", &format!("{pause}\n{LIMIT}"));
    let mut session = bench.machine().config(&config).boot()?;
    let silent = "vm halt: paused (fault): heartbeat: no sign of life for 1";
    let late = "vm late: paused (fault): watchdog: the guest did not feed it within 100 ms";
    hears(&mut session, &[late, silent])?;
    session.send("vm resume late")?;
    let heard = session.expect("vm late: stopped (exit code 0)")?;
    ensure!(heard.contains("late| verdict: pass"), "it ended without passing: {heard}");
    session.send("vm resume halt")?;
    session.expect(silent)?;
    ensure!(number(&reply(&mut session, "vm info late")?, "/faults")? == 1, "its watchdog fired again");
    let faults = reply(&mut session, "vm faults halt")?;
    let at = |index: usize| number(&faults, &format!("/reports/{index}/vm_uptime_us"));
    ensure!(at(1)? >= at(0)? + 1_000_000, "it was found again before its limit: {faults}");
    session.power_off()
}

/// Set, changed and taken away while the VM runs; a guest that was dead for longer has its limit from then on.
fn set(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&hang("halt", "")).boot()?;
    session.expect("halt| hang: halted for ever")?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    for (value, why) in [("soon", "not a time"), ("999ms", "a watchdog is 1s to 3600s, or none")] {
        let refused = session.command(&format!("vm set halt watchdog={value}"))?;
        ensure!(refused.contains(&format!("watchdog={value}: {why}")), "{refused}");
    }
    session.command("vm set halt watchdog=600s on_fault=preserve restart_limit='2 in 30s'")?;
    let info = reply(&mut session, "vm info halt")?;
    ensure!(
        info["watchdog_us"] == 600_000_000 && info["on_fault"] == "preserve",
        "`vm info` tells other values: {info}"
    );
    let saved = session.command("config save")?;
    for line in ["watchdog = \"600s\"", "on_fault = \"preserve\"", "restart_limit = \"2 in 30s\""] {
        ensure!(saved.contains(line), "{line} is not saved: {saved}");
    }
    session.command("vm set halt watchdog=none")?;
    let info = reply(&mut session, "vm info halt")?;
    ensure!(info["watchdog_us"].is_null() && info["state"] == "running", "the rule was not taken away: {info}");
    let before = number(&info, "/uptime_us")?;
    session.send("vm set halt watchdog=1s")?;
    session.expect("vm halt: crashed (preserved): heartbeat: no sign of life for 1")?;
    let after = number(&reply(&mut session, "vm info halt")?, "/uptime_us")?;
    ensure!(after >= before + 1_000_000, "what was before counted: found after {} us", after - before);
    session.power_off()
}

/// A guest that was quiet, and one that goes on as it always did.
fn storm(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(&(hang("storm", "") + &vm("spin", "spin", ""))).boot()?;
    let heard = session.expect("vm storm: suspect: ")?;
    ensure!(heard.contains("storm| hang: reading a port for ever"), "it is suspect before it did anything: {heard}");
    let told = session.expect("\n")?;
    ensure!(told.contains("exits a second for I/O instruction, usually 0; odds 2^"), "it is told wrongly: {told}");
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    let info = reply(&mut session, "vm info storm")?;
    ensure!(field(&info, "/suspect/reason")? == "I/O instruction", "`vm info` does not tell it: {info}");
    let info = reply(&mut session, "vm info spin")?;
    ensure!(field(&info, "/suspect")?.is_null(), "the other one is suspect: {info}");
    session.power_off()
}

/// Stock Linux with its own drivers, in three lives: its watchdog is fed, and then no more; after that it knows why it was started
/// anew, and panics. Its policy restarts it to a shell both times, with a report of each. The heartbeat rule watches all of it
/// and finds nothing to say.
fn linux_drivers(bench: &Bench) -> Result<()> {
    let config = format!(
        "[[vm]]\nname = \"linux\"\nimage = \"linux/vmlinux\"\ninitrd = \"linux/initramfs.cpio.gz\"\n\
         cmdline = \"{TUNED}\"\nmemory = \"128M\"\nwatchdog = \"5s\"\non_fault = \"restart\"\n"
    );
    let mut session = bench.machine().memory_mib(640).config(&config).boot()?;
    session.expect("linux| verdict: pass linux shell")?;
    attach(&mut session)?;
    load_drivers(&mut session)?;
    let found = ask(&mut session, "cd /sys/class/watchdog/watchdog0; cat identity bootstatus")?;
    ensure!(found.contains("wdat_wdt") && found.lines().any(|line| line == "0"), "the watchdog is not as new: {found}");
    ask(&mut session, "busybox watchdog -F -T 2 -t 1 /dev/watchdog &")?;
    ask(&mut session, "sleep 6")?;
    let state = ask(&mut session, "cat state timeout")?;
    ensure!(state.contains("active") && state.lines().any(|line| line == "2"), "it is not armed: {state}");
    session.send("kill -STOP $!")?;
    // The console stays attached: there is the next life's shell.
    session.expect("verdict: pass linux shell")?;
    session.expect(SHELL)?;

    load_drivers(&mut session)?;
    // WDIOF_CARDRESET.
    let found = ask(&mut session, "cat /sys/class/watchdog/watchdog0/bootstatus")?;
    ensure!(found.lines().any(|line| line == "32"), "Linux does not know that its watchdog fired: {found}");
    let events = ask(&mut session, "cat /sys/bus/platform/devices/QEMU0001:00/events")?;
    ensure!(events.trim().trim_start_matches("0x").starts_with('3'), "Linux does not tell both events: {events}");
    session.send("echo c > /proc/sysrq-trigger")?;
    session.expect("verdict: pass linux shell")?;
    session.expect(SHELL)?;

    let name = ask(&mut session, "uname -s")?;
    ensure!(name.starts_with("Linux\n"), "its shell answers {name:?}");
    detach(&mut session)?;
    let faults = reply(&mut session, "vm faults linux")?;
    ensure!(faults["faults"] == 2, "there were other faults: {faults}");
    let expected = [
        ("watchdog", "the guest did not feed it within 2000 ms"),
        ("guest-panic", "told by the pvpanic port 0x505; RIP"),
    ];
    for (index, (kind, detail)) in expected.into_iter().enumerate() {
        let report = field(&faults, &format!("/reports/{index}"))?;
        ensure!(report["kind"] == kind && report["start"] == index + 1, "{report}");
        ensure!(report["detail"].as_str().is_some_and(|text| text.contains(detail)), "{report}");
        let action = field(report, "/action")?.as_str().unwrap_or_default();
        ensure!(action.starts_with("restarted after "), "what was done about it: {action}");
    }
    session.power_off()
}

/// Loads the drivers from the shell.
fn load_drivers(session: &mut Session) -> Result<()> {
    let loaded = ask(session, "cd /lib/modules; for m in $(cat on-demand); do insmod $m.ko; done")?;
    ensure!(!loaded.contains("insmod:"), "a driver cannot be loaded: {loaded}");
    Ok(())
}

fn detach(session: &mut Session) -> Result<()> {
    session.send_bytes(linux::DETACH)?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    Ok(())
}
