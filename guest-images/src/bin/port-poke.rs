//! Port I/O: nobody's ports read all-ones in every width, the PC's ports answer as their datasheets say, string I/O
//! moves every byte, PCI configuration space is empty but for the host bridge.
//! Expected: `verdict: pass port-poke: ...`.
#![no_std]
#![no_main]

use core::arch::asm;
use guest::{check, guest_main, pass, pic, port, println};

guest_main!(main);

/// Ports that no device of the machine decodes.
const UNCLAIMED: [u16; 7] = [0x100, 0x150, 0x278, 0x300, 0x1234, 0xE000, 0xFFF0];
const COM1: u16 = 0x3F8;
const UART_SCRATCH: u16 = COM1 + 7;

fn main() {
    check_unclaimed();
    check_register_halves();
    check_pic();
    check_pit();
    check_rtc();
    check_uart();
    check_string_io();
    check_pci();
    port::write_u8(0x80, 0x42);
    let status = port::read_u8(0x64);
    check!(status != 0xFF, "the keyboard controller's status reads {status:#x}: a guest would wait for ever");
    pass!("ports, string I/O and PCI configuration space");
}

fn check_unclaimed() {
    for address in UNCLAIMED {
        port::write_u8(address, 0);
        port::write_u16(address, 0);
        port::write_u32(address, 0);
        let (byte, word, double) = (port::read_u8(address), port::read_u16(address), port::read_u32(address));
        check!(byte == 0xFF, "port {address:#x} reads {byte:#x} as a byte");
        check!(word == 0xFFFF, "port {address:#x} reads {word:#x} as a word");
        check!(double == 0xFFFF_FFFF, "port {address:#x} reads {double:#x} as a double word");
    }
    // The last ports: an access that runs over the end of the port space must do no harm.
    let _ = (port::read_u16(0xFFFF), port::read_u32(0xFFFD));
}

/// IN to AL and AX leaves the rest of RAX; IN to EAX clears the upper half, as any write to a 32-bit register.
fn check_register_halves() {
    const PRESET: u64 = 0x1122_3344_5566_7788;
    let read = |width: u8| {
        let mut rax = PRESET;
        // SAFETY: IN from a port that nobody decodes changes RAX alone.
        unsafe {
            match width {
                1 => asm!("in al, dx", inout("rax") rax, in("dx") UNCLAIMED[0], options(nomem, nostack)),
                2 => asm!("in ax, dx", inout("rax") rax, in("dx") UNCLAIMED[0], options(nomem, nostack)),
                _ => asm!("in eax, dx", inout("rax") rax, in("dx") UNCLAIMED[0], options(nomem, nostack)),
            }
        }
        rax
    };
    for (width, expected) in [(1, PRESET | 0xFF), (2, PRESET | 0xFFFF), (4, 0xFFFF_FFFF)] {
        let rax = read(width);
        check!(rax == expected, "IN of {width} bytes leaves RAX {rax:#x} instead of {expected:#x}");
    }
}

fn check_pic() {
    pic::init();
    for masks in [0x5AA5, 0xA55A, 0xFFFF] {
        pic::set_masks(masks);
        let found = pic::masks();
        check!(found == masks, "the PICs' masks read {found:#x}, {masks:#x} was written");
    }
}

fn check_pit() {
    const RELOAD: u16 = 10_000;
    pic::start_pit(RELOAD);
    let first = pic::pit_count();
    let mut moved = false;
    for _ in 0..1000 {
        let count = pic::pit_count();
        check!(count <= RELOAD, "the PIT counts {count}, above its reload value");
        moved |= count != first;
    }
    check!(moved, "the PIT stands still at {first}");
    // Read-back command: latch the status of channel 0. Bits 5 to 0: access mode, mode and BCD, as programmed.
    port::write_u8(0x43, 0xE2);
    let status = port::read_u8(0x40);
    check!(status & 0x3F == 0x34, "the PIT's read-back status is {status:#x}, programmed was 0x34");
}

