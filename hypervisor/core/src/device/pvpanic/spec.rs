//! The pvpanic port (QEMU's documentation, "PVPANIC DEVICE", "ISA Interface"; Linux's `uapi/misc/pvpanic.h`).

use bitflags::bitflags;

/// The port: a byte.
pub const PVPANIC: u16 = 0x505;

bitflags! {
    /// What a guest can tell. The port reads as the events that it knows.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PanicEvents: u8 {
        /// "A guest panic has happened and should be processed by the host."
        const PANICKED = 1 << 0;
        /// "A guest panic has happened and will be handled by the guest; the host should record it or report it, but should not
        /// affect the execution of the guest."
        const CRASH_LOADED = 1 << 1;
    }
}
