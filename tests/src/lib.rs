//! The bench on which whole-machine tests work: each boots Lamina in an emulator and speaks to it over its serial line.
//!
//! A [`Case`] is a named test; [`run`] gives it a [`Bench`]; [`Bench::machine`] builds the machine that it wants, whose
//! `boot` begins a [`Session`]. Time limits are of the *emulated* machine (`poweroff_after`), so a slow host changes no
//! result; a wall-clock limit only catches an emulator that hangs.
#![forbid(unsafe_code)]

mod bench;
mod json;
mod machine;
mod measure;

pub use bench::{Bench, Body, Case, Firmwares, run};
pub use json::{field, reply};
pub use machine::MachineBuilder;
pub use measure::{Snapshot, Stretch, due, ensure_near, number, pass_time, row, uptime_us};
pub use xtask::machine::Session;
