//! COM1, polled: where a guest's words go.

use crate::port;
use core::fmt;

const COM1: u16 = 0x3F8;
const LINE_STATUS: u16 = COM1 + 5;
/// Line status register: transmitter holding register empty.
const THRE: u8 = 1 << 5;

/// 115,200 baud, 8 data bits, no parity, FIFO on, no interrupts.
pub(crate) fn init() {
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

/// Prints to COM1.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = write!($crate::serial::Serial, $($argument)*);
    }};
}

/// Prints a line to COM1.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", format_args!($($argument)*)) };
}
