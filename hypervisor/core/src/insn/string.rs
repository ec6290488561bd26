//! STOS, LODS and MOVS, alone and repeated.

use super::alu::DF;
use super::execute::Completion;
use super::operand::{self, unsupported, width};
use super::registers::Gpr;
use super::{Fault, Machine};
use crate::vmx::GuestField;
use crate::x86::paging::AccessKind;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Elements that one exit carries out at most, so that a guest cannot hold the host; then the guest gets the CPU back
/// at the same instruction, and interrupts their turn, as between iterations on hardware.
const MAX_ELEMENTS: u32 = 256;

/// The registers that a string instruction counts and steps, by its address size.
struct Pointers {
    count: Gpr,
    source: Gpr,
    destination: Gpr,
}

impl Pointers {
    fn of(instruction: &Instruction) -> Result<Self, Fault> {
        let kinds = (0..instruction.op_count()).filter_map(|index| instruction.try_op_kind(index).ok());
        let mut registers = None;
        for kind in kinds {
            registers = match kind {
                OpKind::MemorySegSI | OpKind::MemoryESDI => Some([Register::CX, Register::SI, Register::DI]),
                OpKind::MemorySegESI | OpKind::MemoryESEDI => Some([Register::ECX, Register::ESI, Register::EDI]),
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some([Register::RCX, Register::RSI, Register::RDI]),
                _ => registers,
            };
        }
        let gpr = |register: Register| Gpr::of(register).ok_or_else(unsupported);
        let [count, source, destination] = registers.ok_or_else(unsupported)?;
        Ok(Self { count: gpr(count)?, source: gpr(source)?, destination: gpr(destination)? })
    }
}

/// Executes a string instruction.
///
/// # Errors
/// [`Fault`]; the registers then stand at the element that faulted.
pub(super) fn execute(machine: &mut Machine<'_>, instruction: &Instruction) -> Result<Completion, Fault> {
    let steps_source = match instruction.mnemonic() {
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => false,
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => true,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => true,
        _ => return Err(unsupported()),
    };
    // LODS has a register there.
    let steps_destination = instruction.op0_kind() != OpKind::Register;
    let pointers = Pointers::of(instruction)?;
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let element = width(instruction, 0)?;
    let backwards = machine.state.read(GuestField::Rflags) & DF != 0;
    let step = if backwards { element.bytes().wrapping_neg() } else { element.bytes() };

    let elements = if crate::exit::single_steps(machine.state) { 1 } else { MAX_ELEMENTS };
    for _ in 0..elements {
        if repeated && pointers.count.read(machine.gprs, machine.state) == 0 {
            return Ok(Completion::Done);
        }
        let source = operand::find(machine, instruction, 1, AccessKind::Read, 0)?;
        let destination = operand::find(machine, instruction, 0, AccessKind::Write, 0)?;
        let value = source.read(machine);
        destination.write(machine, value)?;
        if steps_source {
            add(machine, pointers.source, step);
        }
        if steps_destination {
            add(machine, pointers.destination, step);
        }
        if !repeated {
            return Ok(Completion::Done);
        }
        add(machine, pointers.count, u64::MAX);
    }
    let left = pointers.count.read(machine.gprs, machine.state);
    Ok(if left == 0 { Completion::Done } else { Completion::Again })
}

fn add(machine: &mut Machine<'_>, register: Gpr, step: u64) {
    let value = register.read(machine.gprs, machine.state).wrapping_add(step);
    register.write(machine.gprs, machine.state, value);
}
