//! Exits of the CPU's APIC virtualisation: accesses it cannot virtualise, writes it has carried out, and EOIs.

use super::mmio::{self, APIC_PAGE};
use super::{Context, Outcome, RawExit, stop, stop_unhandled};
use crate::device::board::Board;
use crate::device::lapic::LocalApic;
use crate::fault::FaultKind;
use crate::memory::GuestPhysAddr;

/// Access types of an APIC access: SDM volume 3, "Exit Qualification for APIC-Access VM Exits from Linear Accesses and
/// Guest-Physical Accesses".
const LINEAR_READ: u64 = 0;
const LINEAR_WRITE: u64 = 1;
const LINEAR_FETCH: u64 = 2;
const LINEAR_IN_DELIVERY: u64 = 3;
const PHYSICAL_IN_DELIVERY: u64 = 10;

/// An access to the APIC page that the CPU does not virtualise (bits 11:0 the offset, bits 15:12 the type).
pub(super) fn handle_access(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    match exit.qualification >> 12 & 0xf {
        // The exit does not tell the linear address: the guest's page tables are walked for it.
        LINEAR_READ | LINEAR_WRITE => mmio::emulate(ctx, GuestPhysAddr(APIC_PAGE.0 | exit.qualification & 0xfff), None),
        LINEAR_FETCH => {
            stop(ctx, FaultKind::OutsideMemory, "the guest fetched an instruction from the local APIC's page")
        }
        LINEAR_IN_DELIVERY | PHYSICAL_IN_DELIVERY => stop(
            ctx,
            FaultKind::OutsideMemory,
            "the guest had an exception or interrupt delivered through a table or stack in the local APIC's page",
        ),
        _ => stop_unhandled(exit, ctx),
    }
}

/// "APIC-write VM exits are trap-like": the value is in the page and RIP behind the instruction.
pub(super) fn handle_write(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let [low, high, ..] = (exit.qualification & 0xfff).to_le_bytes();
    ctx.apic.after_write(u16::from_le_bytes([low, high]), ctx.now);
    pass_eoi_on(ctx.apic, ctx.board);
    Outcome::Resume
}

/// The CPU ended an interrupt whose EOI others wait for. Trap-like as well.
pub(super) fn handle_eoi(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let [vector, ..] = exit.qualification.to_le_bytes();
    ctx.apic.eoi(vector);
    pass_eoi_on(ctx.apic, ctx.board);
    Outcome::Resume
}

/// Tells the I/O APIC of the end of a level-triggered interrupt, if there was one.
pub(super) fn pass_eoi_on(apic: &mut LocalApic, board: &mut Board) {
    if let Some(vector) = apic.take_eoi() {
        board.ioapic_eoi(vector);
    }
}
