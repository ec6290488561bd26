//! Device models, each from its datasheet.
//!
//! A device is `spec.rs` (registers) and `mod.rs` (behaviour). It knows registers and time, not the hypervisor: reads and
//! writes come as plain calls with the time `now` in guest TSC ticks (see [`crate::time`]), it answers with values, its
//! interrupt line as a level (`irq_level()`), and the tick at which it wants to be called next (`next_deadline()`).

pub mod board;
pub mod exit_port;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod oscillator;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod uart;
pub mod virtio;
pub mod watchdog;
