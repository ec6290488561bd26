//! Hello by multiboot 1: a header with address fields and no PVH note. Checks what the loader must always fill in.
//! Expected: `verdict: pass hello-multiboot: ...`, exit code 0.
#![no_std]
#![no_main]

use guest::boot_info::{self, Loader, Region};
use guest::{check, multiboot_main, pass, println};

multiboot_main!(main);

fn main() {
    check!(boot_info::loader() == Loader::Multiboot, "not started by multiboot");
    println!("command line: \"{}\"", boot_info::command_line());
    let mut ram_bytes = 0;
    for region in boot_info::memory_map() {
        println!("memory: {:#x} + {:#x} type {}", region.start, region.len_bytes, region.kind);
        if region.kind == Region::RAM {
            ram_bytes += region.len_bytes;
        }
    }
    check!(ram_bytes > 0, "the memory map has no RAM");
    let (lower_kib, upper_kib) = boot_info::multiboot_memory_kib();
    check!(lower_kib > 0 && lower_kib <= 640, "mem_lower is {lower_kib} KiB");
    check!(u64::from(upper_kib) << 10 <= ram_bytes, "mem_upper is {upper_kib} KiB, RAM {} KiB", ram_bytes >> 10);
    check!(upper_kib > 0, "mem_upper is 0");
    pass!("{lower_kib} KiB below 640 KiB, {upper_kib} KiB above 1 MiB");
}
