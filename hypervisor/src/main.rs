//! The Lamina kernel: it wires what `lamina-core` decides to what `lamina-hw` does.
//!
//! - `init`: from the boot loader to the run loop
//! - `run_loop`: the loop of each CPU; `cpus`: what the CPUs tell each other
//! - `machine`: a started VM with its vCPUs, and the path of a VM exit
//! - `hypervisor`, `manager`: what all CPUs have in common, and the part of it that changes
//! - `vm`, `vmm`: VMs as the operator knows them, and the verbs that change them
//! - `serial_port`: the host's side of a VM's serial port
//! - `trace`: exits printed as records, for a replay
//! - `console_task`, `views`: the operator's console and what it shows
//! - `logger`, `panic`, `flight`: what is said, the last words, and what the CPU did before them
#![no_std]
#![no_main]

extern crate alloc;

mod console_task;
mod cpus;
mod flight;
mod hypervisor;
mod init;
mod logger;
mod machine;
mod manager;
mod panic;
mod run_loop;
mod serial_port;
mod trace;
mod views;
mod vm;
mod vmm;

lamina_hw::boot::entry_point!(init::start, config = &lamina_hw::boot::CONFIG);
