//! Guests that come to grief: each kind of fault is found, reported and answered as the VM's policy says, while the console and
//! the neighbours go on.
//!
//! What a guest can do by itself, the guest `fault` does. What no guest can bring about, `debug fault` does, up to which the way is the
//! real one (docs/FAULTS.md). `reset-loop` has a case of its own; `guest-panic`, `watchdog` and `heartbeat` are in `watchdog.rs`.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, number, pass_time, reply};
use serde_json::Value;
use xtask::machine::PROMPT;

use crate::accounting::{self, holdings};

/// What `kind=` says to the guest, and the fault that the host finds.
const KINDS: [(&str, &str); 7] = [
    ("triple-fault", "triple-fault"),
    ("outside-fetch", "outside-memory"),
    ("outside-stack", "outside-memory"),
    ("outside-table", "outside-memory"),
    ("access-loop", "access-loop"),
    ("task-switch", "task-switch"),
    ("unsupported", "unsupported-instruction"),
];

/// What `debug fault` brings about, how it is told, and whether the guest goes on when it is resumed.
const INJECTED: [(&str, &str, bool); 6] = [
    ("invalid-guest-state", "VM entry failed, invalid guest state: ", false),
    ("entry-failure", "VM entry failed: VM-instruction error 7: ", false),
    ("unhandled-exit", "VM exit 65535 (no reason the manual defines) is not handled: ", true),
    ("ept-misconfiguration", "EPT misconfiguration: the hypervisor's tables are wrong for ", true),
    ("machine-check", "machine check: the hardware reported an error while the guest ran", true),
    ("host", "guest-physical 0xffffffffffffffff is not RAM of this VM", true),
];

/// A neighbour that never yields; the other image is in the ramdisk because a VM names it.
const NEIGHBOUR: &str = r#"
[[vm]]
name = "neighbour"
image = "spin"
memory = "4M"

[[vm]]
name = "images"
image = "fault"
memory = "4M"
autostart = false
"#;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("faults::each_kind_is_found_and_reported", kinds),
        Case::bios("faults::each_kind_that_no_guest_can_cause_too", injected),
        Case::bios("faults::probing_is_no_loop", probing),
        Case::bios("faults::restart_backs_off_up_to_its_limit", restart),
        Case::bios("faults::stop_pause_and_preserve", policies),
        Case::bios("faults::a_reset_loop_is_limited", reset_loop),
        Case::bios("faults::dependencies_hold_a_restart_back", dependencies),
        Case::bios("faults::a_vm_that_is_to_be_started_anew_obeys", obeys),
        Case::bios("faults::the_last_reports_outlast_restarts", last_reports),
    ]
}

fn boot(bench: &Bench, cpus: u32) -> Result<Session> {
    let mut session = bench.machine().cpus(cpus).config(NEIGHBOUR).boot()?;
    session.expect(PROMPT)?;
    Ok(session)
}

fn create(session: &mut Session, name: &str, kind: &str, options: &str) -> Result<()> {
    let answer =
        session.command(&format!("vm create {name} --image fault --memory 4M --cmdline '{kind}' {options}"))?;
    ensure!(!answer.contains("error: "), "{name} was not created: {answer}");
    Ok(())
}

fn info(session: &mut Session, name: &str) -> Result<Value> {
    reply(session, &format!("vm info {name}"))
}

fn state(session: &mut Session, name: &str) -> Result<String> {
    Ok(field(&info(session, name)?, "/state")?.as_str().unwrap_or_default().to_owned())
}

fn ensure_state(session: &mut Session, name: &str, expected: &str) -> Result<()> {
    let found = state(session, name)?;
    ensure!(found == expected, "vm {name} is {found}, not {expected}");
    Ok(())
}

/// The last report of a VM.
fn last_report(session: &mut Session, name: &str) -> Result<Value> {
    let faults = reply(session, &format!("vm faults {name}"))?;
    let reports = field(&faults, "/reports")?.as_array().context("the reports are no array")?;
    reports.last().cloned().with_context(|| format!("vm {name} has no report"))
}

