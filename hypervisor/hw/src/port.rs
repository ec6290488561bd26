//! Port I/O of the host's own devices.

use x86_64::instructions::port::Port;

/// Reads a byte. Crate-private: a port read can have any side effect on the machine.
pub(crate) fn read_u8(port: u16) -> u8 {
    // SAFETY: port I/O touches no memory by itself; the callers in this crate name only ports of devices that this
    // crate drives (PIT, PIC, PM timer, reset), whose reads have no effect on memory.
    unsafe { Port::new(port).read() }
}

/// Reads a doubleword. As [`read_u8`].
pub(crate) fn read_u32(port: u16) -> u32 {
    // SAFETY: as in `read_u8`.
    unsafe { Port::new(port).read() }
}

/// Writes a byte. Crate-private for the same reason.
pub(crate) fn write_u8(port: u16, value: u8) {
    // SAFETY: the callers in this crate write only to devices that this crate drives (PIT, PIC, reset, power-off),
    // none of which is programmed to write to memory.
    unsafe { Port::new(port).write(value) }
}

/// Writes a word. As [`write_u8`].
pub(crate) fn write_u16(port: u16, value: u16) {
    // SAFETY: as in `write_u8`.
    unsafe { Port::new(port).write(value) }
}
