//! Carrying out an instruction for the guest: one whose operand is a device register in memory.
//!
//! [`emulate`] fetches the bytes at RIP, decodes them (`iced-x86`) and executes them on a [`Machine`]: the guest's
//! registers, its linear address space ([`AddressSpace`]: segmentation, then its own page tables), and a [`Bus`] that
//! knows what is behind a guest-physical address. Files: `mode.rs` (16, 32 or 64 bits), `segment.rs`, `space.rs`,
//! `registers.rs`, `operand.rs`, `alu.rs` (results and flags), `execute.rs` (the instructions), `string.rs` (STOS and
//! its kin).
//!
//! The rule of every instruction: what can fault comes before what changes the guest's state.

mod alu;
mod execute;
mod fetch;
mod mode;
mod operand;
mod registers;
mod segment;
mod space;
mod string;
#[cfg(test)]
mod tests;

pub use execute::Completion;
pub use fetch::{InstructionBytes, warm_up};
pub use mode::{CodeMode, privilege_level};
pub use segment::Segment;
pub use space::AddressSpace;

use crate::bus::Width;
use crate::exit::Event;
use crate::memory::{GuestLinearAddr, GuestMemory, GuestPhysAddr, MemoryError};
use crate::x86::{Gprs, VcpuState};

/// What is behind guest-physical addresses: RAM and device registers.
pub trait Bus {
    /// The VM's RAM, for page tables and instruction bytes.
    fn memory(&self) -> &dyn GuestMemory;

    /// Reads `width` at `gpa`. What is not there reads as all-ones.
    fn read(&mut self, gpa: GuestPhysAddr, width: Width) -> u64;

    /// Writes `width` at `gpa`. What is not there ignores it.
    ///
    /// # Errors
    /// [`MemoryError`] when RAM could not be backed; nothing was written.
    fn write(&mut self, gpa: GuestPhysAddr, width: Width, value: u64) -> Result<(), MemoryError>;
}

/// Why an instruction was not carried out. The guest's registers are as before it, or, for a repeated string
/// instruction, as before the iteration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An exception without an address.
    Exception(Event),
    /// #PF at a linear address, which goes to CR2.
    PageFault {
        /// The address.
        linear: u64,
        /// The error code.
        error_code: u32,
    },
    /// A page table on the way to this address is not in RAM.
    NoPageTable(GuestLinearAddr),
    /// RAM that could not be backed.
    Unbacked(GuestPhysAddr),
    /// The instruction is none of those that are carried out; its bytes.
    Unsupported(InstructionBytes),
}

impl From<Event> for Fault {
    fn from(event: Event) -> Self {
        Self::Exception(event)
    }
}

/// A vCPU as an instruction sees it.
pub struct Machine<'a> {
    /// The part of the registers that is in the VMCS.
    pub state: &'a mut dyn VcpuState,
    /// The general-purpose registers.
    pub gprs: &'a mut Gprs,
    /// RAM and devices.
    pub bus: &'a mut dyn Bus,
    /// The guest's linear addresses.
    pub space: AddressSpace,
}

/// Fetches, decodes and executes the instruction at RIP, and moves RIP behind it when it is complete.
///
/// # Errors
/// [`Fault`].
pub fn emulate(machine: &mut Machine<'_>) -> Result<Completion, Fault> {
    let (instruction, bytes) = fetch::fetch(machine)?;
    let completion = execute::execute(machine, &instruction).map_err(|fault| match fault {
        Fault::Unsupported(_) => Fault::Unsupported(bytes),
        other => other,
    })?;
    match completion {
        Completion::Done => crate::exit::advance(machine.state, bytes.len()),
        Completion::Again => crate::exit::trap_single_step(machine.state),
    }
    Ok(completion)
}
