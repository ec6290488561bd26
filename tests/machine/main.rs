//! The whole-machine tests, one file for each behaviour.
#![forbid(unsafe_code)]

mod accounting;
mod alloc;
mod console;
mod faults;
mod hostile;
mod isolation;
mod latency;
mod lifecycle;
mod lifecycle_rounds;
mod linux;
mod panic;
mod preemption;
mod refusals;
mod sched;
mod security;
mod shortage;
mod smp;
mod steal;
mod storms;
mod tiny_guests;
mod watchdog;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        tiny_guests::cases(),
        isolation::cases(),
        panic::cases(),
        faults::cases(),
        hostile::cases(),
        preemption::cases(),
        lifecycle::cases(),
        lifecycle_rounds::cases(),
        sched::cases(),
        latency::cases(),
        steal::cases(),
        storms::cases(),
        alloc::cases(),
        shortage::cases(),
        smp::cases(),
        console::cases(),
        refusals::cases(),
        security::cases(),
        watchdog::cases(),
        linux::cases(),
    ];
    lamina_tests::run(cases.into_iter().flatten().collect()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
