//! `lamina-core`: what **decides** in the Lamina hypervisor.
//!
//! Contract: no `unsafe`, no machine. Everything here is a function of its arguments and is tested
//! on the host with plain `cargo test`. What must touch the machine is a trait that `lamina-hw`
//! implements; a wrong answer from this crate is checked there before it is acted upon.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod device;
pub mod ept;
pub mod exit;
pub mod fault;
pub mod insn;
pub mod loader;
pub mod memory;
pub mod resources;
pub mod ring;
pub mod sched;
pub mod time;
pub mod vm;
pub mod vmx;
pub mod x86;
