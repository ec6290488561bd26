//! `lamina-hw`: what **does** in the Lamina hypervisor.
//!
//! Contract: the only `unsafe` code and the only assembly of the hypervisor. Its interface is safe: what the
//! machine demands of a caller is an argument (a value one must hold), or is checked here before it is done.
//! Where `lamina-core` decides (which frame, which register value), a wrong answer is refused here or hurts
//! the one guest it is about.
#![no_std]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod cpu;
pub mod mem;
pub mod port;
pub mod power;
pub mod serial;
pub mod smp;
pub mod time;
pub mod vmx;
