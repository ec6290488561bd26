//! A VM's life, apart from what runs in it.
//!
//! [`state`] is the one table of what may follow what; [`targets`] finds the VMs that a verb is for; [`activity`] is what a
//! vCPU does between its instructions; [`heartbeat`] tells one that is hung, and [`exit_model`] one
//! that exits as it never did; [`serial_log`] turns a guest's serial output into whole lines for the host's console.

pub mod activity;
pub mod exit_model;
pub mod heartbeat;
pub mod serial_log;
pub mod state;
pub mod targets;

pub use activity::{Activity, Signal};
pub use exit_model::ExitModel;
pub use heartbeat::Heartbeat;
pub use serial_log::SerialLines;
pub use state::{Event, PauseReason, Refusal, State, Verb, transition};
pub use targets::{Candidate, Targets};
