//! MMIO: the local APIC and the IOAPIC by every instruction form that compilers emit for device registers, with their
//! results and flags; nobody's addresses read all-ones in every width, and swallow writes.
//! Expected: `verdict: pass mmio-poke: ...`.
#![no_std]
#![no_main]

use core::arch::asm;
use guest::apic::{self, IOAPIC_ADDRESS, XAPIC_ADDRESS, register};
use guest::{check, guest_main, pass, println};

guest_main!(main);

/// An address where neither RAM nor a device is.
const UNCLAIMED: u64 = 0xFEA0_0000;
const IOWIN: u64 = IOAPIC_ADDRESS + 0x10;
/// IOAPIC register: the high half of redirection entry 5. Its bits 31 to 24 (destination) can be written.
const ENTRY_5_HIGH: u8 = 0x10 + 2 * 5 + 1;
/// IOAPIC register: the low half of redirection entry 5.
const ENTRY_5_LOW: u8 = 0x10 + 2 * 5;

const CARRY: u64 = 1 << 0;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;

/// Runs one instruction with RAX = `$rax` and RSI = `$address`; gives RAX and the flags after it.
macro_rules! run {
    ($instruction:literal, $address:expr, $rax:expr) => {{
        let mut rax: u64 = $rax;
        let flags: u64;
        // SAFETY: the instruction touches RAX, the flags and a device register that steers no memory.
        unsafe {
            asm!($instruction, "pushfq", "pop {}", out(reg) flags, inout("rax") rax, inout("rsi") $address => _,
                  out("rcx") _, out("rdi") _, out("r11") _, out("r13") _, out("r14") _);
        }
        (rax, flags & (CARRY | ZERO | SIGN))
    }};
}

fn main() {
    check!(!apic::is_x2apic(), "a guest starts in xAPIC mode");
    check_local_apic();
    check_ioapic();
    check_moves();
    check_arithmetic();
    check_addressing();
    check_unclaimed();
    check_invlpg();
    pass!("local APIC, IOAPIC and {UNCLAIMED:#x}");
}

fn check_local_apic() {
    let id = apic::read(register::ID);
    check!(id & 0x00FF_FFFF == 0, "the local APIC's ID register is {id:#x}");
    let version = apic::read(register::VERSION);
    println!("mmio-poke: local APIC ID {id:#x}, version {version:#x}");
    check!((0x10..=0x15).contains(&(version & 0xFF)), "the local APIC's version is {version:#x}");
    check!(version >> 16 & 0xFF >= 4, "the local APIC has {} LVT entries", (version >> 16 & 0xFF) + 1);
    for value in [0x50, 0x00] {
        apic::write(register::TPR, value);
        let found = apic::read(register::TPR);
        check!(found == value, "the TPR reads {found:#x}, {value:#x} was written");
    }
}

fn check_ioapic() {
    let version = apic::ioapic_read(1);
    println!("mmio-poke: IOAPIC version {version:#x}");
    check!(matches!(version & 0xFF, 0x11 | 0x20), "the IOAPIC's version is {version:#x}");
    check!(version >> 16 & 0xFF == 23, "the IOAPIC has {} pins", (version >> 16 & 0xFF) + 1);
    for pin in 0..24 {
        let entry = apic::ioapic_read(0x10 + 2 * pin);
        check!(entry & apic::MASKED != 0, "the IOAPIC's pin {pin} is not masked at the start: {entry:#x}");
    }
    let id = apic::ioapic_read(0);
    apic::ioapic_write(0, 0x0F00_0000);
    check!(apic::ioapic_read(0) == 0x0F00_0000, "the IOAPIC's ID does not hold what is written");
    apic::ioapic_write(0, id);
    // "Delivery Status" (12) and "Remote IRR" (14) are read-only.
    apic::ioapic_write(ENTRY_5_LOW, 0xFFFF_FFFF);
    let found = apic::ioapic_read(ENTRY_5_LOW);
    check!(found == 0x0001_AFFF, "redirection entry 5 holds {found:#x} of all-ones, not 0x1afff");
    apic::ioapic_write(ENTRY_5_LOW, apic::MASKED);
    check!(apic::ioapic_read(ENTRY_5_LOW) == apic::MASKED, "redirection entry 5 does not go back to masked");
    apic::ioapic_write(ENTRY_5_HIGH, 0x4200_0000);
    check!(apic::ioapic_read(ENTRY_5_LOW) == apic::MASKED, "the high half of an entry changes its low half");
    // Reserved indices do not answer with a register.
    apic::ioapic_write(0x50, 0x1234_5678);
    check!(apic::ioapic_read(0x50) != 0x1234_5678, "a register that does not exist holds a value");
}

