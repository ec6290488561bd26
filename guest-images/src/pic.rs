//! The two 8259A interrupt controllers and channel 0 of the 8254 timer.

use crate::port;

const MASTER_COMMAND: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE_COMMAND: u16 = 0xA0;
const SLAVE_DATA: u16 = 0xA1;

/// The vector of IRQ 0; the other fifteen follow.
pub const FIRST_VECTOR: u8 = 0x20;

/// Frequency of the 8254's input clock.
pub const PIT_HZ: u64 = 1_193_182;

/// Initializes both controllers to [`FIRST_VECTOR`], every line masked.
pub fn init() {
    // ICW1: edge triggered, cascade, ICW4 follows. ICW2: vectors. ICW3: slave on line 2. ICW4: 8086 mode.
    port::write_u8(MASTER_COMMAND, 0x11);
    port::write_u8(MASTER_DATA, FIRST_VECTOR);
    port::write_u8(MASTER_DATA, 1 << 2);
    port::write_u8(MASTER_DATA, 0x01);
    port::write_u8(SLAVE_COMMAND, 0x11);
    port::write_u8(SLAVE_DATA, FIRST_VECTOR + 8);
    port::write_u8(SLAVE_DATA, 2);
    port::write_u8(SLAVE_DATA, 0x01);
    set_masks(0xFFFF);
}

/// Sets both mask registers: a set bit masks the IRQ of its number.
pub fn set_masks(masks: u16) {
    let [master, slave] = masks.to_le_bytes();
    port::write_u8(MASTER_DATA, master);
    port::write_u8(SLAVE_DATA, slave);
}

/// Both mask registers.
#[must_use]
pub fn masks() -> u16 {
    u16::from_le_bytes([port::read_u8(MASTER_DATA), port::read_u8(SLAVE_DATA)])
}

/// Non-specific end of interrupt, for an IRQ of the master (0 to 7).
pub fn end_of_interrupt() {
    port::write_u8(MASTER_COMMAND, 0x20);
}

/// Programs channel 0 of the PIT as a rate generator (mode 2) with a period of `reload` input clocks.
pub fn start_pit(reload: u16) {
    port::write_u8(0x43, 0x34);
    let [low, high] = reload.to_le_bytes();
    port::write_u8(0x40, low);
    port::write_u8(0x40, high);
}

/// The count of channel 0, latched.
#[must_use]
pub fn pit_count() -> u16 {
    port::write_u8(0x43, 0x00);
    let low = port::read_u8(0x40);
    u16::from_le_bytes([low, port::read_u8(0x40)])
}

/// Waits `periods` input clocks of the PIT by its channel 2 (mode 0: the output rises at the terminal count).
pub fn wait_pit(periods: u16) {
    const GATE: u8 = 1 << 0;
    const SPEAKER: u8 = 1 << 1;
    const OUT2: u8 = 1 << 5;
    port::write_u8(0x61, port::read_u8(0x61) & !SPEAKER | GATE);
    port::write_u8(0x43, 0xB0);
    let [low, high] = periods.to_le_bytes();
    port::write_u8(0x42, low);
    port::write_u8(0x42, high);
    while port::read_u8(0x61) & OUT2 == 0 {}
}
