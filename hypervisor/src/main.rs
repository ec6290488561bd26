//! The Lamina kernel: it wires what `lamina-core` decides to what `lamina-hw` does.
//!
//! - `init`: from the boot loader to the run loop
//! - `run_loop`: the loop of the CPU
//! - `guest`: a started VM, and the path of a VM exit
//! - `vm`, `vmm`: VMs as the operator knows them, and the verbs that change them
//! - `serial_port`: the host's side of a VM's serial port
//! - `trace`: exits printed as records, for a replay
//! - `console_task`, `views`: the operator's console and what it shows
//! - `logger`, `panic`, `flight`: what is said, the last words, and what the CPU did before them
#![no_std]
#![no_main]

extern crate alloc;

mod console_task;
mod flight;
mod guest;
mod init;
mod logger;
mod panic;
mod run_loop;
mod serial_port;
mod trace;
mod views;
mod vm;
mod vmm;

lamina_hw::boot::entry_point!(init::start, config = &lamina_hw::boot::CONFIG);
