//! Control-register accesses that exit: MOV to CR0 and CR4, CLTS, LMSW, and CR8.

use super::{Context, Event, Outcome, RawExit, stop_unhandled};
use crate::device::lapic::ApicMode;
use crate::vmx::GuestField;
use crate::x86::control;
use crate::x86::msr::spec::X2APIC_TPR;

/// Offset of the task-priority register in the APIC page.
const TPR_OFFSET: u16 = 0x80;
/// The number of RSP among the registers of an instruction.
const RSP: u8 = 4;

/// SDM volume 3, "Exit Qualification for Control-Register Accesses": bits 3:0 the register, 5:4 the type of access
/// (0 MOV to CR, 1 MOV from CR, 2 CLTS, 3 LMSW), 11:8 the general-purpose register, 31:16 LMSW's source.
pub(super) fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let [low, high, ..] = exit.qualification.to_le_bytes();
    let (register, access, gpr) = (low & 0xf, low >> 4 & 0b11, high & 0xf);
    let source = if access == 0 { read_gpr(ctx, gpr) } else { 0 };
    let done = match (access, register) {
        (0, 0) => control::write_cr0(ctx.state, ctx.memory, ctx.cpu, source),
        (0, 4) => control::write_cr4(ctx.state, ctx.memory, ctx.cpu, source),
        (0, 8) => write_cr8(ctx, source),
        (1, 8) => {
            let value = read_cr8(ctx);
            write_gpr(ctx, gpr, value);
            Ok(())
        }
        (2, _) => {
            control::clear_task_switched(ctx.state);
            Ok(())
        }
        (3, _) => {
            let source = exit.qualification >> 16 & 0xffff;
            control::load_machine_status_word(ctx.state, ctx.memory, ctx.cpu, source)
        }
        _ => return stop_unhandled(exit, ctx),
    };
    match done {
        Ok(()) => Outcome::Advance,
        Err(event) => Outcome::Inject(event),
    }
}

/// A source register, in the width that MOV CR has in the guest's mode: 64 bits in 64-bit mode, else 32.
fn read_gpr(ctx: &Context<'_>, number: u8) -> u64 {
    let value = match number {
        RSP => ctx.state.read(GuestField::Rsp),
        _ => ctx.gprs.by_number(number).unwrap_or(0),
    };
    if value >> 32 == 0 || crate::insn::CodeMode::of(ctx.state) == crate::insn::CodeMode::Bits64 {
        value
    } else {
        value & 0xffff_ffff
    }
}

fn write_gpr(ctx: &mut Context<'_>, number: u8, value: u64) {
    if number == RSP {
        ctx.state.write(GuestField::Rsp, value);
    } else if let Some(register) = ctx.gprs.by_number_mut(number) {
        *register = value;
    }
}

/// CR8 is the task-priority class: bits 7:4 of the local APIC's TPR.
fn read_cr8(ctx: &mut Context<'_>) -> u64 {
    let tpr = match ctx.apic.mode() {
        ApicMode::X2Apic => ctx.apic.msr_read(X2APIC_TPR, ctx.now).unwrap_or(0),
        ApicMode::XApic => u64::from(ctx.apic.mmio_read(TPR_OFFSET, ctx.now)),
        ApicMode::Disabled => 0,
    };
    tpr >> 4 & 0xf
}

/// "Attempting to write a 1 to any reserved bit in CR8 causes #GP(0)"; a disabled APIC has no task priority to set.
fn write_cr8(ctx: &mut Context<'_>, value: u64) -> Result<(), Event> {
    let Ok(class @ 0..=0xf) = u32::try_from(value) else { return Err(Event::GENERAL_PROTECTION) };
    match ctx.apic.mode() {
        ApicMode::X2Apic => {
            ctx.apic.msr_write(X2APIC_TPR, u64::from(class) << 4, ctx.now).ok_or(Event::GENERAL_PROTECTION)
        }
        ApicMode::XApic => {
            ctx.apic.mmio_write(TPR_OFFSET, class << 4, ctx.now);
            Ok(())
        }
        ApicMode::Disabled => Ok(()),
    }
}