fn check_rtc() {
    let read = |register: u8| {
        port::write_u8(0x70, register | 0x80);
        port::read_u8(0x71)
    };
    let (status_a, status_d) = (read(0x0A), read(0x0D));
    check!(status_a != 0xFF, "the RTC's register A reads all-ones: always updating");
    check!(status_d & 0x80 != 0, "the RTC's register D is {status_d:#x}: not valid");
    let status_b = read(0x0B);
    let binary = |value: u8| if status_b & 4 != 0 { value } else { (value >> 4) * 10 + (value & 0xF) };
    for (register, name, range) in
        [(0, "seconds", 0..=59), (2, "minutes", 0..=59), (7, "day", 1..=31), (8, "month", 1..=12), (9, "year", 0..=99)]
    {
        let value = binary(read(register));
        check!(range.contains(&value), "the RTC's {name} is {value}");
    }
}

fn check_uart() {
    for value in [0x5A, 0xA5, 0x00, 0xFF] {
        port::write_u8(UART_SCRATCH, value);
        let found = port::read_u8(UART_SCRATCH);
        check!(found == value, "the UART's scratch register reads {found:#x}, {value:#x} was written");
    }
    let line_status = port::read_u8(COM1 + 5);
    check!(line_status & 0x60 != 0 && line_status != 0xFF, "the UART's line status is {line_status:#x}");
}

#[repr(C, align(4096))]
struct Pages([u8; 8192]);

fn check_string_io() {
    port::write_bytes(COM1, b"port-poke: this line came by rep outsb\r\n");
    // Backwards, with the direction flag set.
    let text = *b"\n\rb stuo per yb sdrawkcab emac enil siht :ekop-trop";
    // SAFETY: REP OUTSB with DF = 1 reads the array from its last byte to its first; DF is cleared again.
    unsafe {
        asm!("std", "rep outsb", "cld", in("dx") COM1, inout("rsi") &raw const text[text.len() - 1] => _,
             inout("rcx") text.len() => _, options(nostack));
    }

    // Into two pages that were never touched, across their boundary.
    static mut BUFFER: Pages = Pages([0; 8192]);
    let buffer = &raw mut BUFFER;
    // SAFETY: one CPU, no interrupts: the only reference.
    let bytes = unsafe { &mut (*buffer).0 };
    port::write_u8(UART_SCRATCH, 0xC3);
    port::read_bytes(UART_SCRATCH, &mut bytes[4080..4112]);
    check!(bytes[4080..4112].iter().all(|&byte| byte == 0xC3), "rep insb across a page boundary lost bytes");
    check!(bytes[4079] == 0 && bytes[4112] == 0, "rep insb wrote beyond its buffer");
    port::read_bytes(UART_SCRATCH, &mut bytes[..0]);
    check!(bytes[0] == 0, "rep insb of no bytes wrote one");
    let mut words = [0; 5];
    port::read_dwords(UNCLAIMED[0], &mut words[..4]);
    check!(words == [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0], "rep insd of nobody's port gave {words:x?}");
    println!("port-poke: string I/O done");
}

fn check_pci() {
    const ENABLE: u32 = 1 << 31;
    let read = |address: u32| {
        port::write_u32(0xCF8, address);
        port::read_u32(0xCFC)
    };
    let host_bridge = read(ENABLE);
    check!(host_bridge != u32::MAX && host_bridge != 0, "no PCI host bridge at 00:00.0: {host_bridge:#x}");
    check!(port::read_u32(0xCF8) == ENABLE, "CONFIG_ADDRESS does not read back");
    let bytes = [0, 1, 2, 3].map(|offset| port::read_u8(0xCFC + offset));
    check!(u32::from_le_bytes(bytes) == host_bridge, "byte reads of CONFIG_DATA give {bytes:x?}, not {host_bridge:#x}");
    let words = [0, 2].map(|offset| port::read_u16(0xCFC + offset));
    check!(u32::from(words[0]) | u32::from(words[1]) << 16 == host_bridge, "word reads of CONFIG_DATA give {words:x?}");
    for device in 1..32 {
        let id = read(ENABLE | device << 11);
        check!(id == u32::MAX, "PCI device 00:{device:02x}.0 reads {id:#x}");
    }
    for bus in [1, 7, 255] {
        let id = read(ENABLE | bus << 16);
        check!(id == u32::MAX, "PCI bus {bus} reads {id:#x}");
    }
    check!(read(0) == u32::MAX, "CONFIG_DATA answers with CONFIG_ADDRESS disabled");
}
