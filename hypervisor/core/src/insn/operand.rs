//! The operands of a decoded instruction: where they are, reading and writing them.

use super::registers::Gpr;
use super::space::Span;
use super::{CodeMode, Fault, Machine, Segment};
use crate::bus::Width;
use crate::x86::paging::AccessKind;
use iced_x86::{Instruction, OpKind, Register};

/// An operand that was found and, if it is in memory, translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operand {
    /// A general-purpose register.
    Register(Gpr),
    /// Memory or a device register.
    Memory(Span),
    /// An immediate, sign-extended as the instruction does.
    Immediate(u64),
}

impl Operand {
    /// Reads it, zero-extended to 64 bits.
    pub(super) fn read(self, machine: &mut Machine<'_>) -> u64 {
        match self {
            Self::Register(gpr) => gpr.read(machine.gprs, machine.state),
            Self::Memory(span) => span.read(machine.bus),
            Self::Immediate(value) => value,
        }
    }

    /// Writes it; an immediate takes nothing.
    pub(super) fn write(self, machine: &mut Machine<'_>, value: u64) -> Result<(), Fault> {
        match self {
            Self::Register(gpr) => gpr.write(machine.gprs, machine.state, value),
            Self::Memory(span) => span.write(machine.bus, value)?,
            Self::Immediate(_) => {}
        }
        Ok(())
    }
}

/// The fault for what is not carried out. The caller of [`super::execute`] puts in the bytes.
pub(super) fn unsupported() -> Fault {
    Fault::Unsupported(super::InstructionBytes::default())
}

/// The width of operand `index`.
pub(super) fn width(instruction: &Instruction, index: u32) -> Result<Width, Fault> {
    let len_bytes = match instruction.try_op_kind(index).map_err(|_| unsupported())? {
        OpKind::Register => instruction.try_op_register(index).map_err(|_| unsupported())?.size(),
        _ => instruction.memory_size().size(),
    };
    Width::from_bytes(len_bytes as u64).ok_or_else(unsupported)
}

/// Finds operand `index`; if it is in memory, translates its address for `access`.
///
/// `displacement` is added to a memory operand's address: BT and its kin reach beyond the operand.
///
/// # Errors
/// What segmentation and paging raise; [`Fault::Unsupported`] for other kinds of operands.
pub(super) fn find(
    machine: &mut Machine<'_>,
    instruction: &Instruction,
    index: u32,
    access: AccessKind,
    displacement: u64,
) -> Result<Operand, Fault> {
    match instruction.try_op_kind(index).map_err(|_| unsupported())? {
        OpKind::Register => {
            let register = instruction.try_op_register(index).map_err(|_| unsupported())?;
            Gpr::of(register).map(Operand::Register).ok_or_else(unsupported)
        }
        OpKind::Memory
        | OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => find_memory(machine, instruction, index, access, displacement).map(Operand::Memory),
        _ => instruction.try_immediate(index).map(Operand::Immediate).map_err(|_| unsupported()),
    }
}

fn find_memory(
    machine: &mut Machine<'_>,
    instruction: &Instruction,
    index: u32,
    access: AccessKind,
    displacement: u64,
) -> Result<Span, Fault> {
    let width = width(instruction, index)?;
    let is_destination_string =
        matches!(instruction.op_kind(index), OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI);
    let register = if is_destination_string { Register::ES } else { instruction.memory_segment() };
    let segment = Segment::of(register).ok_or_else(unsupported)?;
    let (gprs, state) = (&*machine.gprs, &*machine.state);
    // The segment's base is added by `Segment::linear`, which checks the offset first.
    let offset = instruction
        .try_virtual_address(index, 0, |register, _, _| {
            if register.is_segment_register() { Some(0) } else { Gpr::of(register).map(|gpr| gpr.read(gprs, state)) }
        })
        .ok_or_else(unsupported)?;
    let mode = CodeMode::of(state);
    let offset = offset.wrapping_add(displacement) & address_mask(mode, displacement);
    let linear = segment.linear(state, mode, offset, width.bytes(), access == AccessKind::Write)?;
    machine.space.translate_span(machine.bus.memory(), linear, width, access)
}

/// The decoder has cut the offset to its address size; a displacement added afterwards is cut to the mode's.
const fn address_mask(mode: CodeMode, displacement: u64) -> u64 {
    match mode {
        CodeMode::Bits64 => u64::MAX,
        _ if displacement == 0 => u64::MAX,
        CodeMode::Bits32 => 0xffff_ffff,
        CodeMode::Bits16 => 0xffff,
    }
}
