//! INS and OUTS, alone and repeated.
//!
//! The VM exit comes before the checks of the memory operand ("have priority over [...] a general-protection fault due
//! to the relevant segment [...], an alignment-check exception"; page faults are later still), so they are made here.

use super::cpuid::low_half;
use super::port::{self, IoQualification};
use super::{Context, Outcome, RawExit, advance, mmio, single_steps, stop_unhandled, trap_single_step};
use crate::bus::Width;
use crate::insn::{AddressSpace, CodeMode, Fault, Segment};
use crate::memory::{GuestPhysAddr, MemoryError};
use crate::vmx::GuestField;
use crate::x86::paging::AccessKind;

/// Elements that one exit transfers at most, so that a guest cannot hold the host.
const MAX_ELEMENTS: u32 = 256;
/// RFLAGS: direction.
const DF: u64 = 1 << 10;

/// One INS or OUTS, as far as it is the same for all its elements.
struct Transfer {
    io: IoQualification,
    width: Width,
    segment: Segment,
    mode: CodeMode,
    /// The bits of RCX, RSI and RDI that the address size uses.
    mask: u64,
    /// What an element adds to RSI or RDI.
    step: u64,
}

impl Transfer {
    /// SDM volume 3, "Format of the VM-Exit Instruction-Information Field as Used for INS and OUTS": bits 9:7 the address
    /// size, bits 17:15 the segment (OUTS alone; INS always uses ES).
    fn decode(exit: &RawExit, io: IoQualification, width: Width, ctx: &Context<'_>) -> Option<Self> {
        let mask = match exit.instruction_info >> 7 & 0b111 {
            0 => 0xffff,
            1 => 0xffff_ffff,
            2 => u64::MAX,
            _ => return None,
        };
        let segment = if io.is_in() { Segment::Es } else { Segment::from_number(exit.instruction_info >> 15 & 0b111)? };
        let backwards = ctx.state.read(GuestField::Rflags) & DF != 0;
        let step = if backwards { width.bytes().wrapping_neg() } else { width.bytes() };
        Some(Self { io, width, segment, mode: CodeMode::of(ctx.state), mask, step })
    }

    /// The bits of a register that the address size uses.
    const fn used(&self, register: u64) -> u64 {
        register & self.mask
    }

    /// `register` plus `step`, by the rules of its part: 32-bit results clear the upper half, 16-bit ones leave the rest.
    const fn stepped(&self, register: u64, step: u64) -> u64 {
        let result = register.wrapping_add(step) & self.mask;
        if self.mask == 0xffff { register & !0xffff | result } else { result }
    }
}

/// Transfers up to [`MAX_ELEMENTS`]; RIP stays while some are left.
pub(super) fn handle(exit: &RawExit, io: IoQualification, width: Width, ctx: &mut Context<'_>) -> Outcome {
    let Some(transfer) = Transfer::decode(exit, io, width, ctx) else { return stop_unhandled(exit, ctx) };
    let mut space = AddressSpace::of(ctx.state, ctx.cpu.cpuid.physical_bits());
    let elements = if single_steps(ctx.state) { 1 } else { MAX_ELEMENTS };
    for _ in 0..elements {
        if io.is_repeated() && transfer.used(ctx.gprs.rcx) == 0 {
            return Outcome::Advance;
        }
        match element(&transfer, &mut space, ctx) {
            Ok(None) => {}
            Ok(Some(reason)) => {
                // The device took the element: behind it, if the VM is looked at afterwards.
                advance(ctx.state, exit.instruction_len);
                return Outcome::Stop(reason);
            }
            Err(fault) => return mmio::outcome_of(fault, ctx, GuestPhysAddr(0)),
        }
        let pointer = if io.is_in() { &mut ctx.gprs.rdi } else { &mut ctx.gprs.rsi };
        *pointer = transfer.stepped(*pointer, transfer.step);
        if !io.is_repeated() {
            return Outcome::Advance;
        }
        ctx.gprs.rcx = transfer.stepped(ctx.gprs.rcx, u64::MAX);
    }
    if transfer.used(ctx.gprs.rcx) == 0 {
        return Outcome::Advance;
    }
    trap_single_step(ctx.state);
    Outcome::Resume
}

/// Transfers one element. The memory is found before the port is touched, for a port may do something when it is read.
fn element(
    transfer: &Transfer,
    space: &mut AddressSpace,
    ctx: &mut Context<'_>,
) -> Result<Option<super::StopReason>, Fault> {
    let Transfer { io, width, segment, mode, .. } = *transfer;
    let (pointer, access) =
        if io.is_in() { (ctx.gprs.rdi, AccessKind::Write) } else { (ctx.gprs.rsi, AccessKind::Read) };
    let linear = segment.linear(ctx.state, mode, transfer.used(pointer), width.bytes(), io.is_in())?;
    let span = space.translate_span(ctx.memory, linear, width, access)?;
    let mut bytes = [0; 4];
    if io.is_in() {
        bytes = port::read(ctx, io.port(), width).to_le_bytes();
        for (gpa, range) in span.pieces() {
            // Where no RAM is (device registers, holes), string input is lost.
            if let Some(Err(MemoryError::OutOfFrames { .. })) =
                bytes.get(range).map(|piece| ctx.memory.write(gpa, piece))
            {
                return Err(Fault::Unbacked(gpa));
            }
        }
        return Ok(None);
    }
    for (gpa, range) in span.pieces() {
        if let Some(piece) = bytes.get_mut(range)
            && ctx.memory.read(gpa, piece).is_err()
        {
            piece.fill(0xff);
        }
    }
    let value = u32::from_le_bytes(bytes) & low_half(width.mask());
    Ok(port::write(ctx, io.port(), width, value))
}
