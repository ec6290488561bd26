//! Who may hold how much: replicas, refusals to the byte, the strategies, growing and shrinking, and what happens when
//! overcommitted memory runs out. After every step the machine's frames are counted (`accounting::check`).

use anyhow::{Context, Result, ensure};
use lamina_tests::{Bench, Case, Session, field, number, pass_time, reply, row};
use serde_json::Value;
use xtask::machine::PROMPT;

use crate::accounting;

const MIB: u64 = 1 << 20;

/// Puts the images into the ramdisk; it takes part in nothing.
const IMAGES: &str = "[[vm]]\nname = \"images\"\nimage = \"hello\"\nmodules = [\"toucher\", \"spin\", \"idle\"]\nmemory = \"4M\"\n\
    memory_min = \"4M\"\nautostart = false\n";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("alloc::replicas_are_all_or_nothing", replicas),
        Case::bios("alloc::each_refusal_is_exact_and_changes_nothing", refusals),
        Case::bios("alloc::the_textbooks_two_vms", textbook),
        Case::bios("alloc::grows_and_shrinks_while_running", grow_and_shrink),
        Case::bios("alloc::overcommit_pauses_one_and_it_recovers", overcommit),
        Case::bios("alloc::priority_takes_back_from_lower_ones", priority),
        Case::bios("alloc::capacity_shares_what_is_left", capacity),
        Case::bios("alloc::utilization_follows_use", utilization),
    ]
}

fn booted(bench: &Bench, memory_mib: u32, host: &str) -> Result<Session> {
    let config = format!("[host]\n{host}\n{IMAGES}");
    let mut session = bench.machine().memory_mib(memory_mib).config(&config).boot()?;
    session.expect(PROMPT)?;
    accounting::check(&mut session)?;
    Ok(session)
}

/// Types a command that must be done.
fn done(session: &mut Session, command: &str) -> Result<()> {
    let answer = reply(session, command)?;
    ensure!(answer.get("error").is_none(), "`{command}` was not done: {answer}");
    accounting::check(session).with_context(|| format!("after `{command}`"))
}

/// Types a command and waits for what follows of it. What guests say while an answer is waited for is not waited for again, so
/// nothing is asked in between.
fn heard(session: &mut Session, command: &str, text: &str) -> Result<()> {
    session.send(command)?;
    session.expect(text)?;
    accounting::check(session).with_context(|| format!("after `{command}`"))
}

/// Types a command that must be refused, sees that nothing has changed, and gives the refusal.
fn refused(session: &mut Session, command: &str) -> Result<String> {
    let before = (reply(session, "alloc")?, names(session)?);
    let answer = reply(session, command)?;
    let error = field(&answer, "/error")?.as_str().unwrap_or_default().to_owned();
    ensure!(!error.contains('\n'), "the refusal has more than one line: {error}");
    let after = (reply(session, "alloc")?, names(session)?);
    ensure!(settled(&before.0) == settled(&after.0), "`{command}` was refused and changed {} to {}", before.0, after.0);
    ensure!(before.1 == after.1, "`{command}` was refused and changed the VMs from {:?} to {:?}", before.1, after.1);
    accounting::check(session).with_context(|| format!("after `{command}`"))?;
    Ok(error)
}

/// An answer of `alloc` without what changes by itself.
fn settled(alloc: &Value) -> Value {
    let mut alloc = alloc.clone();
    if let Some(used) = alloc.pointer_mut("/cpu/used_percent") {
        *used = Value::Null;
    }
    alloc
}

