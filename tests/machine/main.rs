//! The whole-machine tests, one file for each behaviour.
#![forbid(unsafe_code)]

mod accounting;
mod alloc;
mod console;
mod hostile;
mod isolation;
mod latency;
mod lifecycle;
mod lifecycle_rounds;
mod linux;
mod preemption;
mod refusals;
mod sched;
mod shortage;
mod smp;
mod steal;
mod tiny_guests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        tiny_guests::cases(),
        isolation::cases(),
        hostile::cases(),
        preemption::cases(),
        lifecycle::cases(),
        lifecycle_rounds::cases(),
        sched::cases(),
        latency::cases(),
        steal::cases(),
        alloc::cases(),
        shortage::cases(),
        smp::cases(),
        console::cases(),
        refusals::cases(),
        linux::cases(),
    ];
    lamina_tests::run(cases.into_iter().flatten().collect()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
