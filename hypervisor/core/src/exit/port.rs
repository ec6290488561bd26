//! IN and OUT. INS and OUTS are in `string_io.rs`.

use super::cpuid::low_half;
use super::{Context, Outcome, RawExit, StopReason, advance, rip, stop_unhandled, string_io};
use crate::bus::Width;
use crate::device::board::PortWrite;
use crate::fault::FaultKind;
use alloc::format;

/// What the exit qualification of an I/O instruction says: SDM volume 3, "Exit Qualification for I/O Instructions".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IoQualification(u64);

impl IoQualification {
    /// Bits 2:0: size of the access, less 1.
    pub(super) const fn width(self) -> Option<Width> {
        match self.0 & 0b111 {
            0 => Some(Width::Byte),
            1 => Some(Width::Word),
            3 => Some(Width::Dword),
            _ => None,
        }
    }

    /// Bit 3: IN or INS.
    pub(super) const fn is_in(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// Bit 4: INS or OUTS.
    const fn is_string(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// Bit 5: with a REP prefix.
    pub(super) const fn is_repeated(self) -> bool {
        self.0 & 1 << 5 != 0
    }

    /// Bits 31:16: the port.
    pub(super) const fn port(self) -> u16 {
        let [_, _, low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

/// Carries out an I/O instruction.
pub(super) fn handle(exit: &RawExit, ctx: &mut Context<'_>) -> Outcome {
    let io = IoQualification(exit.qualification);
    let Some(width) = io.width() else { return stop_unhandled(exit, ctx) };
    if io.is_string() {
        return string_io::handle(exit, io, width, ctx);
    }
    if io.is_in() {
        let value = u64::from(read(ctx, io.port(), width));
        ctx.gprs.rax = match width {
            // "The upper 32 bits of the register are cleared" by a 32-bit result; shorter ones leave the rest.
            Width::Dword | Width::Qword => value,
            Width::Byte | Width::Word => ctx.gprs.rax & !width.mask() | value,
        };
        return Outcome::Advance;
    }
    let value = low_half(ctx.gprs.rax & width.mask());
    let Some(reason) = write(ctx, io.port(), width, value) else { return Outcome::Advance };
    // The device took it: behind it, if the VM is looked at afterwards, or resumed.
    advance(ctx.state, exit.instruction_len);
    Outcome::Stop(reason)
}

/// Reads a port; all-ones where no device is.
pub(super) fn read(ctx: &mut Context<'_>, port: u16, width: Width) -> u32 {
    let all_ones = low_half(width.mask());
    match ctx.board.port_read(port, width, ctx.now) {
        Some(value) => value & all_ones,
        None => {
            ctx.counters.unknown_ports.count(u64::from(port));
            all_ones
        }
    }
}

/// Writes a port; `Some` if that ends the VM.
pub(super) fn write(ctx: &mut Context<'_>, port: u16, width: Width, value: u32) -> Option<StopReason> {
    match ctx.board.port_write(port, width, value, ctx.now) {
        PortWrite::Done => None,
        PortWrite::Unclaimed => {
            ctx.counters.unknown_ports.count(u64::from(port));
            None
        }
        PortWrite::PowerOff => Some(StopReason::PowerOff),
        PortWrite::Reset => Some(StopReason::Reset),
        PortWrite::Exit(code) => Some(StopReason::Exit(code)),
        PortWrite::Panicked => {
            let detail = format!("guest panic: told by the pvpanic port {port:#x}; RIP {:#x}", rip(ctx));
            Some(StopReason::fault(FaultKind::GuestPanic, detail))
        }
    }
}
