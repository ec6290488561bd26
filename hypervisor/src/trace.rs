//! Exits printed as records (`vm trace`), to be replayed on another machine (`lamina_core::exit::replay`).

use crate::logger;
use alloc::format;
use core::cell::RefCell;
use lamina_core::exit::replay::Setting;
use lamina_core::exit::{Context, Outcome, RawExit, recorder};
use lamina_core::x86::CpuState;
use lamina_core::x86::cpuid::CpuidConfig;
use lamina_hw::cpu;

/// What each line of a recording begins with, to tell it from what else is on the console.
const PREFIX: &str = "trace| ";

/// Prints what the recorded machine is: the first lines of a recording.
pub(crate) fn print_setting(setting: &Setting, config: CpuidConfig) {
    let asked = RefCell::new(setting.clone());
    let ask = |leaf, subleaf| {
        let answer = cpu::cpuid(leaf, subleaf);
        let host = &mut asked.borrow_mut().host;
        if host.iter().all(|(number, _)| *number != (leaf, subleaf)) {
            host.push(((leaf, subleaf), answer));
        }
        answer
    };
    // The same questions as for the guest itself; the answers are the host's, which does not change.
    let _ = CpuState::new(&ask, config, 0);
    for line in format!("{}", asked.into_inner()).lines() {
        logger::print(&format!("{PREFIX}{line}\n"));
    }
}

/// Handles an exit, and prints it where a record says something. `left` counts down to 0.
#[cold]
pub(crate) fn handle(exit: &RawExit, ctx: &mut Context<'_>, left: &mut u32) -> Outcome {
    let (outcome, record) = recorder::handle(exit, ctx);
    if recorder::is_worth_recording(exit) {
        *left = left.saturating_sub(1);
        logger::print(&format!("{PREFIX}{record}\n"));
    }
    outcome
}
