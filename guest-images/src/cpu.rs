//! CPU instructions: CPUID, TSC, MSRs, control registers, interrupts on and off, HLT.

use crate::trap::Exception;
use core::arch::asm;

/// The four registers that CPUID fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the registers' names")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID of a leaf and subleaf.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: CPUID changes the four registers only; RBX, which the compiler keeps, is swapped back.
    unsafe {
        asm!("mov {saved}, rbx", "cpuid", "xchg {saved}, rbx", saved = out(reg) ebx,
             inout("eax") leaf => eax, inout("ecx") subleaf => ecx, out("edx") edx,
             options(nomem, nostack, preserves_flags));
    }
    Cpuid { eax, ebx: ebx as u32, ecx, edx }
}

/// The time stamp counter.
#[must_use]
pub fn read_tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC only reads; LFENCE keeps it in program order.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// RDMSR, or the exception it raised.
pub fn try_read_msr(msr: u32) -> Result<u64, Exception> {
    let (low, high): (u32, u32);
    // SAFETY: RDMSR only reads; a fault is caught and leaves the registers as they were.
    unsafe {
        crate::try_asm!("rdmsr", in("ecx") msr, inout("eax") 0 => low, inout("edx") 0 => high, options(nostack))
    }?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// RDMSR; an exception fails the guest.
#[must_use]
pub fn read_msr(msr: u32) -> u64 {
    try_read_msr(msr).unwrap_or_else(|exception| crate::fail!("RDMSR {msr:#x} raised {exception}"))
}

/// WRMSR, or the exception it raised.
///
/// # Safety
/// The value must leave the guest able to run on: MSRs steer paging, segments and interrupts.
pub unsafe fn try_write_msr(msr: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: the caller vouches for the value; a fault is caught.
    unsafe {
        crate::try_asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    }
}

/// WRMSR; an exception fails the guest.
///
/// # Safety
/// As [`try_write_msr`].
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller vouches for the value.
    if let Err(exception) = unsafe { try_write_msr(msr, value) } {
        crate::fail!("WRMSR {msr:#x} = {value:#x} raised {exception}");
    }
}

/// Defines a reader and a caught writer of a register that MOV reaches.
macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: a MOV from the register only reads.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $name, ", or gives the exception the write raised.")]
        ///
        /// # Safety
        /// The value must leave the guest able to run on.
        pub unsafe fn $write(value: u64) -> Result<(), Exception> {
            // SAFETY: the caller vouches for the value; a fault is caught.
            unsafe { crate::try_asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) }
        }
    };
}

register!(read_cr0, try_write_cr0, "cr0");
register!(read_cr2, try_write_cr2, "cr2");
register!(read_cr3, try_write_cr3, "cr3");
register!(read_cr4, try_write_cr4, "cr4");
register!(read_cr8, try_write_cr8, "cr8");
register!(read_dr0, try_write_dr0, "dr0");
register!(read_dr1, try_write_dr1, "dr1");
register!(read_dr2, try_write_dr2, "dr2");
register!(read_dr3, try_write_dr3, "dr3");
register!(read_dr6, try_write_dr6, "dr6");
register!(read_dr7, try_write_dr7, "dr7");

/// CLI.
pub fn disable_interrupts() {
    // SAFETY: masking interrupts breaks no memory.
    unsafe { asm!("cli", options(nostack)) };
}

/// STI, and the one instruction after it, so that pending interrupts are taken on return.
pub fn enable_interrupts() {
    // SAFETY: every vector has a gate to a handler of the trap module.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// Halts until `done()` holds, which is asked with interrupts off after each interrupt. `sti; hlt` cannot miss
/// one: "the CPU delays the recognition of interrupts until the instruction after STI".
pub fn halt_until(mut done: impl FnMut() -> bool) {
    disable_interrupts();
    while !done() {
        // SAFETY: every vector has a gate to a handler of the trap module.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    }
}

/// CLI and HLT for ever.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing is left to be done; an NMI only brings us round the loop.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}
