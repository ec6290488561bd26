//! Where the hypervisor is in its own code: for the epitaph of a panic. Nothing here allocates, waits or trusts the stack.

use crate::mem;
use core::arch::asm;

/// Frames that are followed at most.
const FRAMES_MAX: usize = 32;

/// The calls that led here, innermost first: return addresses as offsets into the image, which is what its ELF file has as
/// virtual addresses. Follows the frame pointers that the kernel is compiled with, as far as they lead through mapped memory.
pub fn backtrace() -> impl Iterator<Item = u64> {
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    let mut left = FRAMES_MAX;
    core::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let address = mem::peek(frame.checked_add(8)?).filter(|address| *address != 0)?;
        frame = mem::peek(frame)?;
        Some(offset_in_image(address))
    })
}

/// A linear address as an offset into the hypervisor's image.
#[must_use]
pub fn offset_in_image(linear: u64) -> u64 {
    linear.wrapping_sub(image_base())
}

unsafe extern "C" {
    /// The ELF header: the linker puts it at virtual address 0 of the image, and the boot loader maps it with the constants.
    static __ehdr_start: [u8; EHDR_LEN];
}

const EHDR_LEN: usize = 64;
/// Offsets in the ELF header, and the size of a program header.
const PHOFF: usize = 32;
const PHNUM: usize = 56;
const PHDR_LEN: u64 = 56;

fn image_base() -> u64 {
    (&raw const __ehdr_start) as u64
}

/// The build ID that the linker wrote into the image: the descriptor of its `NT_GNU_BUILD_ID` note. Empty where there is none.
#[must_use]
pub fn build_id() -> &'static [u8] {
    const PT_NOTE: u64 = 4;
    const NOTE_HEADER_LEN: u64 = 16;
    const ID_LEN_MAX: usize = 64;
    let word = |offset: u64| mem::peek(image_base() + offset).unwrap_or(0);
    let count = word(PHNUM as u64) & 0xffff;
    let headers = word(PHOFF as u64);
    let note = (0..count).map(|index| headers + index * PHDR_LEN).find(|header| word(*header) & 0xffff_ffff == PT_NOTE);
    let Some(note) = note.map(|header| word(header + 16)) else { return &[] };
    // The note's name and descriptor lengths; the name is "GNU\0".
    let len = ((word(note) >> 32) as usize).min(ID_LEN_MAX);
    // SAFETY: the linker's note is among the image's constants, which are mapped for good and never written.
    unsafe { core::slice::from_raw_parts((image_base() + note + NOTE_HEADER_LEN) as *const u8, len) }
}