/// A register in a report.
fn register(report: &Value, name: &str) -> Result<u64> {
    let registers = field(report, "/vcpu/registers")?.as_array().context("the registers are no array")?;
    let row = registers.iter().find(|row| row["name"] == name).with_context(|| format!("no {name} in {report}"))?;
    hex(&row["value"])
}

fn hex(value: &Value) -> Result<u64> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    Ok(u64::from_str_radix(digits.with_context(|| format!("{value} is no hexadecimal number"))?, 16)?)
}

/// The neighbour has had the CPU since `before` microseconds of its CPU time.
fn ensure_neighbour_runs(session: &mut Session, before: u64) -> Result<u64> {
    pass_time(session, 200_000)?;
    let after = number(&info(session, "neighbour")?, "/cpu_time_us")?;
    ensure!(after > before, "the neighbour has stood still at {after} us of CPU time");
    Ok(after)
}

/// Each kind: the word for it, the place, the vCPU's state and the exits are in the report; nothing is left behind.
fn kinds(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 2)?;
    // The first one may cost the hypervisor something once.
    one_fault(&mut session, "triple-fault", "triple-fault")?;
    let before = holdings(&mut session)?;
    let mut ran = 0;
    for (kind, expected) in KINDS {
        one_fault(&mut session, kind, expected).with_context(|| format!("kind={kind}"))?;
        ran = ensure_neighbour_runs(&mut session, ran)?;
    }
    let after = holdings(&mut session)?;
    ensure!(before == after, "{before:?} before the faults, {after:?} after them");
    accounting::check(&mut session)?;
    session.power_off()
}

fn one_fault(session: &mut Session, kind: &str, expected: &str) -> Result<()> {
    create(session, "victim", &format!("kind={kind}"), "--access-loop 1000")?;
    session.send("vm start victim")?;
    session.expect(format!("victim| fault: {kind} at 0x"))?;
    let at = session.expect("\n")?;
    let at = u64::from_str_radix(at.trim(), 16).with_context(|| format!("no address in {at:?}"))?;
    session.expect("vm victim: crashed: ")?;
    let report = last_report(session, "victim")?;
    ensure!(report["kind"] == expected, "it is taken for {}: {report}", report["kind"]);
    let rip = register(&report, "RIP")?;
    ensure!(rip == at, "RIP is {rip:#x}, the guest was at {at:#x}: {report}");
    check_content(&report, kind)?;
    let text = session.command("vm faults victim")?;
    for part in [expected, "through the page tables", "exits since the start", "stopped; its memory is given back"] {
        ensure!(text.contains(part), "{part:?} is not in the text: {text}");
    }
    let info = info(session, "victim")?;
    ensure!(info["faults"] == 1 && info["last_fault"] == report["detail"], "`vm info` tells another fault: {info}");
    session.command("vm destroy victim")?;
    Ok(())
}

