//! The Lamina kernel: it wires what `lamina-core` decides to what `lamina-hw` does.
#![no_std]
#![no_main]

extern crate alloc;

mod init;
mod logger;
mod panic;

lamina_hw::boot::entry_point!(init::start, config = &lamina_hw::boot::CONFIG);
