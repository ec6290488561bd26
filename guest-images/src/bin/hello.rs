//! Prints a greeting with what the loader told it, and ends. Expected: `verdict: pass hello: ...`, exit code 0.
#![no_std]
#![no_main]

use guest::{boot_info, guest_main, pass, println};

guest_main!(main);

fn main() {
    println!("hello, world");
    println!("loader: {:?}", boot_info::loader());
    println!("command line: \"{}\"", boot_info::command_line());
    for region in boot_info::memory_map() {
        println!("memory: {:#x} + {:#x} type {}", region.start, region.len_bytes, region.kind);
    }
    pass!("said hello");
}