/// What a report has of any fault.
fn check_content(report: &Value, kind: &str) -> Result<()> {
    let rip_walk = field(report, "/vcpu/walks/0")?;
    let entries = field(rip_walk, "/entries")?.as_array().context("the entries are no array")?;
    match kind {
        // Its page tables are where no memory is: the first entry cannot be read.
        "outside-table" => {
            ensure!(entries.len() == 1 && entries[0]["value"].is_null(), "the walk goes on outside memory: {rip_walk}");
            ensure!(rip_walk["leads_to"].is_null() && rip_walk["fault"].is_string(), "nothing is told: {rip_walk}");
        }
        // Paging is off.
        "task-switch" => {
            ensure!(entries.is_empty(), "there are entries without paging: {rip_walk}");
            ensure!(report["vcpu"]["code_bits"] == 32, "this is 32-bit code: {report}");
        }
        // The guest maps all by pages of 2 MiB, each to itself.
        _ => {
            let levels: Vec<_> = entries.iter().map(|entry| &entry["level"]).collect();
            ensure!(levels == ["PML4E", "PDPTE", "PDE"], "not the guest's page tables: {rip_walk}");
            ensure!(rip_walk["leads_to"] == rip_walk["address"], "RIP is not mapped to itself: {rip_walk}");
        }
    }
    let code = field(report, "/vcpu/code")?.as_str().unwrap_or_default();
    if kind == "triple-fault" {
        // The guest has made one frame, whose return address lies above the saved frame pointer.
        let frames = field(report, "/vcpu/backtrace")?.as_array().map_or(0, Vec::len);
        ensure!(
            frames == 1 && report["vcpu"]["backtrace"][0]["value"] == report["vcpu"]["stack"][1]["value"],
            "{report}"
        );
    }
    if matches!(kind, "triple-fault" | "outside-stack") {
        ensure!(code.starts_with("0f 0b "), "there is no UD2 at RIP: {code}");
    }
    ensure!(code.is_empty() == matches!(kind, "outside-table" | "outside-fetch"), "the code is {code:?}");
    let exits = field(report, "/vcpu/exits")?.as_array().context("the exits are no array")?;
    // The guest printed some dozen characters.
    ensure!(exits.len() == 64, "{} exits are remembered", exits.len());
    let ticks: Vec<u64> = exits.iter().filter_map(|exit| exit["tick"].as_u64()).collect();
    ensure!(ticks.len() == 64 && ticks.is_sorted(), "the exits are not in order: {ticks:?}");
    ensure!(ticks.last() <= field(report, "/vcpu/tick")?.as_u64().as_ref(), "an exit after the fault");
    let last = exits.last().map(|exit| exit["reason"].clone()).unwrap_or_default();
    let reason = match kind {
        "triple-fault" => "triple fault",
        "task-switch" => "task switch",
        _ => "EPT violation",
    };
    ensure!(last == reason, "the last exit is {last}: {report}");
    let counts = field(report, "/exit_counts")?.as_array().context("the counts are no array")?;
    ensure!(counts.iter().any(|row| row["reason"] == "I/O instruction"), "no I/O is counted: {report}");
    ensure!(number(report, "/vm_uptime_us")? > 0 && report["start"] == 1 && report["number"] == 1, "{report}");
    if kind == "access-loop" {
        ensure!(report["unknown_memory"] == 1000, "{} accesses were counted", report["unknown_memory"]);
    }
    Ok(())
}

/// Detected, reported and answered like those of a guest's own doing; resumed, the VM does what docs/FAULTS.md says, and restarted
/// it is as new.
fn injected(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 2)?;
    session.command("vm create victim --image spin --memory 4M")?;
    let refused = session.command("debug fault victim host")?;
    ensure!(refused.contains("vm victim is defined: 'debug fault' needs one that runs"), "{refused}");
    session.command("vm destroy victim")?;
    let mut ran = 0;
    for (kind, words, goes_on) in INJECTED {
        session.command("vm create victim --image spin --memory 4M --on-fault pause")?;
        session.send("vm start victim")?;
        session.expect("victim| spin: spinning for ever")?;
        session.send(&format!("debug fault victim {kind}"))?;
        let paused = format!("vm victim: paused (fault): {words}");
        session.expect(paused.as_str())?;
        let report = last_report(&mut session, "victim")?;
        ensure!(report["kind"] == kind && report["action"] == "paused", "{kind} is taken for another one: {report}");
        let code = field(&report, "/vcpu/code")?.as_str().unwrap_or_default();
        ensure!(code.starts_with("eb fe "), "the report does not show the guest's jump to itself: {report}");
        ran = ensure_neighbour_runs(&mut session, ran).context(kind)?;
        session.send("vm resume victim")?;
        if goes_on {
            let before = number(&info(&mut session, "victim")?, "/cpu_time_us")?;
            pass_time(&mut session, 200_000)?;
            let after = number(&info(&mut session, "victim")?, "/cpu_time_us")?;
            ensure!(after > before, "resumed after {kind} it does not go on");
        } else {
            session.expect(paused.as_str())?;
        }
        session.command("vm set victim on_fault=restart")?;
        session.send("vm reset victim")?;
        session.expect("victim| spin: spinning for ever")?;
        session.send(&format!("debug fault victim {kind}"))?;
        session.expect(format!("vm victim: ended, to be started anew: {words}"))?;
        session.expect("victim| spin: spinning for ever")?;
        ensure_state(&mut session, "victim", "running")?;
        accounting::check(&mut session)?;
        session.command("vm stop victim --force")?;
        session.command("vm destroy victim")?;
    }
    session.power_off()
}