/// Sets the high half of redirection entry 5 and leaves IOREGSEL on it, for the forms to work on.
fn set_entry(value: u32) {
    apic::ioapic_write(ENTRY_5_HIGH, value);
}

/// What the high half of redirection entry 5 holds.
fn entry() -> u32 {
    apic::ioapic_read(ENTRY_5_HIGH)
}

fn check_moves() {
    set_entry(0x8700_0000);
    let (rax, _) = run!("mov eax, [rsi]", IOWIN, u64::MAX);
    check!(rax == 0x8700_0000, "mov eax, [m] gives RAX {rax:#x}");
    let (rax, _) = run!("movsxd rax, dword ptr [rsi]", IOWIN, 0);
    check!(rax == 0xFFFF_FFFF_8700_0000, "movsxd rax, [m] gives RAX {rax:#x}");
    run!("mov [rsi], eax", IOWIN, 0x1100_0000);
    check!(entry() == 0x1100_0000, "mov [m], eax stores {:#x}", entry());
    run!("mov dword ptr [rsi], 0x22000000", IOWIN, 0);
    check!(entry() == 0x2200_0000, "mov [m], imm32 stores {:#x}", entry());
    run!("mov r11d, 0x33000000; mov [rsi], r11d; xor r11d, r11d", IOWIN, 0);
    check!(entry() == 0x3300_0000, "mov [m], r11d stores {:#x}", entry());
    let (rax, _) = run!("xchg [rsi], eax", IOWIN, 0x4400_0000);
    check!(rax == 0x3300_0000 && entry() == 0x4400_0000, "xchg gives {rax:#x} and stores {:#x}", entry());
    let (rax, _) = run!("mov rdi, rsi; mov ecx, 1; rep stosd", IOWIN, 0x5500_0000);
    check!(rax == 0x5500_0000 && entry() == 0x5500_0000, "rep stosd stores {:#x}", entry());
    let (rax, _) = run!("cld; lodsd", IOWIN, 0);
    check!(rax == 0x5500_0000, "lodsd gives RAX {rax:#x}");
}

fn check_arithmetic() {
    set_entry(0xF000_0000);
    let (_, flags) = run!("and dword ptr [rsi], 0x0F000000", IOWIN, 0);
    check!(entry() == 0 && flags == ZERO, "and [m], imm32 stores {:#x}, flags {flags:#x}", entry());
    let (_, flags) = run!("or [rsi], eax", IOWIN, 0x8100_0000);
    check!(entry() == 0x8100_0000 && flags == SIGN, "or [m], eax stores {:#x}, flags {flags:#x}", entry());
    let (_, flags) = run!("xor [rsi], eax", IOWIN, 0x0100_0000);
    check!(entry() == 0x8000_0000 && flags == SIGN, "xor [m], eax stores {:#x}, flags {flags:#x}", entry());
    let (_, flags) = run!("test dword ptr [rsi], 0x40000000", IOWIN, 0);
    check!(entry() == 0x8000_0000 && flags == ZERO, "test [m], imm32: {:#x}, flags {flags:#x}", entry());
    let (_, flags) = run!("test [rsi], eax", IOWIN, 0x8000_0000);
    check!(flags == SIGN, "test [m], eax: flags {flags:#x}");
    let (_, flags) = run!("cmp dword ptr [rsi], 0", IOWIN, 0);
    check!(flags == SIGN, "cmp [m], 0: flags {flags:#x}");
    let (_, flags) = run!("cmp eax, [rsi]", IOWIN, 0x7000_0000);
    check!(flags == CARRY | SIGN, "cmp eax, [m]: flags {flags:#x}");
    let (rax, flags) = run!("add eax, [rsi]", IOWIN, 0x8000_0000);
    check!(rax == 0 && flags == CARRY | ZERO, "add eax, [m] gives {rax:#x}, flags {flags:#x}");
    let (rax, flags) = run!("and eax, [rsi]", IOWIN, 0xFFFF_FFFF);
    check!(rax == 0x8000_0000 && flags == SIGN, "and eax, [m] gives {rax:#x}, flags {flags:#x}");
    let (rax, _) = run!("or eax, [rsi]", IOWIN, 0x0000_0001);
    check!(rax == 0x8000_0001, "or eax, [m] gives {rax:#x}");
    let (_, flags) = run!("bt dword ptr [rsi], 31", IOWIN, 0);
    check!(flags & CARRY != 0, "bt [m], 31: flags {flags:#x}");
}

