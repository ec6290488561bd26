//! Does whatever a guest can do to hurt the host or its neighbours, at random but reproducible: instruction bytes, privileged
//! and VMX instructions, storms on ports, device memory and MSRs, garbage in control registers, descriptor tables, page
//! tables and interrupt controllers, self-modifying code, floods of interrupts between its CPUs, in every mode of the CPU.
//!
//! A step is a theme and [`SNIPPETS_PER_STEP`] short pieces of code made up for it. What a CPU does in a step follows from the
//! seed, the CPU and the step alone, so `seed=N first=STEP steps=1` does one step again. A piece that faults is left (see
//! `sandbox.rs`); one that ruins the guest for good, by a triple fault or an endless loop with interrupts off, is as
//! welcome: it is the host that is tested.
//!
//! Command line: `seed=N` (1), `first=N` (0) the first step, `steps=N` (64) how many. Each of up to two CPUs does them, the
//! second one until the first has ended. Needs 8 MiB.
//! Expected: `verdict: pass hostile: ...`, or any other end of this VM alone.
#![no_std]
#![no_main]

mod devices;
mod instructions;
mod interrupts;
mod legacy;
mod paging;
mod plan;
mod random;
mod registers;
mod sandbox;
mod tables;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use guest::boot_info::option;
use guest::{guest_main, pass, pic, println, serial, smp};

use crate::plan::Plan;
use crate::random::Random;

guest_main!(main);

/// How many pieces of code a step runs.
const SNIPPETS_PER_STEP: u32 = 16;
/// How many CPUs take part at most.
const CPUS: usize = 2;

/// How many other CPUs are in their sandbox.
static ENTERED: AtomicUsize = AtomicUsize::new(0);
/// The first step has begun.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// Makes up a piece of code.
type Theme = fn(&mut Random) -> Plan;

const THEMES: [(&str, Theme); 12] = [
    ("bytes", instructions::any_bytes),
    ("privileged", instructions::privileged),
    ("vmx", instructions::vmx),
    ("self-modifying", instructions::self_modifying),
    ("ports", devices::ports),
    ("device memory", devices::memory),
    ("MSRs", registers::msrs),
    ("control registers", registers::control),
    ("descriptor tables", registers::descriptors),
    ("page tables", paging::mutated),
    ("interrupt controllers", interrupts::controllers),
    ("interrupt flood", interrupts::flood),
];

fn main() {
    let count = smp::find().min(CPUS);
    for index in 1..count {
        smp::start(index, other_cpu);
    }
    let (first, steps) = (option("first").unwrap_or(0), option("steps").unwrap_or(64));
    println!("hostile: seed {} on {count} CPUs, steps {first} to {}", seed(), first.saturating_add(steps));
    // The NMIs of CPU 0's watchdog go to all.
    while ENTERED.load(Relaxed) < count - 1 {
        core::hint::spin_loop();
    }
    sandbox::enter(0);
    for step in first..first.saturating_add(steps) {
        do_step(0, step);
    }
    serial::init();
    pass!("seed {}: {steps} steps from {first} on", seed());
}

/// The life of the second CPU.
fn other_cpu(index: usize) -> ! {
    sandbox::enter(index);
    ENTERED.fetch_add(1, Relaxed);
    // Once the first CPU has said what it begins with.
    while !BEGUN.load(Relaxed) {
        core::hint::spin_loop();
    }
    let mut step = option("first").unwrap_or(0);
    loop {
        do_step(index, step);
        step = step.wrapping_add(1);
    }
}

fn seed() -> u64 {
    option("seed").unwrap_or(1)
}

fn do_step(cpu: usize, step: u64) {
    let mut random = Random::new(seed(), cpu, step);
    let (name, theme) = THEMES[random.below(THEMES.len())];
    if cpu == 0 {
        // The line may be in any state.
        serial::init();
        println!("hostile: seed {} step {step}: {name}", seed());
        BEGUN.store(true, Relaxed);
    }
    for _ in 0..SNIPPETS_PER_STEP {
        let plan = theme(&mut random);
        sandbox::run(cpu, &plan);
    }
    tables::rebuild();
    pic::init();
    sandbox::calm(cpu);
}
