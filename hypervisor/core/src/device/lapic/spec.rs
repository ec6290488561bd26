//! The local APIC's registers (SDM volume 3, "Local APIC Register Address Map", "Extended XAPIC (x2APIC)").
//!
//! Offsets are those of the xAPIC page; the x2APIC MSR of a register is `MSR_BASE + offset / 16`.

use bitflags::bitflags;

/// Local APIC ID: bits 31:24 in xAPIC mode, all 32 in x2APIC mode.
pub const ID: u16 = 0x020;
/// Local APIC version.
pub const VERSION: u16 = 0x030;
/// Task priority.
pub const TPR: u16 = 0x080;
/// Arbitration priority: not supported since the Pentium 4, reads 0.
pub const APR: u16 = 0x090;
/// Processor priority.
pub const PPR: u16 = 0x0a0;
/// End of interrupt.
pub const EOI: u16 = 0x0b0;
/// Logical destination.
pub const LDR: u16 = 0x0d0;
/// Destination format (xAPIC only).
pub const DFR: u16 = 0x0e0;
/// Spurious-interrupt vector.
pub const SVR: u16 = 0x0f0;
/// In-service register, the first of eight.
pub const ISR: u16 = 0x100;
/// Trigger mode register, the first of eight.
pub const TMR: u16 = 0x180;
/// Interrupt request register, the first of eight.
pub const IRR: u16 = 0x200;
/// The last of the eight interrupt request registers.
pub const IRR_LAST: u16 = 0x270;
/// Error status.
pub const ESR: u16 = 0x280;
/// Interrupt command, bits 31:0.
pub const ICR_LOW: u16 = 0x300;
/// Interrupt command, bits 63:32 (the destination).
pub const ICR_HIGH: u16 = 0x310;
/// LVT timer register.
pub const LVT_TIMER: u16 = 0x320;
/// LVT thermal sensor register.
pub const LVT_THERMAL: u16 = 0x330;
/// LVT performance monitoring counters register.
pub const LVT_PERFORMANCE: u16 = 0x340;
/// LVT LINT0 register.
pub const LVT_LINT0: u16 = 0x350;
/// LVT LINT1 register.
pub const LVT_LINT1: u16 = 0x360;
/// LVT error register.
pub const LVT_ERROR: u16 = 0x370;
/// Initial count of the timer.
pub const INITIAL_COUNT: u16 = 0x380;
/// Current count of the timer.
pub const CURRENT_COUNT: u16 = 0x390;
/// Divide configuration of the timer.
pub const DIVIDE: u16 = 0x3e0;
/// Self IPI (x2APIC only).
pub const SELF_IPI: u16 = 0x3f0;
/// The first offset that is no register's.
pub const END: u16 = 0x400;

/// All LVT registers.
pub const LVTS: [u16; 6] = [LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR];

/// First MSR of the x2APIC's address space.
pub const MSR_BASE: u32 = 0x800;
/// Last MSR of the x2APIC's address space.
pub const MSR_LAST: u32 = 0x8ff;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Version 14H, max LVT entry 5 (six entries), support for EOI-broadcast suppression (bit 24).
pub const VERSION_VALUE: u32 = 0x0105_0014;
/// TPR bits that exist.
pub const TPR_MASK: u32 = 0xff;
/// LDR and ICR-high bits that exist in xAPIC mode.
pub const XAPIC_DESTINATION: u32 = 0xff00_0000;
/// DFR bits 27:0 are all ones; 31:28 are the model (flat 1111b, cluster 0000b).
pub const DFR_ONES: u32 = 0x0fff_ffff;
/// Divide configuration bits that exist.
pub const DIVIDE_MASK: u32 = 0xb;
/// The lowest vector that is legal for an interrupt message.
pub const FIRST_LEGAL_VECTOR: u8 = 16;

bitflags! {
    /// IA32_APIC_BASE.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ApicBase: u64 {
        /// The bootstrap processor.
        const BSP = 1 << 8;
        /// x2APIC mode.
        const EXTD = 1 << 10;
        /// APIC global enable.
        const EN = 1 << 11;
        /// The base address, as far as a 52-bit physical address goes.
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }

    /// The spurious-interrupt vector register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Svr: u32 {
        /// The spurious vector.
        const VECTOR = 0xff;
        /// APIC software enable.
        const ENABLED = 1 << 8;
        /// EOI-broadcast suppression.
        const SUPPRESS_EOI_BROADCAST = 1 << 12;
    }

    /// An LVT register. Which flags exist differs (see [`lvt_writable`]).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Lvt: u32 {
        /// The vector.
        const VECTOR = 0xff;
        /// The delivery mode.
        const DELIVERY_MODE = 7 << 8;
        /// Delivery status (read only): always idle here, an interrupt is accepted at once.
        const DELIVERY_STATUS = 1 << 12;
        /// Interrupt input pin polarity: active low.
        const ACTIVE_LOW = 1 << 13;
        /// Remote IRR (read only).
        const REMOTE_IRR = 1 << 14;
        /// Trigger mode: level.
        const LEVEL = 1 << 15;
        /// Masked.
        const MASKED = 1 << 16;
        /// The timer's mode.
        const TIMER_MODE = 3 << 17;
    }

    /// The low half of the interrupt command register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Icr: u32 {
        /// The vector.
        const VECTOR = 0xff;
        /// The delivery mode.
        const DELIVERY_MODE = 7 << 8;
        /// Logical destination.
        const LOGICAL = 1 << 11;
        /// Delivery status (read only; does not exist in x2APIC mode).
        const DELIVERY_STATUS = 1 << 12;
        /// Level: assert.
        const ASSERT = 1 << 14;
        /// Trigger mode: level.
        const LEVEL = 1 << 15;
        /// The destination shorthand.
        const SHORTHAND = 3 << 18;
    }

    /// The error status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Esr: u32 {
        /// An IPI with a vector below 16 was to be sent.
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// A message, or an LVT entry's interrupt, had a vector below 16.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// A reserved register was accessed in xAPIC mode.
        const ILLEGAL_REGISTER = 1 << 7;
    }
}

/// The base address after a reset, and the only one at which this APIC can be enabled.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// The bits of an LVT register that software can write; `None` if `offset` is no LVT register.
pub const fn lvt_writable(offset: u16) -> Option<Lvt> {
    let every = Lvt::VECTOR.union(Lvt::MASKED);
    Some(match offset {
        LVT_TIMER => every.union(Lvt::TIMER_MODE),
        LVT_THERMAL | LVT_PERFORMANCE => every.union(Lvt::DELIVERY_MODE),
        LVT_LINT0 | LVT_LINT1 => every.union(Lvt::DELIVERY_MODE).union(Lvt::ACTIVE_LOW).union(Lvt::LEVEL),
        LVT_ERROR => every,
        _ => return None,
    })
}
