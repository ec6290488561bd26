//! COM1, polled: where a guest's words go.

use crate::port;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};

const COM1: u16 = 0x3F8;
const LINE_STATUS: u16 = COM1 + 5;
/// Line status register: transmitter holding register empty.
const THRE: u8 = 1 << 5;

/// 115,200 baud, 8 data bits, no parity, FIFO on, no interrupts.
pub fn init() {
    port::write_u8(COM1 + 1, 0);
    port::write_u8(COM1 + 3, 0x80);
    port::write_u8(COM1, 1);
    port::write_u8(COM1 + 1, 0);
    port::write_u8(COM1 + 3, 0x03);
    port::write_u8(COM1 + 2, 0x07);
    port::write_u8(COM1 + 4, 0x03);
}

/// The serial port as a `fmt::Write`.
#[derive(Debug)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    wait_until_empty();
    port::write_u8(COM1, byte);
}

/// Waits for the transmitter to take another byte.
pub fn wait_until_empty() {
    while port::read_u8(LINE_STATUS) & THRE == 0 {}
}

static PRINTING: AtomicBool = AtomicBool::new(false);

/// Part of [`print!`]: one processor at a time. Who waits long goes ahead, for the processor that fails within its own
/// print must be heard too.
pub fn print(text: fmt::Arguments<'_>) {
    const PATIENCE: u32 = 1_000_000;
    let mut waited = 0;
    while PRINTING.swap(true, Acquire) && waited < PATIENCE {
        core::hint::spin_loop();
        waited += 1;
    }
    let _ = fmt::Write::write_fmt(&mut Serial, text);
    PRINTING.store(false, Release);
}

/// Prints to COM1.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::serial::print(format_args!($($argument)*)) };
}

/// Prints a line to COM1.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", format_args!($($argument)*)) };
}
