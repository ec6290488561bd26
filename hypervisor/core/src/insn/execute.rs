//! The instructions that are carried out: those with which compilers and operating systems reach device registers.

use super::alu::{self, BitOperation, Operation};
use super::operand::{self, Operand, unsupported, width};
use super::{Fault, Machine, string};
use crate::bus::Width;
use crate::vmx::GuestField;
use crate::x86::paging::AccessKind;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// How far an instruction came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// It is complete.
    Done,
    /// A repeated string instruction did as much as one exit may; RIP stays, and the registers say where it is.
    Again,
}

/// Executes a decoded instruction. RIP is not moved.
///
/// # Errors
/// [`Fault`].
pub(super) fn execute(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<Completion, Fault> {
    if instruction.is_string_instruction() {
        return string::execute(machine, instruction);
    }
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti | Mnemonic::Movzx => copy(machine, instruction, |value, _| value),
        Mnemonic::Movsx | Mnemonic::Movsxd => copy(machine, instruction, alu::sign_extend),
        Mnemonic::Add => binary(machine, instruction, Operation::Add),
        Mnemonic::Adc => binary(machine, instruction, Operation::Adc),
        Mnemonic::Sub => binary(machine, instruction, Operation::Sub),
        Mnemonic::Sbb => binary(machine, instruction, Operation::Sbb),
        Mnemonic::And => binary(machine, instruction, Operation::And),
        Mnemonic::Or => binary(machine, instruction, Operation::Or),
        Mnemonic::Xor => binary(machine, instruction, Operation::Xor),
        Mnemonic::Cmp => compare(machine, instruction, Operation::Sub),
        Mnemonic::Test => compare(machine, instruction, Operation::And),
        Mnemonic::Inc => unary(machine, instruction, alu::increment),
        Mnemonic::Dec => unary(machine, instruction, alu::decrement),
        Mnemonic::Neg => unary(machine, instruction, alu::negate),
        Mnemonic::Not => unary(machine, instruction, |value, _, rflags| alu::Result { value: !value, rflags }),
        Mnemonic::Bt => bit(machine, instruction, BitOperation::Test),
        Mnemonic::Bts => bit(machine, instruction, BitOperation::Set),
        Mnemonic::Btr => bit(machine, instruction, BitOperation::Reset),
        Mnemonic::Btc => bit(machine, instruction, BitOperation::Complement),
        Mnemonic::Xchg => exchange(machine, instruction),
        Mnemonic::Xadd => exchange_add(machine, instruction),
        Mnemonic::Cmpxchg => compare_exchange(machine, instruction),
        Mnemonic::Push => push(machine, instruction),
        _ => Err(unsupported()),
    }?;
    Ok(Completion::Done)
}

fn rflags(machine: &Machine<'_>) -> u64 {
    machine.state.read(GuestField::Rflags)
}

fn set_rflags(machine: &mut Machine<'_>, rflags: u64) {
    machine.state.write(GuestField::Rflags, rflags);
}

/// MOV and the moves that extend: `extend` gets the source and its width.
fn copy(machine: &mut Machine<'_>, instruction: &Instruction, extend: fn(u64, Width) -> u64) -> Result<(), Fault> {
    let source = operand::find(machine, instruction, 1, AccessKind::Read, 0)?;
    let source_width = width(instruction, if matches!(source, Operand::Immediate(_)) { 0 } else { 1 })?;
    let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let value = source.read(machine);
    destination.write(machine, extend(value, source_width))
}

fn binary(machine: &mut Machine<'_>, instruction: &Instruction, operation: Operation) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let source = operand::find(machine, instruction, 1, AccessKind::Read, 0)?;
    let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let (a, b) = (destination.read(machine), source.read(machine));
    let result = alu::binary(operation, a, b, width, rflags(machine));
    destination.write(machine, result.value)?;
    set_rflags(machine, result.rflags);
    Ok(())
}

/// CMP and TEST: the flags of an operation whose result is dropped.
fn compare(machine: &mut Machine<'_>, instruction: &Instruction, operation: Operation) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let second = operand::find(machine, instruction, 1, AccessKind::Read, 0)?;
    let first = operand::find(machine, instruction, 0, AccessKind::Read, 0)?;
    let (a, b) = (first.read(machine), second.read(machine));
    let result = alu::binary(operation, a, b, width, rflags(machine));
    set_rflags(machine, result.rflags);
    Ok(())
}

fn unary(
    machine: &mut Machine<'_>,
    instruction: &Instruction,
    operation: fn(u64, Width, u64) -> alu::Result,
) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let value = destination.read(machine);
    let result = operation(value, width, rflags(machine));
    destination.write(machine, result.value)?;
    set_rflags(machine, result.rflags);
    Ok(())
}

