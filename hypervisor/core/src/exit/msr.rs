//! RDMSR and WRMSR.

use super::cpuid::low_half;
use super::{Context, Event, Outcome};
use crate::x86::msr::spec::{
    IA32_APIC_BASE, IA32_TSC, IA32_TSC_ADJUST, IA32_TSC_DEADLINE, X2APIC_FIRST, X2APIC_RESERVED_LAST,
};
use crate::x86::msr::{self, MsrFault};

/// RDMSR of the MSR in ECX to EDX:EAX.
pub(super) fn handle_read(ctx: &mut Context<'_>) -> Outcome {
    let number = low_half(ctx.gprs.rcx);
    let value = match number {
        IA32_APIC_BASE => Ok(ctx.apic.base_msr()),
        IA32_TSC_DEADLINE => read_deadline(ctx),
        X2APIC_FIRST..=X2APIC_RESERVED_LAST => ctx.apic.msr_read(number, ctx.now).ok_or(MsrFault::Refused),
        _ => msr::read(ctx.cpu, ctx.state, number, ctx.now),
    };
    match value {
        Ok(value) => {
            ctx.gprs.set_edx_eax(value);
            Outcome::Advance
        }
        Err(fault) => refuse(ctx, number, fault),
    }
}

/// WRMSR of EDX:EAX to the MSR in ECX.
pub(super) fn handle_write(ctx: &mut Context<'_>) -> Outcome {
    let number = low_half(ctx.gprs.rcx);
    let value = ctx.gprs.edx_eax();
    let done = match number {
        IA32_TSC_DEADLINE => write_deadline(ctx, value),
        X2APIC_FIRST..=X2APIC_RESERVED_LAST => {
            let done = ctx.apic.msr_write(number, value, ctx.now).ok_or(MsrFault::Refused);
            super::apic::pass_eoi_on(ctx.apic, ctx.board);
            done
        }
        IA32_APIC_BASE => {
            let done = ctx.apic.set_base_msr(value).ok_or(MsrFault::Refused);
            ctx.cpu.apic_mode_changed();
            done
        }
        IA32_TSC | IA32_TSC_ADJUST => write_tsc(ctx, number, value),
        _ => msr::write(ctx.cpu, ctx.state, number, value, ctx.now),
    };
    match done {
        Ok(()) => Outcome::Advance,
        Err(fault) => refuse(ctx, number, fault),
    }
}

/// The guest's deadline is in its own TSC, the APIC's in the guest clock; between them lies what the guest added to its
/// TSC. 0 is "disarmed" in both.
fn read_deadline(ctx: &Context<'_>) -> Result<u64, MsrFault> {
    match ctx.apic.msr_read(IA32_TSC_DEADLINE, ctx.now) {
        Some(0) => Ok(0),
        Some(deadline) => Ok(deadline.wrapping_add(ctx.cpu.tsc_adjust())),
        None => Err(MsrFault::Refused),
    }
}

/// An armed deadline is a value of the guest's TSC: when that is set, the deadline comes nearer or moves away.
fn write_tsc(ctx: &mut Context<'_>, number: u32, value: u64) -> Result<(), MsrFault> {
    let armed = read_deadline(ctx).unwrap_or(0);
    msr::write(ctx.cpu, ctx.state, number, value, ctx.now)?;
    if armed == 0 { Ok(()) } else { write_deadline(ctx, armed) }
}

fn write_deadline(ctx: &mut Context<'_>, value: u64) -> Result<(), MsrFault> {
    let deadline = match (value, ctx.cpu.tsc_adjust()) {
        (0, _) => 0,
        // A deadline before the guest clock's zero has passed: 1 has passed as well, and arms.
        (value, adjust) if adjust != 0 => deadline_on_guest_clock(value, adjust, ctx.now),
        (value, _) => value,
    };
    ctx.apic.msr_write(IA32_TSC_DEADLINE, deadline, ctx.now).ok_or(MsrFault::Refused)
}

/// `value` is compared with `now + adjust` (wrapping) by the guest's rules, unsigned: a deadline not above the guest's
/// TSC has passed.
fn deadline_on_guest_clock(value: u64, adjust: u64, now: u64) -> u64 {
    let tsc = now.wrapping_add(adjust);
    match value.checked_sub(tsc) {
        Some(ahead) => now.saturating_add(ahead).max(1),
        None => 1,
    }
}

/// #GP(0); an MSR that does not exist is counted.
fn refuse(ctx: &mut Context<'_>, number: u32, fault: MsrFault) -> Outcome {
    if fault == MsrFault::Unknown {
        ctx.counters.unknown_msrs.count(u64::from(number));
    }
    Outcome::Inject(Event::GENERAL_PROTECTION)
}
