//! Guests with several vCPUs, on fewer and on more CPUs than that.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, Session, field, number, reply};

use crate::linux::{DETACH, TUNED, ask, attach};

/// A processor without APIC virtualisation: IPIs and timers of the guest exit, and events are injected.
const WITHOUT_APICV: &str = "corei7_sandy_bridge_2600k";

pub(crate) fn cases() -> Vec<Case> {
    let tiny = [
        // vCPUs, CPUs, what the command line of the guest says besides.
        (1, 2, "rounds=20"),
        (2, 1, "rounds=10"),
        (2, 2, "rounds=20"),
        (4, 2, "rounds=10"),
        (4, 4, "rounds=20"),
        (8, 2, "rounds=3"),
    ];
    let tiny = tiny.into_iter().flat_map(|(vcpus, cpus, options)| {
        ["xapic", "x2apic"].map(|mode| {
            Case::bios(format!("smp::tiny_guest_with_{vcpus}_vcpus_on_{cpus}_cpus_{mode}"), move |bench| {
                tiny_guest(bench, vcpus, cpus, &format!("{options} x2apic={}", u32::from(mode == "x2apic")))
            })
        })
    });
    let others = [
        Case::bios("smp::tiny_guest_without_apic_virtualisation", without_apicv),
        Case::bios("smp::two_guests_with_more_vcpus_than_cpus", two_guests),
        Case::bios("smp::a_guest_spins_on_all_its_vcpus", spins_on_all),
        Case::bios("smp::linux_with_4_vcpus_on_2_cpus", linux),
        Case::bios("smp::all_cpus_of_the_machine_are_used", all_cpus),
    ];
    tiny.chain(others).collect()
}

fn tiny(name: &str, vcpus: u32, options: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nimage = \"smp\"\nvcpus = {vcpus}\nmemory = \"8M\"\nquantum = \"2ms\"\n\
         cmdline = \"cpus={vcpus} {options}\"\n"
    )
}

fn tiny_guest(bench: &Bench, vcpus: u32, cpus: u32, options: &str) -> Result<()> {
    let mut session = bench.machine().cpus(cpus).config(&tiny("smp", vcpus, options)).boot()?;
    passes(&mut session, "smp")?;
    session.power_off()
}

fn passes(session: &mut Session, name: &str) -> Result<()> {
    let heard = session.expect(format!("vm {name}: stopped (exit code "))?;
    ensure!(heard.contains(&format!("{name}| verdict: pass")), "{name} ended without passing");
    Ok(())
}

fn without_apicv(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().cpus(2).cpu_model(WITHOUT_APICV).config(&tiny("smp", 4, "rounds=5")).boot()?;
    passes(&mut session, "smp")?;
    session.power_off()
}

/// Eight vCPUs in two VMs on two CPUs, so that vCPUs of one VM are preempted by the other's in the midst of everything.
fn two_guests(bench: &Bench) -> Result<()> {
    let config = tiny("left", 4, "rounds=5") + &tiny("right", 4, "rounds=5 x2apic=1");
    let mut session = bench.machine().cpus(2).config(&config).boot()?;
    let mut heard = String::new();
    while !["left", "right"].iter().all(|name| heard.contains(&format!("vm {name}: stopped"))) {
        heard += &session.expect("\n")?;
    }
    for name in ["left", "right"] {
        ensure!(heard.contains(&format!("vm {name}: stopped (exit code 0)")), "{name} ended without passing");
    }
    session.power_off()
}

fn spins_on_all(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"spin\"\nimage = \"spin\"\nvcpus = 3\nmemory = \"8M\"\ncmdline = \"cpus=3\"\n";
    let mut session = bench.machine().cpus(2).config(config).boot()?;
    session.expect("spin| spin: spinning for ever on 3 CPU(s)")?;
    let stretch = lamina_tests::Stretch::of(&mut session, 2_000_000)?;
    ensure!(stretch.cpus("spin")? > 1.9, "three spinning vCPUs do not fill two CPUs: {stretch:?}");
    let info = reply(&mut session, "vm info spin")?;
    let times: Vec<u64> =
        (0..3).map(|vcpu| number(&info, &format!("/vcpu_rows/{vcpu}/cpu_time_us"))).collect::<Result<_>>()?;
    ensure!(times.iter().all(|time| *time > 1_000_000), "one vCPU hardly ran: {times:?} us");
    session.command("vm stop spin --force")?;
    session.power_off()
}

