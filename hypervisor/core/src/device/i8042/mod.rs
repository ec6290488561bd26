//! The place of the 8042 keyboard controller: there is no keyboard, but its ports answer.
//!
//! The status register reads 0, "both buffers empty": a guest that asks for the controller before it resets the machine goes on
//! at once. (All-ones would mean "input buffer full", and Linux would poll it a million times.) Of the commands, only the reset
//! pulse does something. The board's firmware tables say that there is no such controller.

/// Data port.
pub const DATA: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND: u16 = 0x64;

/// Command "pulse output port": bits 3:0 are the lines that are *not* pulsed. Line 0 is the CPU's reset.
pub const PULSE_OUTPUT: u8 = 0xf0;
/// The reset line of [`PULSE_OUTPUT`], active low.
pub const NO_RESET_PULSE: u8 = 1 << 0;

/// A read of port 60h or 64h.
#[must_use]
pub const fn read(_port: u16) -> u8 {
    0
}

/// A write to port 60h or 64h: whether it resets the machine.
#[must_use]
pub const fn write(port: u16, value: u8) -> bool {
    port == COMMAND && value & PULSE_OUTPUT == PULSE_OUTPUT && value & NO_RESET_PULSE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_pulse_resets() {
        for value in 0..=0xff {
            let resets = matches!(value, 0xf0 | 0xf2 | 0xf4 | 0xf6 | 0xf8 | 0xfa | 0xfc | 0xfe);
            assert_eq!(write(COMMAND, value), resets, "command {value:#x}");
            assert!(!write(DATA, value));
        }
        assert_eq!((read(DATA), read(COMMAND)), (0, 0));
    }
}
