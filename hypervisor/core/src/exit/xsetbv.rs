//! XSETBV. The CPU has checked CPL and CR4.OSXSAVE before it exits.

use super::cpuid::low_half;
use super::{Context, Event, Outcome};

/// Sets the extended control register in ECX to EDX:EAX. Only XCR0 exists.
pub(super) fn handle(ctx: &mut Context<'_>) -> Outcome {
    if low_half(ctx.gprs.rcx) != 0 || ctx.cpu.set_xcr0(ctx.gprs.edx_eax()).is_none() {
        return Outcome::Inject(Event::GENERAL_PROTECTION);
    }
    Outcome::Advance
}