fn names(session: &mut Session) -> Result<Vec<String>> {
    let list = reply(session, "vm list")?;
    let rows = field(&list, "/vms")?.as_array().cloned().unwrap_or_default();
    Ok(rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
}

/// A figure of `alloc` about one VM.
fn of_vm(session: &mut Session, name: &str, figure: &str) -> Result<u64> {
    let alloc = reply(session, "alloc")?;
    number(row(&alloc, "/vms", "vm", name)?, &format!("/{figure}"))
}

fn state_of(session: &mut Session, name: &str) -> Result<String> {
    let info = reply(session, &format!("vm info {name}"))?;
    Ok(field(&info, "/state")?.as_str().unwrap_or_default().to_owned())
}

fn wait_for_state(session: &mut Session, name: &str, state: &str) -> Result<()> {
    // A minute of the machine's time is long for anything that these guests do.
    for _ in 0..600 {
        if state_of(session, name)? == state {
            return Ok(());
        }
        pass_time(session, 100_000)?;
    }
    anyhow::bail!("{name} is {} and not {state} after a minute", state_of(session, name)?)
}

/// What may still be promised, in bytes.
fn available(session: &mut Session) -> Result<u64> {
    let alloc = reply(session, "alloc")?;
    Ok(number(&alloc, "/memory/limit_bytes")?.saturating_sub(number(&alloc, "/memory/reserved_bytes")?))
}

/// `vm create web --image hello --memory 64M --vcpus 1 --replicas 3` makes `web-1..3` or nothing.
fn replicas(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 320, "")?;
    let command = "vm create web --image hello --memory 64M --vcpus 1 --replicas 3";
    done(&mut session, command)?;
    ensure!(
        names(&mut session)? == ["images", "web-1", "web-2", "web-3"],
        "not web-1 to web-3: {:?}",
        names(&mut session)?
    );
    let error = refused(&mut session, command)?;
    ensure!(error.contains("a VM called web-1 already"), "the second `web` is refused by {error:?}");
    let error = refused(&mut session, "vm create more --image hello --memory 64M --replicas 3")?;
    accounting::ensure_exact_refusal(&mut session, &error, 3, 64 * MIB)?;
    done(&mut session, "vm start web-1 web-2 web-3")?;
    for name in ["web-1", "web-2", "web-3"] {
        wait_for_state(&mut session, name, "stopped")?;
    }
    done(&mut session, "vm destroy web-1 web-2 web-3")?;
    done(&mut session, "vm create more --image hello --memory 64M --replicas 3")?;
    session.power_off()
}

/// Memory, CPU, both at once, a minimum, a change while running, and an overcommit that is taken back.
fn refusals(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 256, "")?;
    let error = refused(&mut session, "vm create big --image hello --memory 1G")?;
    accounting::ensure_exact_refusal(&mut session, &error, 1, 1024 * MIB)?;

    done(&mut session, "vm create half --image hello --memory 4M --reservation 60")?;
    let cpu = "cpu: requested 1 x 41 % = 41 %, available 40 % of 1 CPU (reserved: half 60 %)";
    let error = refused(&mut session, "vm create more --image hello --memory 4M --reservation 41")?;
    ensure!(error.ends_with(&format!("insufficient resources: {cpu}")), "the refusal is {error:?}");
    let error = refused(&mut session, "vm create both --image hello --memory 1G --reservation 41")?;
    ensure!(error.contains("memory: requested 1 x ") && error.contains(cpu), "not both are told: {error:?}");
    done(&mut session, "vm create rest --image hello --memory 4M --reservation 40")?;
    refused(&mut session, "vm set rest reservation=41")?;

    // It is shown 512 MiB, and may touch 32 of them.
    let create = "vm create t --image toucher --memory 32M --memory-max 512M --cmdline 'mib=16 hold=1'";
    done(&mut session, create)?;
    heard(&mut session, "vm start t", "t| toucher: holding")?;
    let error = refused(&mut session, "vm set t memory=400M")?;
    ensure!(error.contains("insufficient resources: memory: "), "growing beyond what there is: {error:?}");
    let error = refused(&mut session, "vm set t memory=1G")?;
    ensure!(error.contains("memory"), "growing beyond the maximum: {error:?}");
    done(&mut session, "alloc overcommit 4")?;
    done(&mut session, "vm set t memory=400M")?;
    let error = refused(&mut session, "alloc overcommit 1")?;
    ensure!(error.contains("are reserved and only"), "an overcommit below what is promised: {error:?}");
    session.power_off()
}

