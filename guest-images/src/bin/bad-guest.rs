//! Executes what it must not and expects the CPU's answer: VMX instructions give #UD, bad values for control
//! registers, XCR0, debug registers and MSRs give #GP, features that CPUID hides give #UD, addresses outside RAM read
//! all-ones. It must survive all of it, and so must everybody else.
//! Expected: `verdict: pass bad-guest: ...`.
#![no_std]
#![no_main]

use guest::trap::Exception;
use guest::{boot_info, check, cpu, guest_main, paging, pass, port, println, try_asm};

guest_main!(main);

const EFER: u32 = 0xC000_0080;

/// Runs one instruction and checks that it raises `$vector`. The operands are those of `asm!`.
macro_rules! raises {
    ($vector:ident, $instruction:literal $(, $($operand:tt)*)?) => {{
        // SAFETY: the instruction faults; if it does not, the guest fails for it.
        let result = unsafe { try_asm!($instruction $(, $($operand)*)?) };
        check!(
            matches!(result, Err(exception) if exception.vector == Exception::$vector),
            "{} gave {result:x?} instead of #{}", $instruction, stringify!($vector)
        );
    }};
}

fn main() {
    vmx_instructions();
    control_registers();
    extended_state();
    debug_registers();
    msrs();
    hidden_features();
    memory();
    ports();
    harmless();
    pass!("refused as a CPU refuses");
}

/// "VMX Instruction Reference": each is #UD while CR4.VMXE is clear, and CR4.VMXE cannot be set.
fn vmx_instructions() {
    let operand: u64 = 0x1000;
    let pointer = &raw const operand;
    raises!(UD, "vmxon [{}]", in(reg) pointer);
    raises!(UD, "vmxoff");
    raises!(UD, "vmclear [{}]", in(reg) pointer);
    raises!(UD, "vmptrld [{}]", in(reg) pointer);
    raises!(UD, "vmptrst [{}]", in(reg) pointer);
    raises!(UD, "vmlaunch");
    raises!(UD, "vmresume");
    raises!(UD, "vmread {0}, {1}", out(reg) _, in(reg) 0x6800_u64);
    raises!(UD, "vmwrite {0}, {1}", in(reg) 0x6800_u64, in(reg) 0_u64);
    raises!(UD, "invept {0}, [{1}]", in(reg) 2_u64, in(reg) pointer);
    raises!(UD, "invvpid {0}, [{1}]", in(reg) 2_u64, in(reg) pointer);
    raises!(UD, "vmfunc", in("eax") 0, in("ecx") 0);
    // CR4.SMXE is clear.
    raises!(UD, "getsec", inout("eax") 0 => _, out("rcx") _, out("rdx") _);
    // Only in system-management mode.
    raises!(UD, "rsm");
    println!("bad-guest: VMX instructions refused");
}

fn control_registers() {
    const CR0_PE: u64 = 1 << 0;
    const CR0_NW: u64 = 1 << 29;
    const CR0_CD: u64 = 1 << 30;
    const CR4_PAE: u64 = 1 << 5;
    const CR4_VMXE: u64 = 1 << 13;
    const CR4_SMXE: u64 = 1 << 14;
    let (cr0, cr3, cr4) = (cpu::read_cr0(), cpu::read_cr3(), cpu::read_cr4());
    for (value, why) in
        [(cr0 & !CR0_PE, "PG without PE"), (cr0 & !CR0_CD | CR0_NW, "NW without CD"), (cr0 | 1 << 63, "a bit above 31")]
    {
        // SAFETY: the write faults; if it does not, the guest fails for it.
        expect_gp(unsafe { cpu::try_write_cr0(value) }, "CR0", why);
    }
    for (value, why) in [
        (cr4 | CR4_VMXE, "VMXE"),
        (cr4 | CR4_SMXE, "SMXE"),
        (cr4 & !CR4_PAE, "no PAE in long mode"),
        (cr4 | 1 << 15, "reserved bit 15"),
        (cr4 | 1 << 40, "reserved bit 40"),
    ] {
        // SAFETY: as above.
        expect_gp(unsafe { cpu::try_write_cr4(value) }, "CR4", why);
    }
    // SAFETY: as above.
    unsafe {
        expect_gp(cpu::try_write_cr3(cr3 | 1 << 61), "CR3", "a bit above the physical address width");
        expect_gp(cpu::try_write_cr8(0x10), "CR8", "a bit above 3");
    }
    check!(cpu::read_cr0() == cr0, "CR0 changed from {cr0:#x} to {:#x}", cpu::read_cr0());
    check!(cpu::read_cr3() == cr3, "CR3 changed from {cr3:#x} to {:#x}", cpu::read_cr3());
    check!(cpu::read_cr4() == cr4, "CR4 changed from {cr4:#x} to {:#x}", cpu::read_cr4());
    println!("bad-guest: control registers refused");
}

