//! Does nothing, by HLT, until somebody presses the power button: goes to the ACPI mode, takes the SCI through the
//! IOAPIC, and on PWRBTN_STS switches itself off by `\_S5`.
//!
//! Command line: `ignore_button=1` takes note of the button and goes on: whoever wants it to end must force it.
//! Expected: `verdict: pass idle: ...`, and then the soft-off state instead of the exit port.
#![no_std]
#![no_main]

use guest::boot_info::option;
use guest::power::PowerButton;
use guest::{apic, cpu, guest_main, pic, println};

guest_main!(main);

fn main() {
    pic::init();
    apic::enable();
    let button = PowerButton::listen();
    println!("idle: halted until the power button is pressed");
    let ignore = option("ignore_button") == Some(1);
    let mut seen = 0;
    loop {
        cpu::halt_until(|| button.presses() != seen);
        seen = button.presses();
        if !ignore {
            break;
        }
        println!("idle: the power button was pressed {seen} times and is ignored");
    }
    println!("verdict: pass idle: the power button was pressed");
    button.switch_off();
}