/// BT and its kin. "If the bit base operand specifies a memory location, [...] the bit offset operand" in a register
/// "is signed" and reaches any bit around it; an immediate one is taken modulo the operand size.
fn bit(machine: &mut Machine<'_>, instruction: &Instruction, operation: BitOperation) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let offset = operand::find(machine, instruction, 1, AccessKind::Read, 0)?.read(machine);
    let in_register = instruction.try_op_kind(1).is_ok_and(|kind| kind == OpKind::Register);
    let bits = width.bytes() * 8;
    let displacement = if in_register && instruction.op0_kind() == OpKind::Memory {
        let signed = alu::sign_extend(offset, width).cast_signed();
        (signed >> bits.trailing_zeros()).cast_unsigned().wrapping_mul(width.bytes())
    } else {
        0
    };
    let access = if operation == BitOperation::Test { AccessKind::Read } else { AccessKind::Write };
    let base = operand::find(machine, instruction, 0, access, displacement)?;
    let value = base.read(machine);
    let result = alu::bit(operation, value, offset & (bits - 1), rflags(machine));
    if operation != BitOperation::Test {
        base.write(machine, result.value)?;
    }
    set_rflags(machine, result.rflags);
    Ok(())
}

fn exchange(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<(), Fault> {
    let first = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let second = operand::find(machine, instruction, 1, AccessKind::Write, 0)?;
    let (a, b) = (first.read(machine), second.read(machine));
    // The operand in memory is written first: its write is the one that can fail.
    if matches!(second, Operand::Memory(_)) {
        second.write(machine, a)?;
        return first.write(machine, b);
    }
    first.write(machine, b)?;
    second.write(machine, a)
}

/// XADD: the destination takes the sum, the source what the destination was.
fn exchange_add(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let source = operand::find(machine, instruction, 1, AccessKind::Write, 0)?;
    let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let (a, b) = (destination.read(machine), source.read(machine));
    let result = alu::binary(Operation::Add, a, b, width, rflags(machine));
    if matches!(destination, Operand::Memory(_)) {
        destination.write(machine, result.value)?;
        source.write(machine, a)?;
    } else {
        // Of a register with itself, the sum remains.
        source.write(machine, a)?;
        destination.write(machine, result.value)?;
    }
    set_rflags(machine, result.rflags);
    Ok(())
}

/// CMPXCHG. "The processor never produces a locked read without also producing a locked write": the destination is
/// written back when the comparison fails.
fn compare_exchange(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<(), Fault> {
    let width = width(instruction, 0)?;
    let source = operand::find(machine, instruction, 1, AccessKind::Read, 0)?;
    let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
    let accumulator = super::registers::Gpr::of(match width {
        Width::Byte => Register::AL,
        Width::Word => Register::AX,
        Width::Dword => Register::EAX,
        Width::Qword => Register::RAX,
    })
    .ok_or_else(unsupported)?;
    let current = destination.read(machine);
    let expected = accumulator.read(machine.gprs, machine.state);
    let new = source.read(machine);
    let result = alu::binary(Operation::Sub, expected, current, width, rflags(machine));
    let equal = result.rflags & alu::ZF != 0;
    destination.write(machine, if equal { new } else { current })?;
    if !equal {
        accumulator.write(machine.gprs, machine.state, current);
    }
    set_rflags(machine, result.rflags);
    Ok(())
}

/// PUSH of a memory operand, onto a stack in RAM.
fn push(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<(), Fault> {
    use super::{CodeMode, Segment};
    let width = width(instruction, 0)?;
    let source = operand::find(machine, instruction, 0, AccessKind::Read, 0)?;
    let mode = CodeMode::of(machine.state);
    // The stack's address size: 64 bits in 64-bit mode, else the B flag of SS.
    let mask = match mode {
        CodeMode::Bits64 => u64::MAX,
        _ if machine.state.read(GuestField::SsAccessRights) & 1 << 14 != 0 => 0xffff_ffff,
        _ => 0xffff,
    };
    let old = machine.state.read(GuestField::Rsp);
    let top = old.wrapping_sub(width.bytes()) & mask;
    let linear = Segment::Ss.linear(machine.state, mode, top, width.bytes(), true)?;
    let stack = machine.space.translate_span(machine.bus.memory(), linear, width, AccessKind::Write)?;
    let value = source.read(machine);
    stack.write(machine.bus, value)?;
    machine.state.write(GuestField::Rsp, old & !mask | top);
    Ok(())
}
