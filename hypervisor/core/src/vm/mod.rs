//! A VM's life, apart from what runs in it.
//!
//! [`state`] is the one table of what may follow what; [`serial_log`] turns a guest's serial output into whole lines
//! for the host's console.

pub mod serial_log;
pub mod state;

pub use serial_log::SerialLines;
pub use state::{Event, Refusal, State, Verb, transition};
