//! Never yields: says one line, then jumps to itself with interrupts off, for ever. No verdict: whoever runs it
//! must take the CPU away from it, and stop it.
#![no_std]
#![no_main]

use guest::{cpu, guest_main, println};

guest_main!(main);

fn main() {
    cpu::disable_interrupts();
    println!("spin: spinning for ever with interrupts off");
    // SAFETY: a jump to itself touches nothing.
    unsafe { core::arch::asm!("2: jmp 2b", options(noreturn)) };
}
