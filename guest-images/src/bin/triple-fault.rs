//! Loads an empty IDT and executes UD2: #UD, #GP and #DF find no gate, so the CPU shuts down. No verdict: the
//! host must report this VM as crashed by a triple fault, and leave the others alone.
#![no_std]
#![no_main]

use guest::{cpu, fail, guest_main, println, trap};

guest_main!(main);

fn main() {
    cpu::disable_interrupts();
    println!("triple-fault: about to shut down");
    guest::serial::wait_until_empty();
    // SAFETY: the fault that follows is the purpose of this kernel.
    unsafe {
        trap::load_idt(0, 0);
        core::arch::asm!("ud2");
    }
    fail!("UD2 with an empty IDT went on");
}
