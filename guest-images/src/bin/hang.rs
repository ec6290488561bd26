//! Stops working, in the way that `kind` says, or looks as if it had: who runs it tells which.
//!
//! Command line, `kind=`:
//! - `pvpanic`: tells a panic by the pvpanic port, after one that it handles itself; `hypercall`: by the hypercall, with `code=N` (42);
//! - `watchdog`: arms the watchdog that the WDAT names with a period of `ms=N` (100) and feeds it no more, halted; it says at first
//!   whether the watchdog ended its life before;
//! - `fed`: feeds it for ten periods, stops it, and stays as long without; `late`: the same, three periods after it has armed it;
//! - `halt`: CLI, HLT; `lock`: spins for a lock that nobody has,
//!   interrupts off;
//! - `busy`: computes with interrupts off, without an exit, for `seconds=N` (2) at some 50 million instructions each;
//! - `half`: halts with interrupts off on the first CPU and is `busy` on the second;
//! - `storm`: spins for 12 seconds, and reads a port for ever after.
//!
//! Expected: `verdict: pass hang: ...` of `fed`, `busy` and `half`, and of `late` where it is resumed; no verdict of the others.
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;
use guest::boot_info::{command_line, option};
use guest::{acpi, check, cpu, fail, guest_main, pass, port, println, smp};

guest_main!(main);

const PVPANIC: u16 = 0x505;
/// The number of the panic hypercall.
const PANIC: u64 = 0x4C4D_0001;

fn main() {
    cpu::disable_interrupts();
    let kind = command_line().split_ascii_whitespace().find_map(|word| word.strip_prefix("kind="));
    match kind {
        Some("pvpanic") => tell_by_port(),
        Some("hypercall") => tell_by_hypercall(option("code").unwrap_or(42)),
        Some("watchdog") => starve(&Watchdog::find()),
        Some("fed") => feed(&Watchdog::find(), 0),
        Some("late") => feed(&Watchdog::find(), 3),
        Some("halt") => {
            println!("hang: halted for ever with interrupts off");
            cpu::stop();
        }
        Some("lock") => {
            println!("hang: spinning for a lock that nobody has, interrupts off");
            spin_for_lock();
        }
        Some("busy") => {
            println!("hang: computing with interrupts off");
            compute();
        }
        Some("half") => {
            check!(smp::find() >= 2, "there is no second CPU");
            smp::start(1, |_| compute());
            println!("hang: one CPU halted for ever, one computing");
            cpu::stop();
        }
        Some("storm") => {
            smp::wait_us(12_000_000);
            println!("hang: reading a port for ever");
            loop {
                let _ = port::read_u8(0x80);
            }
        }
        other => fail!("kind={other:?} is none"),
    }
}

fn tell_by_port() {
    let events = port::read_u8(PVPANIC);
    check!(events == 0b11, "the pvpanic port reads {events:#x}: no panicked and crash-loaded events");
    port::write_u8(PVPANIC, 0b10);
    println!("hang: went on after a panic that is its own business; telling one that is not");
    guest::serial::wait_until_empty();
    port::write_u8(PVPANIC, 0b01);
    fail!("went on after it told a panic by the port");
}

fn tell_by_hypercall(code: u64) {
    println!("hang: telling a panic by hypercall");
    guest::serial::wait_until_empty();
    // SAFETY: the hypercall touches no memory. RBX is the compiler's, so it is put back.
    unsafe {
        asm!("xchg rbx, {code}", "vmcall", "xchg rbx, {code}", code = inout(reg) code => _, inout("rax") PANIC => _)
    };
    fail!("went on after it told a panic by hypercall");
}

/// The entries of the WDAT.
struct Watchdog {
    entries: &'static [u8],
}

impl Watchdog {
    const RESET: u8 = 1;
    const SET_COUNTDOWN: u8 = 6;
    const QUERY_RUNNING: u8 = 8;
    const SET_RUNNING: u8 = 9;
    const SET_STOPPED: u8 = 11;
    const QUERY_STATUS: u8 = 32;
    const SET_STATUS: u8 = 33;

    fn find() -> Self {
        let table = acpi::table(b"WDAT").bytes();
        let period_ms = u32::from_le_bytes([table[48], table[49], table[50], table[51]]);
        check!(period_ms == 1, "the WDAT's timer counts {period_ms} ms, which this driver does not divide by");
        Self { entries: &table[68..] }
    }

    /// Carries out an action, all of whose registers are double words in I/O space.
    fn run(&self, action: u8, count: u32) -> u32 {
        let Some(entry) = self.entries.chunks_exact(24).find(|entry| entry[0] == action) else {
            fail!("the WDAT has no action {action}");
        };
        check!(entry[4] == 1 && entry[7] == 3, "action {action} is no double word in I/O space: {entry:?}");
        let register = u16::from_le_bytes([entry[8], entry[9]]);
        let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let (value, mask) = (number(16), number(20));
        let written = match entry[1] & 0x7F {
            0 => return u32::from(port::read_u32(register) & mask == value),
            1 => return port::read_u32(register) & mask,
            2 => value & mask,
            _ => count & mask,
        };
        let kept = if entry[1] & 0x80 != 0 { port::read_u32(register) & !mask } else { 0 };
        port::write_u32(register, written | kept);
        0
    }

    fn arm(&self, ms: u32) {
        check!(self.run(Self::QUERY_RUNNING, 0) == 0, "the watchdog runs already");
        self.run(Self::SET_COUNTDOWN, ms);
        self.run(Self::SET_RUNNING, 0);
        check!(self.run(Self::QUERY_RUNNING, 0) == 1, "the watchdog does not run");
    }
}

fn period_ms() -> u32 {
    option("ms").unwrap_or(100) as u32
}

fn starve(watchdog: &Watchdog) {
    let fired = watchdog.run(Watchdog::QUERY_STATUS, 0);
    watchdog.run(Watchdog::SET_STATUS, 0);
    check!(watchdog.run(Watchdog::QUERY_STATUS, 0) == 0, "the boot status is not cleared");
    println!("hang: boot status {fired}; the watchdog is armed and gets nothing");
    watchdog.arm(period_ms());
    cpu::stop();
}

/// Feeds it from so many periods after it was armed on.
fn feed(watchdog: &Watchdog, late: u64) {
    let ms = period_ms();
    watchdog.arm(ms);
    smp::wait_us(u64::from(ms) * 1_000 * late);
    for _ in 0..20 {
        smp::wait_us(u64::from(ms) * 500);
        watchdog.run(Watchdog::RESET, 0);
    }
    watchdog.run(Watchdog::SET_STOPPED, 0);
    smp::wait_us(u64::from(ms) * 10_000);
    pass!("fed its watchdog for ten periods of {ms} ms, and lived as long without");
}

fn spin_for_lock() -> ! {
    let lock = 1_u64;
    // SAFETY: the loop reads a variable that lives as long as it, for ever.
    unsafe {
        asm!("2: cmp qword ptr [{lock}], 0", "nop", "jne 2b", "ud2", lock = in(reg) &raw const lock, options(noreturn))
    };
}

/// Some iterations of three instructions, nothing but registers.
fn compute() -> ! {
    let iterations = option("seconds").unwrap_or(2) * 50_000_000 / 3;
    let mut left = iterations;
    let mut sum = 1_u64;
    // SAFETY: computes in its own registers.
    unsafe {
        asm!("2: lea {sum}, [{sum} + {sum} * 4 + 1]", "dec {left}", "jnz 2b", sum = inout(reg) sum, left = inout(reg) left)
    };
    black_box((sum, left));
    pass!("computed for {iterations} rounds without a sign for the outside");
}