/// "XSETBV—Set Extended Control Register".
fn extended_state() {
    const XSAVE: u32 = 1 << 26;
    const CR4_OSXSAVE: u64 = 1 << 18;
    if cpu::cpuid(1, 0).ecx & XSAVE == 0 {
        return;
    }
    let xsetbv = |index: u32, value: u64| {
        // SAFETY: nothing here uses the state that XCR0 enables.
        unsafe { try_asm!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32) }
    };
    let without = xsetbv(0, 1);
    check!(
        matches!(without, Err(exception) if exception.vector == Exception::UD),
        "XSETBV without CR4.OSXSAVE gave {without:x?} instead of #UD"
    );
    // SAFETY: CR4.OSXSAVE only allows the instructions used here.
    let enabled = unsafe { cpu::try_write_cr4(cpu::read_cr4() | CR4_OSXSAVE) };
    check!(enabled.is_ok(), "CPUID shows XSAVE, CR4.OSXSAVE gave {enabled:?}");
    let allowed = cpu::cpuid(0xD, 0);
    let allowed = u64::from(allowed.edx) << 32 | u64::from(allowed.eax);
    expect_gp(xsetbv(0, allowed & !1), "XCR0", "x87 state off");
    expect_gp(xsetbv(0, 0b101), "XCR0", "AVX without SSE");
    expect_gp(xsetbv(0, allowed | 1 << 62), "XCR0", "reserved bit 62");
    expect_gp(xsetbv(1, 1), "XCR1", "an XCR that cannot be written");
    for bit in (0..63).filter(|bit| allowed & 1 << bit == 0) {
        expect_gp(xsetbv(0, 0b11 | 1 << bit), "XCR0", "a bit that CPUID.0xD does not show");
    }
    let all = xsetbv(0, allowed);
    check!(all.is_ok(), "XCR0 = {allowed:#x}, as CPUID.0xD shows, gave {all:?}");
    println!("bad-guest: XCR0 refused");
}

fn debug_registers() {
    const CR4_DE: u64 = 1 << 3;
    // SAFETY: the writes fault; if they do not, the guest fails for it.
    unsafe {
        expect_gp(cpu::try_write_dr7(1 << 32 | 0x400), "DR7", "a bit above 31");
        expect_gp(cpu::try_write_dr6(1 << 32), "DR6", "a bit above 31");
    }
    let cr4 = cpu::read_cr4();
    // SAFETY: CR4.DE only makes DR4 and DR5 undefined.
    let enabled = unsafe { cpu::try_write_cr4(cr4 | CR4_DE) };
    check!(enabled.is_ok(), "CR4.DE gave {enabled:?}");
    raises!(UD, "mov {}, dr4", out(reg) _);
    // SAFETY: the value was there before.
    let restored = unsafe { cpu::try_write_cr4(cr4) };
    check!(restored.is_ok(), "CR4 as it was gave {restored:?}");
}

fn msrs() {
    const NON_CANONICAL: u64 = 1 << 47;
    let efer = cpu::read_msr(EFER);
    for (msr, value, why) in [
        (EFER, efer | 1 << 1, "IA32_EFER, reserved bit 1"),
        (EFER, efer | 1 << 12, "IA32_EFER, SVME of another vendor"),
        (EFER, efer & !(1 << 8), "IA32_EFER, LME cleared while paging is on"),
        (0x277, 0x0007_0406_0007_0402, "IA32_PAT, memory type 2"),
        (0x277, 0xFF07_0406_0007_0406, "IA32_PAT, memory type 0xff"),
        (0xC000_0082, NON_CANONICAL, "IA32_LSTAR, not canonical"),
        (0xC000_0083, NON_CANONICAL, "IA32_CSTAR, not canonical"),
        (0xC000_0100, NON_CANONICAL, "IA32_FS_BASE, not canonical"),
        (0xC000_0101, NON_CANONICAL, "IA32_GS_BASE, not canonical"),
        (0xC000_0102, NON_CANONICAL, "IA32_KERNEL_GS_BASE, not canonical"),
        (0x175, NON_CANONICAL, "IA32_SYSENTER_ESP, not canonical"),
        (0x176, NON_CANONICAL, "IA32_SYSENTER_EIP, not canonical"),
        (0x1B, 0xFEE0_0900 | 1 << 60, "IA32_APIC_BASE, reserved bit 60"),
        (0x1B, 0xFEE0_0901, "IA32_APIC_BASE, reserved bit 0"),
        (0xFE, 0, "IA32_MTRRCAP is read-only"),
        (0x480, 0, "IA32_VMX_BASIC is not there"),
        (0x00AB_CDEF, 0, "an MSR that does not exist"),
        (u32::MAX, u64::MAX, "an MSR that does not exist"),
    ] {
        // SAFETY: the write faults; if it does not, the guest fails for it.
        expect_gp(unsafe { cpu::try_write_msr(msr, value) }, "WRMSR", why);
    }
    check!(cpu::read_msr(EFER) == efer, "IA32_EFER changed from {efer:#x} to {:#x}", cpu::read_msr(EFER));
    raises!(GP, "rdpmc", in("ecx") 0x7FFF, out("eax") _, out("edx") _);
    println!("bad-guest: MSRs refused");
}