fn check_addressing() {
    set_entry(0x6600_0000);
    let (rax, _) = run!("mov ecx, 4; sub rsi, 0x1010; mov eax, [rsi + rcx * 4 + 0x1000]", IOWIN, 0);
    check!(rax == 0x6600_0000, "mov eax, [base + index * 4 + disp32] gives {rax:#x}");
    let (rax, _) = run!("mov r13, rsi; mov r14d, [r13]; mov eax, r14d", IOWIN, 0);
    check!(rax == 0x6600_0000, "mov r14d, [r13] gives {rax:#x}");
    let (rax, _) = run!("movabs eax, [0xFEC00010]", 0_u64, 0);
    check!(rax == 0x6600_0000, "mov eax, moffs gives {rax:#x}");
    let (rax, _) = run!("mov eax, dword ptr [esi]", IOWIN, 0);
    check!(rax == 0x6600_0000, "mov eax, [esi] (32-bit address) gives {rax:#x}");
}

fn check_unclaimed() {
    let (rax, _) = run!("mov al, [rsi]", UNCLAIMED, 0);
    check!(rax == 0xFF, "mov al, [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("mov ah, [rsi + 1]", UNCLAIMED, 0);
    check!(rax == 0xFF00, "mov ah, [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("mov ax, [rsi]", UNCLAIMED, 0);
    check!(rax == 0xFFFF, "mov ax, [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("mov eax, [rsi]", UNCLAIMED, 0);
    check!(rax == 0xFFFF_FFFF, "mov eax, [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("mov rax, [rsi]", UNCLAIMED, 0);
    check!(rax == u64::MAX, "mov rax, [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("movzx eax, byte ptr [rsi + 3]", UNCLAIMED, u64::MAX);
    check!(rax == 0xFF, "movzx eax, byte [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("movzx eax, word ptr [rsi + 2]", UNCLAIMED, u64::MAX);
    check!(rax == 0xFFFF, "movzx eax, word [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("movsx rax, byte ptr [rsi]", UNCLAIMED, 0);
    check!(rax == u64::MAX, "movsx rax, byte [unclaimed] gives {rax:#x}");
    let (rax, _) = run!("push qword ptr [rsi]; pop rax", UNCLAIMED, 0);
    check!(rax == u64::MAX, "push [unclaimed] pushes {rax:#x}");
    let (_, flags) = run!("cmp byte ptr [rsi], 0xFF", UNCLAIMED, 0);
    check!(flags == ZERO, "cmp byte [unclaimed], 0xff: flags {flags:#x}");
    run!("mov [rsi], al", UNCLAIMED, 0);
    run!("mov [rsi], ax", UNCLAIMED, 0);
    run!("mov [rsi], rax", UNCLAIMED, 0);
    run!("mov byte ptr [rsi], 0x5A", UNCLAIMED, 0);
    run!("mov word ptr [rsi], 0x5A5A", UNCLAIMED, 0);
    run!("mov qword ptr [rsi], 0x5A5A5A5A", UNCLAIMED, 0);
    let (rax, _) = run!("mov rax, [rsi]", UNCLAIMED, 0);
    check!(rax == u64::MAX, "a write to nobody's address is kept: {rax:#x}");
    // Across a page boundary, and a misaligned one within a page.
    let (rax, _) = run!("mov rax, [rsi + 0xFFC]", UNCLAIMED, 0);
    check!(rax == u64::MAX, "a read across a page boundary gives {rax:#x}");
    let (rax, _) = run!("mov eax, [rsi + 1]", UNCLAIMED, 0);
    check!(rax == 0xFFFF_FFFF, "a misaligned read gives {rax:#x}");
}

/// INVLPG of mapped, device and absent addresses does nothing that can be seen.
fn check_invlpg() {
    let before = apic::read(register::VERSION);
    for address in [0x20_0000, XAPIC_ADDRESS, UNCLAIMED, 0x7FFF_FFFF_F000] {
        // SAFETY: INVLPG only drops cached translations.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
    }
    check!(apic::read(register::VERSION) == before, "the local APIC reads differently after INVLPG");
}
