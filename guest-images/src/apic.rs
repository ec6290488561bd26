//! The local APIC, in xAPIC mode by MMIO or in x2APIC mode by MSR, and the IOAPIC.

use crate::cpu;

/// IA32_APIC_BASE.
pub const APIC_BASE_MSR: u32 = 0x1B;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE_MSR: u32 = 0x6E0;
/// IA32_APIC_BASE: this is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: APIC global enable.
pub const BASE_ENABLE: u64 = 1 << 11;

/// Where the xAPIC's registers are.
pub const XAPIC_ADDRESS: u64 = 0xFEE0_0000;
/// Where the IOAPIC's registers are.
pub const IOAPIC_ADDRESS: u64 = 0xFEC0_0000;

/// LVT: masked.
pub const MASKED: u32 = 1 << 16;
/// LVT timer: periodic.
pub const TIMER_PERIODIC: u32 = 1 << 17;
/// LVT timer: TSC-deadline.
pub const TIMER_TSC_DEADLINE: u32 = 2 << 17;
/// LVT and ICR delivery mode: NMI.
pub const DELIVERY_NMI: u32 = 4 << 8;
/// LVT delivery mode: ExtINT.
pub const DELIVERY_EXTINT: u32 = 7 << 8;
/// Divide configuration: by 1.
pub const DIVIDE_BY_1: u32 = 0b1011;
/// SVR: APIC software enable.
pub const SOFTWARE_ENABLE: u32 = 1 << 8;
/// The spurious vector that `enable` sets.
pub const SPURIOUS_VECTOR: u8 = 0xFF;

/// ICR destination mode: logical.
pub const ICR_LOGICAL: u32 = 1 << 11;
/// ICR level: assert.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR trigger mode: level.
pub const ICR_LEVEL: u32 = 1 << 15;
/// ICR delivery mode: lowest priority (xAPIC mode only).
pub const ICR_LOWEST_PRIORITY: u32 = 1 << 8;
/// ICR delivery mode: INIT.
pub const ICR_INIT: u32 = 5 << 8;
/// ICR delivery mode: start-up.
pub const ICR_STARTUP: u32 = 6 << 8;
/// ICR delivery status (xAPIC mode only): send pending.
pub const ICR_PENDING: u32 = 1 << 12;
/// ICR destination shorthand: self.
pub const ICR_SELF: u32 = 1 << 18;
/// ICR destination shorthand: all including self.
pub const ICR_ALL: u32 = 2 << 18;
/// ICR destination shorthand: all excluding self.
pub const ICR_OTHERS: u32 = 3 << 18;

/// Register offsets, from the SDM's "Local APIC Register Address Map".
#[expect(missing_docs, reason = "the names are the manual's")]
pub mod register {
    pub const ID: u16 = 0x20;
    pub const VERSION: u16 = 0x30;
    pub const TPR: u16 = 0x80;
    pub const PPR: u16 = 0xA0;
    pub const EOI: u16 = 0xB0;
    pub const LDR: u16 = 0xD0;
    pub const DFR: u16 = 0xE0;
    pub const SVR: u16 = 0xF0;
    pub const ISR: u16 = 0x100;
    pub const TMR: u16 = 0x180;
    pub const IRR: u16 = 0x200;
    pub const ESR: u16 = 0x280;
    pub const ICR_LOW: u16 = 0x300;
    pub const ICR_HIGH: u16 = 0x310;
    pub const LVT_TIMER: u16 = 0x320;
    pub const LVT_LINT0: u16 = 0x350;
    pub const LVT_LINT1: u16 = 0x360;
    pub const LVT_ERROR: u16 = 0x370;
    pub const INITIAL_COUNT: u16 = 0x380;
    pub const CURRENT_COUNT: u16 = 0x390;
    pub const DIVIDE: u16 = 0x3E0;
    /// SELF IPI: x2APIC mode only.
    pub const SELF_IPI: u16 = 0x3F0;
}

/// Whether the APIC is in x2APIC mode.
#[must_use]
pub fn is_x2apic() -> bool {
    cpu::read_msr(APIC_BASE_MSR) & BASE_X2APIC != 0
}

/// The MSR of a register in x2APIC mode.
#[must_use]
pub const fn x2apic_msr(register: u16) -> u32 {
    0x800 + (register >> 4) as u32
}

