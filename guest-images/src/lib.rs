//! The runtime of the guest kernels: from the loader's entry to `main`, a serial line, traps, timers, and a
//! verdict at the end.
//!
//! A kernel is a file in `src/bin` that says `guest_main!(main)`. It ends by [`pass!`] or [`fail!`]: one line
//! `verdict: pass NAME: ...` or `verdict: fail NAME: ...`, then a double word written to the exit port 0xF4.
#![no_std]

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub mod apic;
pub mod boot_info;
pub mod clock;
pub mod cpu;
mod entry;
pub mod paging;
pub mod pic;
pub mod port;
pub mod serial;
pub mod trap;

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

/// Names the kernel's `main` function.
#[macro_export]
macro_rules! guest_main {
    ($main:path) => {
        // SAFETY: the runtime declares both with these types, and a kernel says `guest_main!` once.
        #[unsafe(no_mangle)]
        fn guest_main() {
            $main();
        }
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        static GUEST_NAME: &str = env!("CARGO_BIN_NAME");
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

/// Counts a check; where the condition does not hold, ends the guest with a failed verdict.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)*) => {
        if $crate::count_check(|| $condition) {} else { $crate::fail!($($argument)*) }
    };
}

/// Part of [`check!`].
pub fn count_check(condition: impl FnOnce() -> bool) -> bool {
    CHECK_COUNT.fetch_add(1, Relaxed);
    condition()
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
