//! Port I/O. Safe functions: the machine has no device that writes memory on its own.

use core::arch::asm;

/// Defines a reader and a writer of one width.
macro_rules! width {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        #[doc = concat!("Reads a `", stringify!($type), "` from `port`.")]
        #[must_use]
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: IN touches no memory, and no device of the machine answers one by touching memory.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes a `", stringify!($type), "` to `port`.")]
        pub fn $write(port: u16, value: $type) {
            // SAFETY: OUT touches no memory, and no device of the machine does DMA.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                     options(nomem, nostack, preserves_flags));
            }
        }
    };
}

width!(read_u8, write_u8, u8, "al");
width!(read_u16, write_u16, u16, "ax");
width!(read_u32, write_u32, u32, "eax");

/// `rep outsb`: sends every byte of `bytes` to `port`.
pub fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: REP OUTSB reads exactly `bytes.len()` bytes from the slice.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
             options(readonly, nostack, preserves_flags));
    }
}

/// `rep insb`: fills `bytes` from `port`.
pub fn read_bytes(port: u16, bytes: &mut [u8]) {
    // SAFETY: REP INSB writes exactly `bytes.len()` bytes into the slice.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rdi") bytes.as_mut_ptr() => _, inout("rcx") bytes.len() => _,
             options(nostack, preserves_flags));
    }
}

/// `rep insd`: fills `words` from `port`.
pub fn read_dwords(port: u16, words: &mut [u32]) {
    // SAFETY: REP INSD writes exactly `words.len()` double words into the slice.
    unsafe {
        asm!("rep insd", in("dx") port, inout("rdi") words.as_mut_ptr() => _, inout("rcx") words.len() => _,
             options(nostack, preserves_flags));
    }
}
