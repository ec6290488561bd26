//! The runtime of the guest kernels: from the loader's entry to `main`, a serial line, traps, timers, and a
//! verdict at the end.
//!
//! A kernel is a file or a folder in `src/bin` that says `guest_main!(main)`. It ends by [`pass!`] or [`fail!`]: one line
//! `verdict: pass NAME: ...` or `verdict: fail NAME: ...`, then a double word written to the exit port 0xF4.
#![no_std]

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub mod acpi;
pub mod apic;
pub mod boot_info;
pub mod clock;
pub mod cpu;
mod entry;
pub mod paging;
pub mod pic;
pub mod port;
pub mod power;
pub mod ram;
pub mod serial;
pub mod smp;
pub mod timer;
pub mod trap;
pub mod virtio;

/// The exit port: a double word written here ends the VM with that code.
pub const EXIT_PORT: u16 = 0xF4;

/// The exit code of a failed verdict.
pub const EXIT_FAILED: u32 = 1;

unsafe extern "Rust" {
    /// The kernel's `main`; [`guest_main!`] defines it.
    safe fn guest_main();
    /// The kernel's name; [`guest_main!`] defines it.
    safe static GUEST_NAME: &'static str;
}

static CHECK_COUNT: AtomicU32 = AtomicU32::new(0);
static FAILURE_COUNT: AtomicU32 = AtomicU32::new(0);

/// Names the `main` function of a kernel that is started by PVH.
#[macro_export]
macro_rules! guest_main {
    ($main:path) => {
        // XEN_ELFNOTE_PHYS32_ENTRY (18), as in the Xen public header "elfnote.h".
        ::core::arch::global_asm!(
            ".pushsection .note.Xen,\"a\",@note",
            ".balign 4",
            ".long 4, 8, 18",
            ".asciz \"Xen\"",
            ".quad guest_start32",
            ".popsection",
        );
        $crate::guest_symbols!($main);
    };
}

/// Names the `main` function of a kernel that is started by multiboot 1, by a header with address fields.
#[macro_export]
macro_rules! multiboot_main {
    ($main:path) => {
        // "The layout of Multiboot header": magic, flags (bit 1: memory information, bit 16: address fields),
        // checksum, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr.
        ::core::arch::global_asm!(
            ".pushsection .multiboot,\"a\",@progbits",
            ".balign 4",
            "guest_multiboot_header:",
            ".long 0x1BADB002, 0x00010002, -(0x1BADB002 + 0x00010002)",
            ".long guest_multiboot_header, guest_image_start, guest_data_end, guest_image_end, guest_start32",
            ".popsection",
        );
        $crate::guest_symbols!($main);
    };
}

/// Part of [`guest_main!`] and [`multiboot_main!`]: what the runtime wants of a kernel.
#[macro_export]
macro_rules! guest_symbols {
    ($main:path) => {
        // SAFETY: the runtime declares both with these types, and a kernel names its `main` once.
        #[unsafe(no_mangle)]
        fn guest_main() {
            $main();
        }
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        static GUEST_NAME: &str = env!("CARGO_BIN_NAME");
    };
}

/// A whole kernel without the runtime, for a raw binary entered in the mode that `$code` names (`.code16`, `.code32`
/// or `.code64`) at its first byte: sends its verdict to COM1 and leaves by the exit port. It has no stack.
#[macro_export]
macro_rules! flat_kernel {
    ($code:literal) => {
        use guest as _;
        ::core::arch::global_asm!(
            ".pushsection .flat,\"ax\",@progbits",
            $code,
            ".global guest_flat_start",
            "guest_flat_start:",
            "    cli",
            "    cld",
            "    mov edx, 0x3FB", // line control: 8 data bits, no parity
            "    mov al, 3",
            "    out dx, al",
            "    mov esi, offset guest_flat_text",
            "2:",
            "    mov edx, 0x3FD", // line status
            "3:",
            "    in al, dx",
            "    test al, 0x20", // transmitter holding register empty
            "    jz 3b",
            "    lodsb",
            "    mov edx, 0x3F8",
            "    test al, al",
            "    jz 4f",
            "    out dx, al",
            "    jmp 2b",
            "4:",
            "    mov edx, 0xF4",
            "    xor eax, eax",
            "    out dx, eax",
            "5:",
            "    hlt",
            "    jmp 5b",
            "guest_flat_text:",
            concat!(".asciz \"verdict: pass ", env!("CARGO_BIN_NAME"), ": said hello in ", $code, "\\r\\n\""),
            ".popsection",
        );
    };
}

/// Ends the guest with a passed verdict.
#[macro_export]
macro_rules! pass {
    ($($argument:tt)*) => { $crate::pass(format_args!($($argument)*)) };
}

/// Ends the guest with a failed verdict.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => { $crate::fail(format_args!($($argument)*)) };
}

/// Counts a check; where the condition does not hold, ends the guest with a failed verdict (with `keep_going=1` on
/// the command line: prints what failed and goes on, to a failed verdict in the end).
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)*) => {
        if !$crate::count_check(|| $condition) { $crate::check_failed(format_args!($($argument)*)) }
    };
}

/// Part of [`check!`].
pub fn count_check(condition: impl FnOnce() -> bool) -> bool {
    CHECK_COUNT.fetch_add(1, Relaxed);
    condition()
}

/// Part of [`check!`].
pub fn check_failed(text: fmt::Arguments<'_>) {
    if boot_info::option("keep_going") != Some(1) {
        fail(text);
    }
    FAILURE_COUNT.fetch_add(1, Relaxed);
    println!("check failed: {text}");
}

/// The first Rust code of a guest, called by the entry code in long mode with interrupts off.
extern "C" fn rust_start(magic: u32, info: u32) -> ! {
    serial::init();
    trap::init();
    boot_info::init(magic, info);
    guest_main();
    fail!("main returned without a verdict");
}

/// Part of [`pass!`].
pub fn pass(text: fmt::Arguments<'_>) -> ! {
    let checks = CHECK_COUNT.load(Relaxed);
    let failures = FAILURE_COUNT.load(Relaxed);
    if failures != 0 {
        fail!("{failures} of {checks} checks failed");
    }
    println!("verdict: pass {GUEST_NAME}: {text} ({checks} checks)");
    exit(0);
}

/// Part of [`fail!`].
pub fn fail(text: fmt::Arguments<'_>) -> ! {
    println!("verdict: fail {GUEST_NAME}: {text}");
    exit(EXIT_FAILED);
}

/// Writes `code` to the exit port; where nothing listens there, halts for ever.
pub fn exit(code: u32) -> ! {
    serial::wait_until_empty();
    port::write_u32(EXIT_PORT, code);
    cpu::stop();
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => fail!("panic at {}:{}: {}", place.file(), place.line(), info.message()),
        None => fail!("panic: {}", info.message()),
    }
}
