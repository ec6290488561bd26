//! From RIP to a decoded instruction.

use super::{CodeMode, Fault, Machine};
use crate::memory::{GuestPhysAddr, PAGE_SIZE};
use crate::vmx::GuestField;
use crate::x86::paging::AccessKind;
use core::fmt;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// "The maximum length of an instruction is 15 bytes."
const MAX_LEN: usize = 15;

/// The bytes of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct InstructionBytes {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl InstructionBytes {
    /// The length of the instruction.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len as u32
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Display for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.as_slice().iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// Makes the decoder build its tables, which takes long and allocates: to be called once at boot, so that the first
/// device access of a guest does not pay for it. Returns whether the decoder works.
#[must_use]
pub fn warm_up() -> bool {
    let Ok(mut decoder) = Decoder::try_with_ip(64, &[0x8b, 0x03], 0, DecoderOptions::NONE) else { return false };
    !decoder.decode().is_invalid()
}

/// Fetches and decodes the instruction at RIP.
///
/// # Errors
/// [`Fault::PageFault`] of the fetch; [`Fault::Unsupported`] for bytes that are no instruction.
pub(super) fn fetch(machine: &mut Machine<'_>) -> Result<(Instruction, InstructionBytes), Fault> {
    let mode = CodeMode::of(machine.state);
    let rip = machine.state.read(GuestField::Rip);
    // CS needs no check: the CPU has just fetched the instruction from there.
    let linear = match mode {
        CodeMode::Bits64 => rip,
        _ => machine.state.read(GuestField::CsBase).wrapping_add(rip) & 0xffff_ffff,
    };
    let mut fetched = InstructionBytes::default();
    fetch_page(machine, linear, &mut fetched)?;
    let mut decoded = decode(mode, rip, &fetched);
    if matches!(decoded, Err(DecoderError::NoMoreBytes)) && usize::from(fetched.len) < MAX_LEN {
        let next = linear.wrapping_add(u64::from(fetched.len));
        fetch_page(machine, next, &mut fetched)?;
        decoded = decode(mode, rip, &fetched);
    }
    let instruction = decoded.map_err(|_| Fault::Unsupported(fetched))?;
    fetched.len = u8::try_from(instruction.len()).unwrap_or(fetched.len);
    Ok((instruction, fetched))
}

/// Appends what the page of `linear` holds, up to the length of an instruction.
fn fetch_page(machine: &mut Machine<'_>, linear: u64, fetched: &mut InstructionBytes) -> Result<(), Fault> {
    let memory = machine.bus.memory();
    let gpa = machine.space.translate(memory, linear, AccessKind::Fetch)?;
    let left = usize::try_from(PAGE_SIZE - linear % PAGE_SIZE).unwrap_or(1);
    let room = fetched.bytes.get_mut(usize::from(fetched.len)..).unwrap_or_default();
    let wanted = left.min(room.len());
    let Some(room) = room.get_mut(..wanted) else { return Ok(()) };
    // Bytes that are not in RAM read as all-ones, which decodes to no instruction.
    if memory.read(GuestPhysAddr(gpa.0), room).is_err() {
        room.fill(0xff);
    }
    fetched.len = fetched.len.saturating_add(u8::try_from(wanted).unwrap_or(0));
    Ok(())
}

fn decode(mode: CodeMode, rip: u64, fetched: &InstructionBytes) -> Result<Instruction, DecoderError> {
    let mut decoder = Decoder::try_with_ip(mode.bits(), fetched.as_slice(), rip, DecoderOptions::NONE)
        .map_err(|_| DecoderError::InvalidInstruction)?;
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(instruction),
        error => Err(error),
    }
}
