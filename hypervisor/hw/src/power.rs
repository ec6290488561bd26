//! Power-off and reset of the host.

use crate::acpi::Platform;
use crate::{port, serial, time};

/// SLP_EN in a PM1 control register (ACPI specification, "PM1 Control Registers").
const SLEEP_ENABLE: u16 = 1 << 13;
/// Bochs' shutdown port: it ends the emulator after the bytes of "Shutdown" (Bochs documentation, "unmapped" device).
const BOCHS_SHUTDOWN_PORT: u16 = 0x8900;
/// TSC ticks until a machine that was told to switch itself off counts as deaf: a second or less on a real one.
const POWER_OFF_TICKS: u64 = 1 << 30;
/// Reset control register of the PC chipsets ("RST_CNT").
const RESET_CONTROL_PORT: u16 = 0xcf9;
/// Keyboard controller's command port; 0xFE pulses the reset line.
const KEYBOARD_CONTROLLER_PORT: u16 = 0x64;

/// Halts this CPU for good, with interrupts off.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Switches the machine off: by ACPI S5, else by the emulator's port. Halts where neither works.
pub fn power_off(platform: &Platform) -> ! {
    serial::flush();
    if let Some(off) = platform.power_off {
        let value = |sleep_type: u8| u16::from(sleep_type & 0b111) << 10 | SLEEP_ENABLE;
        port::write_u16(off.pm1a_control, value(off.sleep_types.pm1a));
        if let Some(pm1b) = off.pm1b_control {
            port::write_u16(pm1b, value(off.sleep_types.pm1b));
        }
        // A machine that obeys needs a moment. Only one that does not is taken for an emulator, since on a real one anything may
        // be behind the emulator's port.
        let start = time::now();
        while time::now() - start < POWER_OFF_TICKS {
            core::hint::spin_loop();
        }
    }
    for byte in b"Shutdown" {
        port::write_u8(BOCHS_SHUTDOWN_PORT, *byte);
    }
    halt()
}

/// Resets the machine: by the ACPI reset register, the chipset's, the keyboard controller's. Halts where none works.
pub fn reset(platform: &Platform) -> ! {
    serial::flush();
    if let Some((port, value)) = platform.reset {
        port::write_u8(port, value);
    }
    const SYSTEM_RESET: u8 = 0x02;
    const RESET_CPU: u8 = 0x04;
    port::write_u8(RESET_CONTROL_PORT, SYSTEM_RESET);
    port::write_u8(RESET_CONTROL_PORT, SYSTEM_RESET | RESET_CPU);
    port::write_u8(KEYBOARD_CONTROLLER_PORT, 0xfe);
    halt()
}
