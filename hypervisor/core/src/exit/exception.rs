//! Exceptions and NMIs that exit.

use super::raw::{Event, EventKind, Outcome, RawExit};
use super::{Context, stop_unhandled};
use crate::fault::FaultKind;
use crate::vmx::GuestField;
use crate::x86::VcpuState;

/// #DB.
const DEBUG: u8 = 1;
/// #PF.
const PAGE_FAULT: u8 = 14;
/// #MC.
const MACHINE_CHECK: u8 = 18;

/// What a #DB does to the processor besides DR6, and what its VM exit has left undone: "the processor does not [...] clear DR7.GD or
/// IA32_DEBUGCTL.LBR" (SDM volume 3, "Architectural State Before a VM Exit"). DR6, which is in no VMCS field, is the run loop's.
fn take_debug_exception(state: &mut dyn VcpuState) {
    const GENERAL_DETECT: u64 = 1 << 13;
    const LBR: u64 = 1;
    const TRAP_FLAG: u64 = 1 << 8;
    const BLOCKING_BY_STI_OR_MOV_SS: u64 = 0b11;
    const SINGLE_STEP: u64 = 1 << 14;
    let dr7 = state.read(GuestField::Dr7);
    state.write(GuestField::Dr7, dr7 & !GENERAL_DETECT);
    let debugctl = state.read(GuestField::Ia32Debugctl);
    state.write(GuestField::Ia32Debugctl, debugctl & !LBR);
    // VM entry insists that a guest which single-steps behind STI or MOV SS has its single-step trap pending ("Checks on Guest
    // Non-Register State"), and the exit has not recorded it.
    if state.read(GuestField::Rflags) & TRAP_FLAG != 0
        && state.read(GuestField::InterruptibilityState) & BLOCKING_BY_STI_OR_MOV_SS != 0
    {
        let pending = state.read(GuestField::PendingDebugExceptions);
        state.write(GuestField::PendingDebugExceptions, pending | SINGLE_STEP);
    }
}

/// An NMI is the host's and has been seen to. A machine check is the host's too, but the guest's work was in it:
/// the VM ends. Any other exception goes on to the guest, whose it is.
pub(super) fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let event = Event::from_information(exit.interruption_info, exit.interruption_error, exit.instruction_len);
    match event {
        Some(Event { kind: EventKind::Nmi, .. }) => Outcome::Resume,
        Some(Event { kind: EventKind::HardwareException, vector: MACHINE_CHECK, .. }) => super::stop(
            ctx,
            FaultKind::MachineCheck,
            "machine check: the hardware reported an error while the guest ran",
        ),
        Some(event) => {
            if event.vector == PAGE_FAULT {
                *ctx.cr2 = exit.qualification;
            } else if event.vector == DEBUG && event.kind == EventKind::HardwareException {
                take_debug_exception(ctx.state);
            }
            Outcome::Inject(event)
        }
        None => stop_unhandled(exit, ctx),
    }
}
