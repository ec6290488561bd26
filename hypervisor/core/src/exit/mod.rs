//! From a VM exit to its consequence.
//!
//! `RawExit` (what the CPU said) and [`Outcome`] (what follows); one handler per file, each a pure function of its arguments.

mod raw;

pub use raw::{Event, EventKind, Outcome, RawExit, StopReason};