/// One CPU and a GiB for VMs; A and B each want a reserved CPU and 512 MiB.
fn textbook(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 1152, "")?;
    done(&mut session, "vm create a --image spin --memory 512M --reservation 100")?;
    let error = refused(&mut session, "vm create b --image spin --memory 512M --reservation 100")?;
    let expected =
        "insufficient resources: cpu: requested 1 x 100 % = 100 %, available 0 % of 1 CPU (reserved: a 100 %)";
    ensure!(error.ends_with(expected), "b is refused by {error:?}");
    // By weight instead of by reservation both fit, and both run.
    done(&mut session, "vm set a reservation=0")?;
    done(&mut session, "vm create b --image spin --memory 512M")?;
    heard(&mut session, "vm start a b", "b| spin: spinning")?;
    let stretch = lamina_tests::Stretch::of(&mut session, 2_000_000)?;
    ensure!(stretch.cpus("a")? > 0.45 && stretch.cpus("b")? > 0.45, "a and b do not share the CPU: {stretch:?}");
    session.power_off()
}

fn grow_and_shrink(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 256, "")?;
    // It is shown 64 MiB and may have 16: the page beyond them waits for the operator.
    let create = "vm create t --image toucher --memory 16M --memory-min 8M --memory-max 64M --cmdline 'mib=40 hold=1 recheck_ms=50'";
    done(&mut session, create)?;
    done(&mut session, "vm start t")?;
    wait_for_state(&mut session, "t", "paused (memory)")?;
    accounting::check(&mut session)?;
    let populated = of_vm(&mut session, "t", "populated_bytes")?;
    ensure!(populated <= 16 * MIB && populated > 15 * MIB, "it was paused with {populated} bytes of 16 MiB");
    done(&mut session, "vm set t memory=24M")?;
    wait_for_state(&mut session, "t", "paused (memory)")?;
    let populated = of_vm(&mut session, "t", "populated_bytes")?;
    ensure!(populated > 23 * MIB && populated <= 24 * MIB, "after growing to 24 MiB it has {populated} bytes");
    heard(&mut session, "vm set t memory=64M", "t| toucher: holding 40 MiB")?;
    // Its guest has no balloon: what it has touched is not taken from it.
    let error = refused(&mut session, "vm set t memory=16M")?;
    ensure!(error.contains("populated") && error.contains("no balloon"), "shrinking below what is touched: {error:?}");
    done(&mut session, "vm set t memory=48M")?;
    ensure!(of_vm(&mut session, "t", "target_bytes")? == 48 * MIB, "shrinking within what is untouched did nothing");
    session.expect("t| toucher: verified")?;
    done(&mut session, "vm stop t --force")?;
    done(&mut session, "vm destroy t")?;
    session.power_off()
}

/// Two guests that together touch more than there is: the one that touches a page too many is paused and told of, the others
/// go on, and it goes on when there is memory again, with all that it had.
fn overcommit(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 192, "overcommit = 1.5")?;
    let room = available(&mut session)? / 3 / MIB;
    done(&mut session, "vm create idle --image idle --memory 4M")?;
    done(&mut session, "vm start idle")?;
    // Two times three eighths and a quarter of 1.5 times the memory: promised, and more than there is.
    for name in ["first", "second"] {
        let cmdline = format!("--cmdline 'mib={} hold=1 recheck_ms=100'", room + room / 4);
        done(&mut session, &format!("vm create {name} --image toucher --memory {}M {cmdline}", room + room / 3))?;
    }
    heard(&mut session, "vm start first", "first| toucher: holding")?;
    done(&mut session, "vm start second")?;
    wait_for_state(&mut session, "second", "paused (memory)")?;
    accounting::check(&mut session)?;
    let alloc = reply(&mut session, "alloc")?;
    row(&alloc, "/waiting", "vm", "second")?;
    let dmesg = session.command("dmesg")?;
    ensure!(dmesg.contains("second") && dmesg.contains("memory"), "the log does not tell of it: {dmesg}");
    session.expect("first| toucher: verified")?;
    for name in ["first", "idle"] {
        ensure!(state_of(&mut session, name)? == "running", "{name} does not go on");
    }
    let holding = format!("second| toucher: holding {} MiB", room + room / 4);
    heard(&mut session, "vm stop first --force", &holding)?;
    session.expect("second| toucher: verified")?;
    done(&mut session, "vm stop --all --force")?;
    done(&mut session, "vm destroy first second idle")?;
    session.power_off()
}