/// What CPUID does not show must be #UD, or the guest would use what is not virtualised.
fn hidden_features() {
    let (one, seven) = (cpu::cpuid(1, 0), cpu::cpuid(7, 0));
    let descriptor = [0_u64; 2];
    let pointer = &raw const descriptor;
    if one.ecx & 1 << 3 == 0 {
        raises!(UD, "monitor", in("rax") pointer, in("ecx") 0, in("edx") 0);
        raises!(UD, "mwait", in("eax") 0, in("ecx") 0);
    }
    if cpu::cpuid(0x8000_0001, 0).edx & 1 << 27 == 0 {
        raises!(UD, "rdtscp", out("eax") _, out("edx") _, out("ecx") _);
    }
    if seven.ebx & 1 << 10 == 0 {
        raises!(UD, "invpcid {0}, [{1}]", in(reg) 2_u64, in(reg) pointer);
    }
    if seven.ecx & 1 << 5 == 0 {
        raises!(UD, "tpause {0:e}", in(reg) 0, in("eax") 0, in("edx") 0);
    }
    if seven.ebx & 1 << 2 == 0 {
        raises!(UD, "encls", in("eax") 0x7FFF);
    }
    if cpu::cpuid(0xD, 1).eax & 1 << 3 == 0 {
        raises!(UD, "xsaves64 [{0}]", in(reg) pointer, in("eax") 0, in("edx") 0);
    }
}

fn memory() {
    // Between the end of RAM and the devices below 4 GiB, and in the VGA hole.
    let ram_end = boot_info::memory_map()
        .filter(|region| region.kind == boot_info::Region::RAM && region.start < 1 << 32)
        .map(|region| region.start + region.len_bytes)
        .max();
    let Some(ram_end) = ram_end else { guest::fail!("the memory map has no RAM") };
    for address in [0xA_0000, ram_end.next_multiple_of(4096), 0xD000_0000, 0xFED2_0000] {
        let pointer = address as *mut u64;
        // SAFETY: no RAM is at the address, so nothing can be broken there.
        let (before, after) = unsafe {
            let before = pointer.read_volatile();
            pointer.write_volatile(0x0123_4567_89AB_CDEF);
            (before, pointer.read_volatile())
        };
        check!(
            before == u64::MAX && after == u64::MAX,
            "{address:#x}, outside RAM, reads {before:#x}, then {after:#x}"
        );
    }
    raises!(GP, "mov {0}, [{1}]", out(reg) _, in(reg) 1_u64 << 47);
    let unmapped = paging::map_all();
    if unmapped < 1 << 47 {
        raises!(PF, "mov {0}, [{1}]", out(reg) _, in(reg) unmapped);
        check!(cpu::read_cr2() == unmapped, "CR2 is {:#x} after a fault at {unmapped:#x}", cpu::read_cr2());
    }
    println!("bad-guest: addresses outside RAM refused");
}

fn ports() {
    for address in [0xCF8, 0x40, 0x3F8, 0x60, 0xFFFF, 0xFFFE] {
        let _ = (port::read_u8(address), port::read_u16(address), port::read_u32(address));
    }
    let mut words = [0; 64];
    port::read_dwords(0xFFFD, &mut words);
}

/// What exits to the hypervisor and has to go on as if nothing had happened.
fn harmless() {
    for leaf in [0x4000_00FF, 0x8FFF_FFFF, 0xC000_0000, u32::MAX] {
        let _ = cpu::cpuid(leaf, u32::MAX);
    }
    // SAFETY: WBINVD and INVD only concern the cache, CLTS only the FPU; VMCALL asks for a call that does not exist.
    unsafe {
        core::arch::asm!("wbinvd", "clts", options(nostack));
        let answer: u64;
        let called = try_asm!("vmcall", inout("rax") 0x7FFF_FFFF_u64 => answer, out("rcx") _, out("rdx") _);
        check!(called.is_ok(), "VMCALL gave {called:?}");
        check!(answer == u64::MAX, "VMCALL of a number that is not defined answers {answer:#x}");
    }
    raises!(GP, "ltr {0:x}", in(reg) 0_u32);
    raises!(GP, "mov ds, {0:e}", in(reg) 0xFFF8_u32);
}

fn expect_gp(result: Result<(), Exception>, register: &str, why: &str) {
    let refused = result == Err(Exception { vector: Exception::GP, error_code: 0 });
    check!(refused, "{register} ({why}) gave {result:x?} instead of #GP(0)");
}
