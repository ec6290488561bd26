//! The two reset ports of a PC chipset: the Reset Control register at CF9h and Port 92h (82371AB PIIX4 datasheet, "RC Reset
//! Control Register", "P92 Port 92 Register").

/// Reset Control register. The ACPI reset register of the FADT is this port with the value 6.
pub const RESET_CONTROL: u16 = 0xcf9;
/// RC: System Reset, hard (1) or soft (0). Kept.
pub const SYSTEM_RESET: u8 = 1 << 1;
/// RC: Reset CPU. "A reset is initiated by a 0-to-1 transition of this bit."
pub const RESET_CPU: u8 = 1 << 2;
/// RC: full reset with a power cycle, in later chipsets. Kept.
pub const FULL_RESET: u8 = 1 << 3;

/// Port 92h, System Control Port A.
pub const PORT_92: u16 = 0x92;
/// Port 92h: FAST_INIT, resets the CPU when it goes from 0 to 1.
pub const FAST_INIT: u8 = 1 << 0;
/// Port 92h: FAST_A20.
pub const FAST_A20: u8 = 1 << 1;
