//! The watchdog's registers: four double words in I/O space, made so that each action of a WDAT table is one access
//! ("Hardware Watchdog Timers Design Specification" by Microsoft, "Watchdog Action Table"). The table that tells a guest of them is
//! in [`crate::loader`].

use bitflags::bitflags;

/// The period in milliseconds. What is written counts from the next feeding on; a value out of range becomes the nearest one in
/// it.
pub const COUNT: u16 = 0x620;
/// Read: what is left of the period, in milliseconds. Written with any value: feeds the watchdog.
pub const LEFT: u16 = 0x624;
/// [`Control`].
pub const CONTROL: u16 = 0x628;
/// [`Status`].
pub const STATUS: u16 = 0x62c;
/// The first port behind the registers.
pub const WATCHDOG_END: u16 = 0x630;

/// One count of [`COUNT`] and [`LEFT`] in milliseconds.
pub const COUNT_MS: u32 = 1;
/// Counts in a second.
pub const COUNT_HZ: u64 = 1_000;
/// The shortest period.
pub const COUNT_MIN: u32 = 1;
/// The longest period: an hour.
pub const COUNT_MAX: u32 = 3_600_000;
/// The period at power-on.
pub const COUNT_AT_POWER_ON: u32 = 60_000;

bitflags! {
    /// The control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Control: u32 {
        /// The watchdog runs. Setting it feeds the watchdog.
        const RUN = 1 << 0;
        /// What the guest wants when it fires: to be switched off rather than started anew. It is kept; what is done is the
        /// operator's to say.
        const SHUTDOWN = 1 << 1;
    }
}

bitflags! {
    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u32 {
        /// The watchdog ended the life before this one. Cleared by writing a one.
        const FIRED = 1 << 0;
    }
}