/// Rows of accesses to nothing that stay below the limit, with something else in between.
fn probing(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 1)?;
    create(&mut session, "prober", "kind=probe row=999", "--access-loop 1000")?;
    session.send("vm start prober")?;
    let heard = session.expect("vm prober: stopped (exit code 0)")?;
    ensure!(heard.contains("prober| verdict: pass"), "the guest ended without passing: {heard}");
    // One more is a loop.
    create(&mut session, "looper", "kind=probe row=1000", "--access-loop 1000")?;
    session.send("vm start looper")?;
    session.expect("vm looper: crashed: 1000 accesses in a row to memory that is not there")?;
    session.power_off()
}

const PHOENIX: &str = "--vcpus 2 --on-fault restart --restart-limit '3 in 60s'";

/// Restarted with growing waits, each life in clean memory, until the limit; then it stays crashed, until the operator begins
/// anew.
fn restart(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 2)?;
    // What the hypervisor sets up once, for as many vCPUs.
    create(&mut session, "phoenix", "cpus=2", "--vcpus 2")?;
    session.send("vm start phoenix")?;
    session.expect("vm phoenix: crashed: ")?;
    session.command("vm destroy phoenix")?;
    create(&mut session, "phoenix", "kind=triple-fault cpus=2", PHOENIX)?;
    let before = holdings(&mut session)?;
    session.send("vm start phoenix")?;
    session.expect("vm phoenix: crashed: ")?;
    let line = session.expect("\n")?;
    ensure!(line.contains("it was restarted 3 in 60s already"), "not told that this is the limit: {line}");
    let faults = reply(&mut session, "vm faults phoenix")?;
    let reports = field(&faults, "/reports")?.as_array().context("the reports are no array")?;
    for (pair, backoff_us) in reports.windows(2).zip([100_000, 200_000, 400_000]) {
        let begun = number(&pair[1], "/at_us")? - number(&pair[1], "/vm_uptime_us")?;
        let waited = begun - number(&pair[0], "/at_us")?;
        // The build takes some time besides.
        ensure!(
            (backoff_us..2 * backoff_us).contains(&waited),
            "{waited} us for a back-off of {backoff_us} us: {faults}"
        );
    }
    let actions: Vec<_> = reports.iter().map(|row| &row["action"]).collect();
    let expected = ["100ms (restart 1", "200ms (restart 2", "400ms (restart 3", "it was restarted 3 in 60s"];
    let told = |(action, expected): (&&Value, &str)| action.as_str().is_some_and(|action| action.contains(expected));
    ensure!(actions.len() == 4 && actions.iter().zip(expected).all(told), "the actions are {actions:?}");
    let starts: Vec<_> = reports.iter().map(|row| row["start"].clone()).collect();
    ensure!(starts == [1, 2, 3, 4], "the reports are of the starts {starts:?}");
    // It stays so; the neighbour runs.
    ensure_neighbour_runs(&mut session, 0)?;
    ensure_state(&mut session, "phoenix", "crashed")?;
    let log = session.command("vm log phoenix")?;
    ensure!(!log.contains("verdict: fail") && log.matches("fault: triple-fault at").count() == 4, "{log}");
    // All that it held is back, but for the reports, which go with it.
    session.command("vm destroy phoenix")?;
    create(&mut session, "phoenix", "kind=triple-fault cpus=2", PHOENIX)?;
    let after = holdings(&mut session)?;
    ensure!(before == after, "{before:?} before, {after:?} after");
    // Beginning anew gives all restarts again; another policy takes effect at once.
    session.send("vm start phoenix")?;
    session.expect("(restart 1 of 3 in 60s)")?;
    session.command("vm set phoenix on_fault=stop")?;
    session.expect("vm phoenix: crashed: ")?;
    ensure!(number(&info(&mut session, "phoenix")?, "/starts")? == 2, "the new policy did not stop it");
    session.power_off()
}

