//! EPT violations: RAM not backed yet, and device registers.

use super::mmio::{self, Reported};
use super::{Context, Outcome, RawExit, crash};
use crate::fault::FaultKind;
use crate::memory::GuestPhysAddr;
use crate::vmx::{ExitReason, GuestField};
use alloc::format;

/// SDM volume 3, "Exit Qualification for EPT Violations".
mod qualification {
    /// A data write (bit 1).
    pub(super) const WRITE: u64 = 1 << 1;
    /// An instruction fetch (bit 2).
    pub(super) const FETCH: u64 = 1 << 2;
    /// The guest-linear address is valid (bit 7).
    pub(super) const LINEAR_VALID: u64 = 1 << 7;
    /// With bit 7: the access was to the translation of the linear address, not to a paging structure (bit 8).
    pub(super) const FINAL: u64 = 1 << 8;
}
/// IDT-vectoring information: valid.
const IN_DELIVERY: u32 = 1 << 31;

/// RAM gets a frame; anything else is a device access, and the instruction is carried out for the guest.
pub(super) fn handle_violation(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let gpa = GuestPhysAddr(exit.guest_physical);
    if ctx.ram.is_ram(gpa) {
        ctx.counters.missed.progress();
        return Outcome::Populate(gpa);
    }
    let said = |bits: u64| exit.qualification & bits == bits;
    if said(qualification::FETCH) {
        return outside_ram("fetched an instruction from", exit, ctx);
    }
    if !said(qualification::LINEAR_VALID | qualification::FINAL) {
        return outside_ram("has a paging structure at", exit, ctx);
    }
    if exit.idt_vectoring_info & IN_DELIVERY != 0 {
        return outside_ram("had an exception or interrupt delivered through a table or stack at", exit, ctx);
    }
    let reported = Reported { linear: exit.guest_linear, gpa, write: said(qualification::WRITE) };
    mmio::emulate(ctx, gpa, Some(reported))
}

/// Whether the exit is an EPT violation of an instruction fetch.
#[must_use]
pub fn is_fetch(exit: &RawExit) -> bool {
    ExitReason::of(exit.reason) == Some(ExitReason::EptViolation) && exit.qualification & qualification::FETCH != 0
}

#[cold]
fn outside_ram(what: &str, exit: &RawExit, ctx: &Context<'_>) -> Outcome {
    let detail = format!(
        "the guest {what} guest-physical address {:#x}, which is not RAM; RIP {:#x}",
        exit.guest_physical,
        ctx.state.read(GuestField::Rip)
    );
    crash(FaultKind::OutsideMemory, detail)
}

/// An EPT entry of ours that no CPU accepts: this VM cannot go on.
pub(super) fn handle_misconfiguration(exit: &RawExit, ctx: &Context<'_>) -> Outcome {
    let detail = format!(
        "EPT misconfiguration: the hypervisor's tables are wrong for guest-physical address {:#x}; RIP {:#x}",
        exit.guest_physical,
        ctx.state.read(GuestField::Rip)
    );
    crash(FaultKind::EptMisconfiguration, detail)
}
