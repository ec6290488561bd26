//! A stock Debian kernel: unpacked and started by PVH with a tuned command line, and as the bzImage it comes as.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, Session};
use regex::Regex;

/// Leaves out what makes a boot long under an emulator and shows nothing: the crypto self-tests and the tracers.
pub(crate) const TUNED: &str = "console=ttyS0 loglevel=4 cryptomgr.notests initcall_blacklist=trace_eval_init,\
    tracer_init_tracefs,trace_eval_sync,init_trace_printk,init_trace_printk_function_export,init_blk_tracer,\
    init_kprobe_trace,init_uprobe_trace,event_trace_enable_again";

/// Ctrl-]
pub(crate) const DETACH: &[u8] = b"\x1d";

pub(crate) const SHELL: &str = "linux# ";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("linux::pvh_reaches_a_shell_that_answers", pvh_shell),
        Case::bios("linux::bzimage_with_its_default_command_line", bzimage),
        Case::bios("linux::beside_a_spinning_guest", beside_spin),
    ]
}

fn config(image: &str, cmdline: &str, others: &str) -> String {
    format!(
        "[[vm]]\nname = \"linux\"\nimage = \"{image}\"\n\
         initrd = \"linux/initramfs.cpio.gz\"\ncmdline = \"{cmdline}\"\nmemory = \"128M\"\nquantum = \"20ms\"\n{others}"
    )
}

/// Attaches to the console of the VM called `linux`, whose shell may not have begun to read yet: what is typed until then is
/// echoed twice, and prompts pile up. Behind the answer to a command there is one.
pub(crate) fn attach(session: &mut Session) -> Result<()> {
    session.send("vm console linux")?;
    session.send("echo rea''dy")?;
    session.expect("ready\n")?;
    session.expect(SHELL)?;
    Ok(())
}

/// Runs the command in the shell that [`attach`] found.
pub(crate) fn ask(session: &mut Session, command: &str) -> Result<String> {
    session.send(command)?;
    session.expect(format!("{command}\n"))?;
    session.expect(SHELL)
}

fn pvh_shell(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().memory_mib(640).config(&config("linux/vmlinux", TUNED, "")).boot()?;
    session.expect("linux| verdict: pass linux shell")?;
    attach(&mut session)?;
    let uname = ask(&mut session, "uname -a")?;
    ensure!(uname.contains("Linux") && uname.contains("Debian"), "`uname -a` answered {uname}");
    let cpuinfo = ask(&mut session, "cat /proc/cpuinfo")?;
    ensure!(cpuinfo.contains("processor\t: 0"), "`cat /proc/cpuinfo` answered {cpuinfo}");
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    ensure!(flags.contains(" hypervisor"), "Linux does not see that it is a guest: {flags}");
    ensure!(!flags.contains(" vmx"), "VT-x is not hidden from the guest: {flags}");
    // KVM's leaves are found, and Linux believes nothing of them that is not there.
    let log = ask(&mut session, "busybox dmesg")?;
    for told in ["Hypervisor detected: KVM", "x2apic enabled", "tsc: Detected"] {
        ensure!(log.contains(told), "Linux did not say {told:?}: {log}");
    }
    for trouble in ["kvm-clock: Using", "unchecked MSR access", "clocksource: Marking", "Call Trace"] {
        ensure!(!log.contains(trouble), "Linux said {trouble:?}: {log}");
    }
    session.send("poweroff -f")?;
    session.expect(Regex::new(r"vm linux: stopped")?)?;
    session.send_bytes(DETACH)?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    session.power_off()
}

fn bzimage(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().memory_mib(640).config(&config("linux/vmlinuz", "console=ttyS0", "")).boot()?;
    let heard = session.expect("linux| verdict: pass linux shell")?;
    for trouble in ["Kernel panic", "BUG:", "WARNING: CPU", "Call Trace"] {
        ensure!(!heard.contains(trouble), "Linux said {trouble}");
    }
    session.power_off()
}

fn beside_spin(bench: &Bench) -> Result<()> {
    let spin = "[[vm]]\nname = \"spin\"\nimage = \"spin\"\nmemory = \"4M\"\nquantum = \"1ms\"\n";
    let mut session = bench.machine().memory_mib(640).config(&config("linux/vmlinux", TUNED, spin)).boot()?;
    session.expect("linux| verdict: pass linux shell")?;
    let list = session.command("vm list")?;
    ensure!(list.matches("running").count() == 2, "not both run: {list}");
    attach(&mut session)?;
    accounts_for_stolen_time(&mut session)?;
    session.send_bytes(DETACH)?;
    session.send("")?;
    session.expect(xtask::machine::PROMPT)?;
    session.power_off()
}

/// Half of the time that Linux computed for was the other guest's, and it knows: "steal: time spent in other operating systems
/// when running in a virtualized environment" is the eighth number of `cpu` in `/proc/stat`.
fn accounts_for_stolen_time(session: &mut Session) -> Result<()> {
    let stat = ask(session, "grep '^cpu ' /proc/stat")?;
    let ticks: Vec<u64> = stat.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat has {stat}");
    };
    let computed = user + nice + system + irq + softirq;
    let share = *steal as f64 / (computed + steal) as f64;
    ensure!(
        (0.25..0.75).contains(&share),
        "Linux computed for {computed} ticks and was kept waiting for {steal}: {stat}"
    );
    Ok(())
}