fn policies(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 1)?;
    one_fault(&mut session, "triple-fault", "triple-fault")?;
    create(&mut session, "mute", "", "--on-fault pause")?;
    let before = holdings(&mut session)?;
    session.send("vm start mute")?;
    session.expect("vm mute: paused (fault): triple fault")?;
    ensure_state(&mut session, "mute", "paused (fault)")?;
    // It holds what it held. Resumed, it does the same again.
    let held = info(&mut session, "mute")?;
    ensure!(number(&held, "/frames/ram")? > 0 && number(&held, "/frames/vcpu")? > 0, "it holds nothing: {held}");
    let answer = session.command("vm stop mute")?;
    ensure!(answer.contains("use 'vm stop --force mute'"), "a paused guest was asked to end: {answer}");
    accounting::check(&mut session)?;
    session.send("vm resume mute")?;
    session.expect("vm mute: paused (fault): triple fault")?;
    let faults = reply(&mut session, "vm faults mute")?;
    let rips: Vec<u64> =
        faults["reports"].as_array().into_iter().flatten().map(|row| register(row, "RIP")).collect::<Result<_>>()?;
    ensure!(rips.len() == 2 && rips[0] == rips[1], "resumed, it faulted elsewhere: {rips:x?}");
    session.command("vm set mute on_fault=preserve")?;
    session.send("vm reset mute")?;
    session.expect("vm mute: crashed (preserved): triple fault")?;
    ensure_state(&mut session, "mute", "crashed (preserved)")?;
    let held = info(&mut session, "mute")?;
    ensure!(number(&held, "/frames/ram")? > 0, "it was not preserved: {held}");
    ensure!(number(&held, "/exits")? > 0 && number(&held, "/uptime_us")? > 0, "what it did is not kept: {held}");
    let first = number(&held, "/uptime_us")?;
    pass_time(&mut session, 100_000)?;
    ensure!(number(&info(&mut session, "mute")?, "/uptime_us")? == first, "its time goes on");
    accounting::check(&mut session)?;
    // The operator gives back what it holds.
    session.command("vm stop mute --force")?;
    ensure_state(&mut session, "mute", "crashed")?;
    ensure!(number(&info(&mut session, "mute")?, "/frames/ram")? == 0, "its memory was not given back");
    // Started and destroyed as it is preserved: nothing is left.
    session.send("vm start mute")?;
    session.expect("vm mute: crashed (preserved): ")?;
    session.command("vm destroy mute")?;
    create(&mut session, "mute", "", "--on-fault pause")?;
    let after = holdings(&mut session)?;
    ensure!(before == after, "{before:?} before, {after:?} after");
    session.power_off()
}

/// A guest that resets itself at once, again and again, comes to the same limit; at its end there is a report of where it did.
fn reset_loop(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 2)?;
    create(&mut session, "looper", "kind=reset", "--restart-limit '2 in 30s'")?;
    session.send("vm start looper")?;
    session.expect("looper| fault: reset at 0x")?;
    let at = u64::from_str_radix(session.expect("\n")?.trim(), 16)?;
    for nth in 1..=2 {
        session.expect(format!("(restart {nth} of 2 in 30s)"))?;
    }
    session.expect("vm looper: crashed: the guest reset itself")?;
    let report = last_report(&mut session, "looper")?;
    ensure!(report["kind"] == "reset-loop" && report["number"] == 1, "{report}");
    ensure!(register(&report, "RIP")? == at, "RIP is not behind the reset at {at:#x}: {report}");
    ensure!(number(&info(&mut session, "looper")?, "/starts")? == 3, "it was started too often");
    // Late resets are the guest's own business.
    create(&mut session, "rebooter", "kind=reset after_ms=1100", "--restart-limit '1 in 30s'")?;
    session.send("vm start rebooter")?;
    for _ in 0..3 {
        session.expect("vm rebooter: reset by the guest")?;
    }
    session.command("vm stop rebooter --force")?;
    let faults = number(&info(&mut session, "rebooter")?, "/faults")?;
    ensure!(faults == 0, "late resets were counted as {faults} faults");
    session.power_off()
}

