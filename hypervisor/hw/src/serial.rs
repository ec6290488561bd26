//! The host's serial console on COM1.
//!
//! Until the interrupt controllers run, output is synchronous. From then on it is queued and sent as the UART
//! takes it ([`pump`]), so that a long answer on the console never holds the guests: at 115,200 baud a character
//! takes as long as many thousand instructions.

use alloc::collections::VecDeque;
use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};

/// I/O base address of COM1.
pub const COM1: u16 = 0x3f8;
/// ISA interrupt of COM1.
pub const COM1_IRQ: u8 = 4;
/// Bytes of output that may wait; who writes more waits until there is room.
const OUTPUT_QUEUE_BYTES: usize = 64 * 1024;
/// Bytes of input that may wait for the console; more than this is dropped.
const INPUT_QUEUE_BYTES: usize = 4096;

struct Console {
    uart: Uart16550<PioBackend>,
    queued: bool,
    output: VecDeque<u8>,
    input: VecDeque<u8>,
}

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// Sets up COM1 at 115,200 baud. Without a UART there, all output is dropped.
pub fn init() {
    // SAFETY: COM1's eight ports are used by nobody else in the hypervisor; guests never reach host ports.
    let Ok(mut uart) = (unsafe { Uart16550::new_port(COM1) }) else { return };
    if uart.init(Config { baud_rate: BaudRate::Baud115200, ..Config::default() }).is_ok() {
        uart.disable_interrupts(IER::all());
        *CONSOLE.lock() = Some(Console { uart, queued: false, output: VecDeque::new(), input: VecDeque::new() });
    }
}

/// From here on output is queued and input comes by interrupt: call [`pump`] on every serial interrupt.
pub fn start_interrupts() {
    if let Some(console) = CONSOLE.lock().as_mut() {
        console.output.reserve(OUTPUT_QUEUE_BYTES);
        console.input.reserve(INPUT_QUEUE_BYTES);
        console.queued = true;
        console.uart.enable_interrupts(IER::DATA_READY);
    }
}

/// Writes bytes to the console.
pub fn write(bytes: &[u8]) {
    let mut guard = CONSOLE.lock();
    let Some(console) = guard.as_mut() else { return };
    if !console.queued {
        console.uart.send_bytes_exact(bytes);
        return;
    }
    // Room is made for these bytes and no more: whoever writes without end is slowed down to the line's pace in small steps,
    // instead of holding everybody for the seconds that a whole queue takes.
    for part in bytes.chunks(OUTPUT_QUEUE_BYTES) {
        while console.output.len() + part.len() > OUTPUT_QUEUE_BYTES {
            let sent = console.uart.send_bytes(console.output.as_slices().0);
            console.output.drain(..sent);
        }
        console.output.extend(part);
    }
    console.pump();
}

/// Takes what came in and sends what the UART has room for.
pub fn pump() {
    if let Some(console) = CONSOLE.lock().as_mut() {
        console.pump();
    }
}

/// The next byte typed at the console.
pub fn read() -> Option<u8> {
    CONSOLE.lock().as_mut()?.input.pop_front()
}

/// Whether something was typed that nobody has read.
#[must_use]
pub fn has_input() -> bool {
    CONSOLE.lock().as_ref().is_some_and(|console| !console.input.is_empty())
}

/// Whether output waits for the UART.
#[must_use]
pub fn has_output() -> bool {
    CONSOLE.lock().as_ref().is_some_and(|console| !console.output.is_empty())
}

/// Sends everything that waits, and returns when the last byte has left the UART.
pub fn flush() {
    if let Some(console) = CONSOLE.lock().as_mut() {
        console.flush();
    }
}

/// For the last words of a panic, once the other CPUs have stopped: breaks the lock, since its holder may be the one that
/// panicked or one that stopped, and makes all further output synchronous. Output that waits is sent first, unless the holder
/// was in the midst of changing it.
pub fn seize() {
    let held = CONSOLE.is_locked();
    // SAFETY: after a panic nothing but the epitaph runs, on this CPU alone, so whoever held the lock never goes on to use it.
    unsafe { CONSOLE.force_unlock() };
    if let Some(console) = CONSOLE.lock().as_mut() {
        if held {
            core::mem::forget(core::mem::take(&mut console.output));
        }
        console.flush();
        console.queued = false;
    }
}

impl Console {
    fn pump(&mut self) {
        while let Ok(byte) = self.uart.try_receive_byte() {
            if self.input.len() < INPUT_QUEUE_BYTES {
                self.input.push_back(byte);
            }
        }
        while !self.output.is_empty() {
            let sent = self.uart.send_bytes(self.output.as_slices().0);
            if sent == 0 {
                break;
            }
            self.output.drain(..sent);
        }
        let wanted = if self.output.is_empty() { IER::DATA_READY } else { IER::DATA_READY | IER::THR_EMPTY };
        if self.queued && self.uart.ier() != wanted {
            self.uart.disable_interrupts(IER::all());
            self.uart.enable_interrupts(wanted);
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            let sent = self.uart.send_bytes(self.output.as_slices().0);
            self.output.drain(..sent);
        }
        while !self.uart.lsr().contains(uart_16550::spec::registers::LSR::TRANSMITTER_EMPTY) {
            core::hint::spin_loop();
        }
    }
}
