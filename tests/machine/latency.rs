//! How soon a guest runs that an interrupt has woken, while others hold every CPU.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, number, reply, row};

use crate::sched;

/// A waker of the highest priority runs at once, on a CPU that is taken from another guest: within a kick and a switch.
/// Bochs takes some thousand instructions, at 20 ns each, for both.
const PREEMPTION_BOUND_US: u64 = 500;
/// Under `fair` a waker whose weight is due more than it uses is never further from the CPU than one slice.
const FAIR_BOUND_US: u64 = 11_000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::bios("sched::a_waker_of_high_priority_runs_at_once_on_2_cpus", |bench| {
            waker_runs(bench, 2, "priority", PREEMPTION_BOUND_US)
        }),
        Case::bios("sched::a_waker_of_high_priority_runs_at_once_on_4_cpus", |bench| {
            waker_runs(bench, 4, "priority", PREEMPTION_BOUND_US)
        }),
        Case::bios("sched::an_interactive_waker_runs_soon_under_fair", |bench| {
            waker_runs(bench, 2, "fair", FAIR_BOUND_US)
        }),
    ]
}

/// Twice as many spinning guests as CPUs, and one that sleeps 5 ms, computes a little, and sleeps again. The bound is held
/// against what the guest itself measures, and against what the hypervisor does. The spinning ones have interrupts enabled: Bochs 2.7
/// takes a CPU out of a guest for another CPU's interrupt only then.
fn waker_runs(bench: &Bench, cpus: u32, policy: &str, bound_us: u64) -> Result<()> {
    let mut config = format!("[host]\nsched_policy = \"{policy}\"\n");
    for index in 0..2 * cpus {
        config += &format!(
            "[[vm]]\nname = \"spin-{index}\"\nimage = \"spin\"\nmemory = \"4M\"\npriority = 10\nquantum = \"10ms\"\n\
             cmdline = \"interrupts=1\"\n"
        );
    }
    config += &format!(
        "[[vm]]\nname = \"waker\"\nimage = \"waker\"\nmemory = \"4M\"\npriority = 99\nautostart = false\n\
         cmdline = \"wakes=400 work_us=100 bound_us={bound_us}\"\n"
    );
    let mut session = sched::settled(bench, cpus, &config)?;
    session.send("vm start waker")?;
    let heard = session.expect("vm waker: stopped (exit code ")?;
    ensure!(heard.contains("waker| verdict: pass"), "the waker did not run within {bound_us} us each time: {heard}");
    let sched = reply(&mut session, "sched")?;
    let wakeup = row(&sched, "/vms", "vm", "waker")?;
    let (count, max_ns) = (number(wakeup, "/wakeup/count")?, number(wakeup, "/wakeup/max_ns")?);
    ensure!(count >= 300, "only {count} of the waker's 400 wake-ups were counted: {wakeup}");
    ensure!(max_ns <= bound_us * 1000, "a wake-up took {max_ns} ns, the bound is {bound_us} us: {wakeup}");
    session.power_off()
}
