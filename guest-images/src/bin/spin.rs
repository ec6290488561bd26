//! Never yields: says one line, then jumps to itself with interrupts off, for ever. No verdict: whoever runs it
//! must take the CPU away from it, and stop it.
//!
//! Command line: `cpus=N` spins on N processors (default 1; more than there are is a failed verdict).
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::{check, cpu, guest_main, println, smp};

guest_main!(main);

fn main() {
    cpu::disable_interrupts();
    let cpus = option("cpus").unwrap_or(1) as usize;
    if cpus > 1 {
        let found = smp::find();
        check!(cpus <= found, "cpus={cpus}: there are {found}");
        for index in 1..cpus {
            smp::start(index, |_| spin());
        }
    }
    println!("spin: spinning for ever with interrupts off on {cpus} CPU(s)");
    spin();
}

fn spin() -> ! {
    // SAFETY: a jump to itself touches nothing.
    unsafe { core::arch::asm!("2: jmp 2b", options(noreturn)) };
}