/// Those that come after a VM run on when it faults; they are not restarted themselves before it runs again.
fn dependencies(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 2)?;
    create(&mut session, "db", "kind=triple-fault after_ms=300", "--on-fault stop")?;
    create(
        &mut session,
        "web",
        "kind=triple-fault after_ms=600",
        "--on-fault restart --after db --restart-limit '9 in 60s'",
    )?;
    session.command("vm create cache --image spin --memory 4M --after db")?;
    session.send("vm start web cache")?;
    session.expect("vm db: crashed: ")?;
    ensure_state(&mut session, "cache", "running")?;
    session.expect("vm web: ended, to be started anew: ")?;
    session.expect("vm web: not started anew until vm db runs, which is crashed")?;
    pass_time(&mut session, 500_000)?;
    ensure_state(&mut session, "web", "restarting")?;
    ensure_state(&mut session, "cache", "running")?;
    // As soon as that one runs, it is started.
    let starts = number(&info(&mut session, "web")?, "/starts")?;
    session.send("vm start db")?;
    session.expect("vm db: started")?;
    session.expect("vm web: started")?;
    ensure!(number(&info(&mut session, "web")?, "/starts")? == starts + 1, "web was not started once");
    session.power_off()
}

/// While it waits to be started anew, the operator's word counts.
fn obeys(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 1)?;
    for command in ["stop", "stop --force", "start", "reset"] {
        // An idle machine's back-off is over before one can ask: what it comes after is down, so it waits on.
        create(&mut session, "down", "", "")?;
        create(&mut session, "waits", "", "--after down --on-fault restart")?;
        session.send("vm start waits")?;
        session.expect("vm waits: not started anew until vm down runs")?;
        ensure_state(&mut session, "waits", "restarting")?;
        let refused = session.command("vm destroy waits")?;
        ensure!(refused.contains("vm waits is restarting: 'destroy' needs"), "{refused}");
        session.send(&match command.split_once(' ') {
            Some((verb, option)) => format!("vm {verb} waits {option}"),
            None => format!("vm {command} waits"),
        })?;
        if command.starts_with("stop") {
            session.expect("vm waits: stopped")?;
            ensure_state(&mut session, "waits", "stopped")?;
        } else {
            // At once; and it faults again.
            session.expect("vm waits: ended, to be started anew: ")?;
            session.expect("vm waits: not started anew until vm down runs")?;
            session.command("vm stop waits --force")?;
        }
        session.command("vm destroy waits down")?;
    }
    session.power_off()
}

/// The reports of the last eight faults are kept over starts, and go with the VM.
fn last_reports(bench: &Bench) -> Result<()> {
    let mut session = boot(bench, 1)?;
    create(&mut session, "victim", "kind=outside-fetch", "")?;
    for _ in 0..10 {
        session.send("vm start victim")?;
        session.expect("vm victim: crashed: ")?;
    }
    let faults = reply(&mut session, "vm faults victim")?;
    let numbers: Vec<_> = faults["reports"].as_array().into_iter().flatten().map(|row| row["number"].clone()).collect();
    ensure!(faults["faults"] == 10 && numbers == (3..=10).collect::<Vec<_>>(), "{numbers:?} of {}", faults["faults"]);
    let full = session.command("vm faults victim 5")?;
    ensure!(full.contains("fault 5 of vm victim: outside-memory"), "{full}");
    let gone = session.command("vm faults victim 2")?;
    ensure!(gone.contains("there is no report of fault 2; it had 10, the last 8 are kept"), "{gone}");
    session.command("vm destroy victim")?;
    create(&mut session, "victim", "", "")?;
    let none = session.command("vm faults victim")?;
    ensure!(none.contains("vm victim: no faults"), "{none}");
    session.power_off()
}