fn all_cpus(bench: &Bench) -> Result<()> {
    for cpus in [1, 2, 4] {
        let mut session = bench.machine().cpus(cpus).config("").boot()?;
        session.expect(xtask::machine::PROMPT)?;
        let cpu = reply(&mut session, "cpu")?;
        let used = field(&cpu, "/cpus")?.as_array().map_or(0, Vec::len);
        let found = number(&cpu, "/found")?;
        ensure!(used == cpus as usize && found == u64::from(cpus), "{found} CPUs found, {used} used, of {cpus}");
        session.power_off()?;
    }
    Ok(())
}

/// The sums that `seq FROM 20000 | sha256sum` has, for FROM from 1 on; by GNU coreutils.
const SUMS: [&str; 4] = [
    "f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a",
    "748a6b866d84dd14452af0fc272c485708ce97b8bbd0a824ed9463a17c4ddd90",
    "14a4c26e79397224df24aac009ab87d975629c048c1d44194ca01d32ba9fe9d8",
    "ec3a96d901aa6613171e608f6720374144c26b47513e98314b74092ae36ec958",
];

/// Four shells at once, each with a workload of its own whose result is known.
fn linux(bench: &Bench) -> Result<()> {
    let config = format!(
        "[[vm]]\nname = \"linux\"\nimage = \"linux/vmlinux\"\ninitrd = \"linux/initramfs.cpio.gz\"\n\
         cmdline = \"{TUNED}\"\nmemory = \"192M\"\nvcpus = 4\n"
    );
    let mut session = bench.machine().cpus(2).memory_mib(640).many_times_the_work(4).config(&config).boot()?;
    let heard = session.expect("linux| verdict: pass linux shell")?;
    for trouble in ["Kernel panic", "BUG:", "WARNING: CPU", "Call Trace", "rcu: INFO", "soft lockup"] {
        ensure!(!heard.contains(trouble), "Linux said {trouble}");
    }
    attach(&mut session)?;
    let count = ask(&mut session, "busybox nproc")?;
    ensure!(count.lines().next() == Some("4"), "`nproc` answered {count}");
    let online = ask(&mut session, "cat /sys/devices/system/cpu/online")?;
    ensure!(online.lines().next() == Some("0-3"), "not all are online: {online}");
    let before = busy(&mut session)?;
    // Short lines: the shell's line editor breaks long ones.
    ask(&mut session, "w() { seq $1 20000 | busybox sha256sum > /tmp/sum$1; }")?;
    for round in 0..3 {
        let sums = ask(&mut session, "for i in 1 2 3 4; do w $i & done; wait; cat /tmp/sum?")?;
        let found: Vec<&str> = sums.lines().filter_map(|line| line.strip_suffix("  -")).collect();
        ensure!(found == SUMS, "in round {round} the sums are {sums}");
    }
    let after = busy(&mut session)?;
    ensure!(before.len() == 4, "/proc/stat has {} CPUs", before.len());
    for (cpu, (before, after)) in before.iter().zip(&after).enumerate() {
        ensure!(after > before, "CPU {cpu} did nothing of the parallel work");
    }
    session.send_bytes(DETACH)?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    session.power_off()
}

/// User and system time of each CPU so far, in ticks.
fn busy(session: &mut Session) -> Result<Vec<u64>> {
    let stat = ask(session, "grep '^cpu[0-9]' /proc/stat")?;
    let lines = stat.lines().filter(|line| line.starts_with("cpu"));
    let sum = |line: &str| line.split_whitespace().skip(1).take(3).filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(lines.map(sum).collect())
}