/// What a higher one lacks comes from lower ones, the lowest first, down to what they keep.
fn priority(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 256, "alloc_strategy = \"priority\"")?;
    let room = available(&mut session)? / MIB;
    let each = room * 2 / 5;
    for (name, priority) in [("low", 10), ("middle", 20)] {
        let memory = format!("--memory {each}M --memory-min 8M --priority {priority}");
        done(&mut session, &format!("vm create {name} --image toucher {memory}"))?;
    }
    let (wanted, left) = (room / 3, available(&mut session)?);
    let lower = format!("--memory {wanted}M --memory-min 8M --priority 5");
    refused(&mut session, &format!("vm create lowest --image toucher {lower}"))?;
    done(&mut session, &format!("vm create high --image toucher --memory {wanted}M --priority 90"))?;
    let (low, middle) = (of_vm(&mut session, "low", "target_bytes")?, of_vm(&mut session, "middle", "target_bytes")?);
    ensure!(middle == each * MIB, "memory was taken from `middle` ({middle} bytes are left) though `low` had enough");
    let taken = each * MIB - low;
    ensure!(
        taken >= wanted * MIB - left && taken < wanted * MIB - left + 2 * MIB,
        "{taken} bytes were taken from `low`"
    );
    heard(&mut session, "vm start high", "vm high: stopped (exit code 0)")?;
    session.power_off()
}

/// What is left beyond the minima is shared out by weight.
fn capacity(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 256, "alloc_strategy = \"capacity\"")?;
    let command = |name: &str, weight: u32| {
        format!("vm create {name} --image toucher --memory 64M --memory-min 16M --memory-max 1G --weight {weight}")
    };
    done(&mut session, &command("one", 100))?;
    let alone = of_vm(&mut session, "one", "target_bytes")?;
    ensure!(alone > 128 * MIB, "alone it has {alone} bytes of all that is left");
    done(&mut session, &command("three", 300))?;
    let (one, three) = (of_vm(&mut session, "one", "target_bytes")?, of_vm(&mut session, "three", "target_bytes")?);
    let (above, above_three) = (one.saturating_sub(16 * MIB), three.saturating_sub(16 * MIB));
    let by_weight = above_three.abs_diff(3 * above) <= MIB;
    let in_all = three.abs_diff(3 * one) <= MIB;
    ensure!(by_weight || in_all, "weights 100 and 300 have {one} and {three} bytes");
    refused(
        &mut session,
        &command("wide", 100).replace("--memory 64M --memory-min 16M", "--memory 1G --memory-min 1G"),
    )?;
    session.power_off()
}

/// One guest reads and writes its pages all the time, the other touched them once: the first one's target stays at its use
/// and more, the second one's comes down as far as its guest allows (it has no balloon: to what it touched).
fn utilization(bench: &Bench) -> Result<()> {
    let mut session = booted(bench, 256, "alloc_strategy = \"utilization\"")?;
    for (name, cmdline) in [("busy", "mib=32 hold=1 recheck_ms=20"), ("lazy", "mib=8 hold=1")] {
        let memory = "--memory 64M --memory-min 8M --memory-max 128M";
        done(&mut session, &format!("vm create {name} --image toucher {memory} --cmdline '{cmdline}'"))?;
        heard(&mut session, &format!("vm start {name}"), &format!("{name}| toucher: holding"))?;
    }
    // The way down is an eighth of the difference each second.
    pass_time(&mut session, 20_000_000)?;
    accounting::check(&mut session)?;
    let (busy, lazy) = (of_vm(&mut session, "busy", "target_bytes")?, of_vm(&mut session, "lazy", "target_bytes")?);
    ensure!(busy >= 32 * MIB, "the busy guest uses 32 MiB and is to have {busy} bytes");
    ensure!((8 * MIB..24 * MIB).contains(&lazy), "the lazy guest holds 8 MiB and is to have {lazy} bytes");
    ensure!(state_of(&mut session, "busy")? == "running", "the busy guest was paused");
    session.power_off()
}
