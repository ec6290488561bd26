//! Never yields: says one line, then jumps to itself with interrupts off, for ever. No verdict: whoever runs it
//! must take the CPU away from it, and stop it. `interrupts=1`: with interrupts on, of which none comes.
//!
//! Command line: `cpus=N` spins on N processors (default 1; more than there are is a failed verdict); `at=ADDRESS` puts the jump
//! at this address of RAM, which must be free.
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
    println!("spin: spinning for ever on {cpus} CPU(s)");
    if option("interrupts") == Some(1) {
        guest::pic::init();
        cpu::enable_interrupts();
    }
    if let Some(address) = option("at") {
        spin_at(address);
    }
    spin();
}

fn spin() -> ! {
    // SAFETY: a jump to itself touches nothing.
    unsafe { core::arch::asm!("2: jmp 2b", options(noreturn)) };
}

/// The same jump, written to an address first.
fn spin_at(address: u64) -> ! {
    const JUMP_TO_ITSELF: [u8; 2] = [0xeb, 0xfe];
    // SAFETY: the command line names RAM that is free; the page tables map it, writable and executable.
    unsafe {
        core::ptr::write_volatile(address as *mut [u8; 2], JUMP_TO_ITSELF);
        core::arch::asm!("jmp {}", in(reg) address, options(noreturn));
    }
}
