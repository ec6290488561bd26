//! The registers of the local APIC of the CPU that calls, in memory (xAPIC) or as MSRs (x2APIC).
//!
//! Source: Intel SDM volume 3, "Local APIC" and "Extended XAPIC (x2APIC)". An access reaches the local APIC of the CPU that
//! executes it, under the same address on every CPU: so there is nothing here to lock, and nothing to keep per CPU.

use crate::cpu::msr;

/// A register, by its offset in the xAPIC's page; its x2APIC MSR is 0x800 + offset / 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    LvtTimer = 0x320,
    LvtLint0 = 0x350,
    LvtLint1 = 0x360,
    LvtError = 0x370,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    DivideConfiguration = 0x3e0,
}

/// Interrupt command register: its low half in xAPIC mode, the whole of it in x2APIC mode.
const ICR_LOW: u32 = 0x300;
/// Its high half in xAPIC mode.
const ICR_HIGH: u32 = 0x310;
/// "Delivery status": the last command has not left the local APIC. There is none in x2APIC mode.
const ICR_PENDING: u32 = 1 << 12;
const X2APIC_MSR_BASE: u32 = 0x800;

/// How the local APICs are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Registers {
    /// In memory, mapped uncacheable at this linear address for good.
    Memory(u64),
    /// As MSRs.
    Msrs,
}

impl Registers {
    fn pointer(base: u64, offset: u32) -> *mut u32 {
        (base + u64::from(offset)) as *mut u32
    }

    pub(super) fn read(self, register: Register) -> u32 {
        let offset = register as u32;
        match self {
            // SAFETY: the page is the local APIC's, mapped uncacheable for good; reading these registers changes nothing.
            Self::Memory(base) => unsafe { Self::pointer(base, offset).read_volatile() },
            Self::Msrs => msr::read(X2APIC_MSR_BASE + (offset >> 4)) as u32,
        }
    }

    /// Writes a register.
    ///
    /// # Safety
    /// An interrupt that this lets come must have a handler.
    pub(super) unsafe fn write(self, register: Register, value: u32) {
        let offset = register as u32;
        match self {
            // SAFETY: the page is the local APIC's, mapped uncacheable for good; the rest is the caller's.
            Self::Memory(base) => unsafe { Self::pointer(base, offset).write_volatile(value) },
            // SAFETY: none of these registers names memory; the rest is the caller's.
            Self::Msrs => unsafe { msr::write(X2APIC_MSR_BASE + (offset >> 4), u64::from(value)) },
        }
    }

    /// Sends an interprocessor interrupt. The CPU's interrupts are off, so only a handler that never returns (a panic's) can
    /// come in between the two halves.
    ///
    /// # Safety
    /// The CPU with this local APIC ID must be ready for it: have a handler for the vector, or be the one to be started.
    pub(super) unsafe fn send(self, destination: u32, command: u32) {
        match self {
            Self::Memory(base) => {
                let (high, low) = (Self::pointer(base, ICR_HIGH), Self::pointer(base, ICR_LOW));
                // SAFETY: the page is the local APIC's, mapped uncacheable for good. Writing the low half sends.
                unsafe {
                    while low.read_volatile() & ICR_PENDING != 0 {
                        core::hint::spin_loop();
                    }
                    high.write_volatile(destination << 24);
                    low.write_volatile(command);
                }
            }
            Self::Msrs => {
                // "WRMSR to an x2APIC register may complete before all preceding stores are globally visible" ("x2APIC Register
                // Address Space"): what was written for the other CPU comes first.
                // SAFETY: fences; then the ICR, which names no memory. The rest is the caller's.
                unsafe {
                    core::arch::x86_64::_mm_mfence();
                    core::arch::x86_64::_mm_lfence();
                    msr::write(X2APIC_MSR_BASE + (ICR_LOW >> 4), u64::from(destination) << 32 | u64::from(command));
                }
            }
        }
    }

    /// The local APIC ID.
    pub(super) fn id(self) -> u32 {
        let id = self.read(Register::Id);
        if self == Self::Msrs { id } else { id >> 24 }
    }

    /// The highest local APIC ID that a command can name and that is no broadcast.
    pub(super) const fn max_id(self) -> u32 {
        if matches!(self, Self::Msrs) { u32::MAX - 1 } else { 0xfe }
    }
}
