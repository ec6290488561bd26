//! The hypervisor's own memory runs short: at each request for frames in turn while a VM is created and started, and with the
//! heap full. Each time the operator gets one line, nothing is left behind, and once there is memory again all goes on.

use anyhow::{Context, Result, bail, ensure};
use lamina_tests::{Bench, Case, Session, number, reply};
use xtask::machine::PROMPT;

use crate::accounting::{self, Holdings, holdings};

const IMAGES: &str = r#"
[[vm]]
name = "images"
image = "smp"
modules = ["hello"]
memory = "8M"
autostart = false
"#;

/// More requests than there are in the start of this VM.
const REQUESTS_MAX: u64 = 2000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("shortage::each_request_for_frames_refused", each_request_refused),
        Case::bios("shortage::a_full_heap_is_refused_up_front", full_heap),
    ]
}

fn each_request_refused(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(IMAGES).boot()?;
    session.expect(PROMPT)?;
    let create = "vm create short --image smp --memory 8M --vcpus 2 --module hello --cmdline 'cpus=2 rounds=1'";
    let refusing = |nth: u64, command: &str| format!("debug refuse {nth} \"{command}\"");
    let mut before: Option<Holdings> = None;
    let mut refused = 0;
    for nth in 1..=REQUESTS_MAX {
        // Creation asks for no frames.
        let created = session.command(&refusing(1, create))?;
        ensure!(created.contains("0 requests for frames were made"), "{created}");
        let started = session.command(&refusing(nth, "vm start short"))?;
        if started.contains("none of them refused") {
            break;
        }
        refused = nth;
        let lines: Vec<&str> = started.lines().filter(|line| line.starts_with("error: ")).collect();
        ensure!(lines.len() == 1 && lines[0].contains("memory"), "request {nth} was refused without a word: {started}");
        let again = (nth == 1).then(|| session.command("vm start short")).transpose()?;
        if let Some(answer) = again {
            ensure!(!answer.contains("error: "), "the start after a refused one: {answer}");
            session.expect("vm short: stopped (exit code 0)")?;
        }
        session.command("vm destroy short")?;
        accounting::check(&mut session).with_context(|| format!("request {nth}"))?;
        // The first life is what the hypervisor sets up once. Whatever is left behind stays: now and then is enough.
        if nth % 10 == 1 {
            let now = holdings(&mut session)?;
            let before = before.get_or_insert_with(|| now.clone());
            ensure!(*before == now, "request {nth}: {before:?} before, {now:?} after");
        }
    }
    println!("{refused} requests were refused, one after the other");
    // Root and APIC-access page, tables, image, each vCPU's frames: it cannot be less.
    ensure!((20..REQUESTS_MAX).contains(&refused), "{refused} requests were refused");
    session.expect("vm short: stopped (exit code 0)")?;
    session.command("vm destroy short")?;
    let now = holdings(&mut session)?;
    ensure!(Some(&now) == before.as_ref(), "{before:?} before, {now:?} after the start that was let be");
    session.power_off()
}

fn full_heap(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(IMAGES).boot()?;
    session.expect(PROMPT)?;
    let create = |name: &str, more: &str| format!("vm create {name} --image hello --memory 2M {more}");
    // Once, so that lists have grown.
    fill(&mut session, &create)?;
    let before = holdings(&mut session)?;
    let created = fill(&mut session, &create)?;
    println!("{created} VMs filled the heap");
    ensure!(created > 20, "only {created} VMs fit into the heap");
    let after = holdings(&mut session)?;
    ensure!(before == after, "{before:?} before, {after:?} after");
    session.power_off()
}

/// Creates VMs until one is refused for want of heap, tries what needs more of it, and destroys them all.
fn fill(session: &mut Session, create: &dyn Fn(&str, &str) -> String) -> Result<u64> {
    const REFUSAL: &str = "insufficient resources: hypervisor heap: requested ";
    // More at once than there is room for: none.
    let many = session.command(&create("many", "--replicas 120"))?;
    ensure!(many.contains(REFUSAL), "120 at once: {many}");
    let mut created = 0;
    loop {
        let answer = session.command(&create(&format!("full-{created}"), "--vcpus 2 --group full"))?;
        if answer.contains(REFUSAL) {
            break;
        }
        ensure!(!answer.contains("error: "), "after {created}: {answer}");
        let mem = reply(session, "mem")?;
        let all = number(&mem, "/heap_frames")? * number(&mem, "/frame_bytes")?;
        ensure!(number(&mem, "/heap_used_bytes")? + (1 << 20) <= all, "the reserve is touched: {mem}");
        created += 1;
        if created > 200 {
            bail!("200 VMs do not fill the heap");
        }
    }
    let start = session.command("vm start full-0")?;
    ensure!(start.contains(REFUSAL), "a start with a full heap: {start}");
    session.command("vm destroy full-1")?;
    session.command("vm destroy full-2")?;
    session.command("vm destroy full-3")?;
    session.command("vm start full-0")?;
    session.expect("vm full-0: stopped (exit code 0)")?;
    session.command("vm destroy --group full")?;
    Ok(created)
}
