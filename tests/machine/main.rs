//! The whole-machine tests, one file for each behaviour.
#![forbid(unsafe_code)]

mod console;
mod isolation;
mod lifecycle;
mod linux;
mod preemption;
mod refusals;
mod smp;
mod tiny_guests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cases = [
        tiny_guests::cases(),
        isolation::cases(),
        preemption::cases(),
        lifecycle::cases(),
        console::cases(),
        refusals::cases(),
        smp::cases(),
        linux::cases(),
    ];
    lamina_tests::run(cases.into_iter().flatten().collect()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
