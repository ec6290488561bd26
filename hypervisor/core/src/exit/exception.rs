//! Exceptions and NMIs that exit.

use super::raw::{Event, EventKind, Outcome, RawExit};
use super::{Context, stop_unhandled};

/// #PF.
const PAGE_FAULT: u8 = 14;
/// #MC.
const MACHINE_CHECK: u8 = 18;

/// An NMI is the host's and the run loop has seen it. A machine check is the host's too, but the guest's work was in it:
/// the VM ends. Any other exception goes on to the guest, whose it is.
pub(super) fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let event = Event::from_information(exit.interruption_info, exit.interruption_error, exit.instruction_len);
    match event {
        Some(Event { kind: EventKind::Nmi, .. }) => Outcome::Resume,
        Some(Event { kind: EventKind::HardwareException, vector: MACHINE_CHECK, .. }) => {
            super::stop(ctx, "machine check: the hardware reported an error while the guest ran")
        }
        Some(event) => {
            if event.vector == PAGE_FAULT {
                *ctx.cr2 = exit.qualification;
            }
            Outcome::Inject(event)
        }
        None => stop_unhandled(exit, ctx),
    }
}