/// Reads a register in the mode the APIC is in.
#[must_use]
pub fn read(register: u16) -> u32 {
    if is_x2apic() {
        return cpu::read_msr(x2apic_msr(register)) as u32;
    }
    // SAFETY: the xAPIC page holds registers, not memory.
    unsafe { mmio_read(XAPIC_ADDRESS + u64::from(register)) }
}

/// Writes a register in the mode the APIC is in.
pub fn write(register: u16, value: u32) {
    if is_x2apic() {
        // SAFETY: every vector the APIC can deliver has a gate.
        unsafe { cpu::write_msr(x2apic_msr(register), u64::from(value)) };
    } else {
        // SAFETY: the xAPIC page holds registers, and every vector the APIC can deliver has a gate.
        unsafe { mmio_write(XAPIC_ADDRESS + u64::from(register), value) };
    }
}

/// Software-enables the APIC with both LINT pins masked: no interrupts from the PIC.
pub fn enable() {
    write(register::SVR, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(register::LVT_LINT0, MASKED);
    write(register::LVT_LINT1, MASKED);
}

/// Software-enables the APIC with LINT0 as ExtINT (the PIC) and LINT1 as NMI: the "virtual wire" of a PC.
pub fn enable_virtual_wire() {
    write(register::SVR, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(register::LVT_LINT0, DELIVERY_EXTINT);
    write(register::LVT_LINT1, DELIVERY_NMI);
}

/// Goes to x2APIC mode, where the APIC is not in it yet.
pub fn enter_x2apic() {
    let base = cpu::read_msr(APIC_BASE_MSR);
    if base & BASE_X2APIC == 0 {
        // SAFETY: the APIC keeps its state, and every vector it can deliver has a gate.
        unsafe { cpu::write_msr(APIC_BASE_MSR, base | BASE_ENABLE | BASE_X2APIC) };
    }
}

/// This processor's APIC ID.
#[must_use]
pub fn own_id() -> u32 {
    let id = read(register::ID);
    if is_x2apic() { id } else { id >> 24 }
}

/// Writes the ICR: `command` to `destination`, which is an APIC ID or, with [`ICR_LOGICAL`], a logical one. A
/// handler that also sends must not interrupt the sender in xAPIC mode, where the ICR is written in two halves.
pub fn send_ipi(destination: u32, command: u32) {
    if is_x2apic() {
        let icr = u64::from(destination) << 32 | u64::from(command);
        // SAFETY: every vector has a gate, and whoever starts a processor has prepared for that.
        return unsafe { cpu::write_msr(x2apic_msr(register::ICR_LOW), icr) };
    }
    write(register::ICR_HIGH, destination << 24);
    write(register::ICR_LOW, command);
}

/// End of interrupt.
pub fn end_of_interrupt() {
    write(register::EOI, 0);
}

/// Whether `vector`'s bit is set in the 256-bit register that starts at `first` (ISR, TMR or IRR).
#[must_use]
pub fn vector_bit(first: u16, vector: u8) -> bool {
    read(first + u16::from(vector / 32) * 0x10) & 1 << (vector % 32) != 0
}

/// Reads an IOAPIC register.
#[must_use]
pub fn ioapic_read(index: u8) -> u32 {
    // SAFETY: the two addresses are the IOAPIC's IOREGSEL and IOWIN, not memory.
    unsafe {
        mmio_write(IOAPIC_ADDRESS, u32::from(index));
        mmio_read(IOAPIC_ADDRESS + 0x10)
    }
}

/// Writes an IOAPIC register.
pub fn ioapic_write(index: u8, value: u32) {
    // SAFETY: as in `ioapic_read`; every vector the IOAPIC can send has a gate.
    unsafe {
        mmio_write(IOAPIC_ADDRESS, u32::from(index));
        mmio_write(IOAPIC_ADDRESS + 0x10, value);
    }
}

/// Reads a device register.
///
/// # Safety
/// `address` must be 4-byte aligned, below 4 GiB and not RAM, or RAM that nothing else uses.
#[must_use]
pub unsafe fn mmio_read(address: u64) -> u32 {
    // SAFETY: the caller vouches for the address; memory below 4 GiB is identity mapped.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a device register.
///
/// # Safety
/// As [`mmio_read`].
pub unsafe fn mmio_write(address: u64, value: u32) {
    // SAFETY: the caller vouches for the address; memory below 4 GiB is identity mapped.
    unsafe { (address as *mut u32).write_volatile(value) };
}
