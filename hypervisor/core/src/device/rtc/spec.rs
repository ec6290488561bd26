//! The Motorola MC146818 real-time clock's registers (MC146818A datasheet, "Registers"), and the bytes of its battery-backed
//! memory that a PC's firmware fills in (the "CMOS memory map" of the IBM PC AT Technical Reference, with the later bytes for
//! more memory that PC firmware agreed on).

use bitflags::bitflags;

/// Index port (write only); bit 7 is the NMI mask and no part of the index.
pub const INDEX_PORT: u16 = 0x70;
/// Data port.
pub const DATA_PORT: u16 = 0x71;
/// The index in what is written to the index port.
pub const INDEX_MASK: u8 = 0x7f;

/// The time base, a watch crystal.
pub const CRYSTAL_HZ: u64 = 32_768;
/// "UIP goes to 1 at least 244 us before the update cycle": 8 cycles of the crystal.
pub const UPDATE_IN_PROGRESS_CYCLES: u64 = 8;
/// "The first update cycle occurs 500 ms after the divider reset is removed."
pub const DIVIDER_RESTART_CYCLES: u64 = CRYSTAL_HZ / 2;

/// Seconds.
pub const SECONDS: u8 = 0x00;
/// Seconds alarm.
pub const SECONDS_ALARM: u8 = 0x01;
/// Minutes.
pub const MINUTES: u8 = 0x02;
/// Minutes alarm.
pub const MINUTES_ALARM: u8 = 0x03;
/// Hours.
pub const HOURS: u8 = 0x04;
/// Hours alarm.
pub const HOURS_ALARM: u8 = 0x05;
/// Day of the week, 1 is Sunday.
pub const DAY_OF_WEEK: u8 = 0x06;
/// Day of the month.
pub const DAY_OF_MONTH: u8 = 0x07;
/// Month.
pub const MONTH: u8 = 0x08;
/// Year of the century.
pub const YEAR: u8 = 0x09;
/// Register A.
pub const REGISTER_A: u8 = 0x0a;
/// Register B.
pub const REGISTER_B: u8 = 0x0b;
/// Register C, read only.
pub const REGISTER_C: u8 = 0x0c;
/// Register D, read only.
pub const REGISTER_D: u8 = 0x0d;
/// Century, as the FADT says.
pub const CENTURY: u8 = 0x32;

/// An alarm byte from 0xC0 on matches every value ("don't care").
pub const ALARM_DONT_CARE: u8 = 0xc0;
/// Hours in 12-hour mode: PM.
pub const HOURS_PM: u8 = 0x80;

/// Register A: update in progress, read only.
pub const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// Register A, DV2-DV0.
pub const A_DIVIDER: u8 = 0x70;
/// DV = 11x: the divider is held in reset.
pub const A_DIVIDER_RESET: u8 = 0x60;
/// Register A, RS3-RS0: the periodic rate.
pub const A_RATE: u8 = 0x0f;
/// Register A after power-up on a PC: a 32,768 Hz crystal, periodic rate 1,024 Hz.
pub const A_DEFAULT: u8 = 0x26;
/// Register D: valid RAM and time.
pub const D_VALID: u8 = 0x80;

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RegisterB: u8 {
        /// Daylight saving, which no PC supports; kept.
        const DAYLIGHT_SAVING = 1 << 0;
        /// 24-hour mode.
        const HOURS_24 = 1 << 1;
        /// Data mode: binary, else BCD.
        const BINARY = 1 << 2;
        /// Square-wave output, not connected; kept.
        const SQUARE_WAVE = 1 << 3;
        /// Update-ended interrupt enable.
        const UPDATE_INTERRUPT = 1 << 4;
        /// Alarm interrupt enable.
        const ALARM_INTERRUPT = 1 << 5;
        /// Periodic interrupt enable.
        const PERIODIC_INTERRUPT = 1 << 6;
        /// The time stands still and may be set.
        const SET = 1 << 7;
    }

    /// Register C: "the read cycle clears all of the bits".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RegisterC: u8 {
        /// Update ended.
        const UPDATE = 1 << 4;
        /// The time reached the alarm.
        const ALARM = 1 << 5;
        /// A period of the periodic rate ended.
        const PERIODIC = 1 << 6;
        /// One of the others, enabled: the IRQ output.
        const INTERRUPT = 1 << 7;
    }
}

/// The crystal's cycles in one period of the rate RS3-RS0 (datasheet, "Periodic Interrupt Rate and Square Wave Output
/// Frequency", 32.768 kHz time base); `None` for none.
#[must_use]
pub const fn periodic_cycles(rate: u8) -> Option<u64> {
    match rate & A_RATE {
        0 => None,
        1 => Some(128),
        2 => Some(256),
        rate => Some(1 << (rate - 1)),
    }
}

/// Equipment byte: bit 1 is the coprocessor.
pub const EQUIPMENT: u8 = 0x14;
/// [`EQUIPMENT`]: a coprocessor and nothing else (no floppy; the display has its own BIOS).
pub const EQUIPMENT_COPROCESSOR: u8 = 0x02;
/// Base memory in KiB, low byte first.
pub const BASE_MEMORY: u8 = 0x15;
/// Memory above 1 MiB in KiB, low byte first.
pub const EXTENDED_MEMORY: u8 = 0x17;
/// First and last byte that the checksum covers.
pub const CHECKSUM_RANGE: core::ops::RangeInclusive<usize> = 0x10..=0x2d;
/// The checksum, high byte first.
pub const CHECKSUM: u8 = 0x2e;
/// [`EXTENDED_MEMORY`] again, as the power-on test found it.
pub const EXTENDED_MEMORY_FOUND: u8 = 0x30;
/// Memory between 16 MiB and 4 GiB in units of 64 KiB, low byte first.
pub const MEMORY_ABOVE_16M: u8 = 0x34;
/// Memory above 4 GiB in units of 64 KiB, three bytes, low byte first.
pub const MEMORY_ABOVE_4G: u8 = 0x5b;
