//! Where a PC's board puts its devices and their interrupts.

/// First byte of the I/O APIC's page.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// First byte behind it.
pub const IOAPIC_END: u64 = IOAPIC_BASE + 0x1000;

/// First byte of the memory balloon's registers (virtio-mmio), where the VM has one: among the fixed devices that the
/// memory map reserves below 4 GiB, behind the I/O APIC and the place of a PC's HPET, before the local APIC.
pub const BALLOON_BASE: u64 = 0xfed1_0000;
/// First byte behind them: a device has a page of its own, so that a guest can map it alone.
pub const BALLOON_END: u64 = BALLOON_BASE + 0x1000;
/// The I/O APIC input of the memory balloon, its global system interrupt: level-triggered, active high, the first that
/// is no ISA interrupt.
pub const BALLOON_PIN: u8 = 16;

/// The ID of the I/O APIC of a VM with `vcpus` vCPUs, whose local APICs have the IDs from 0 on: the first that is none
/// of theirs. It has 4 bits; where none is left it is 0, as chipsets without an APIC bus have it.
#[must_use]
pub const fn ioapic_id(vcpus: u32) -> u8 {
    match vcpus.to_le_bytes() {
        [id @ 0..=15, 0, 0, 0] => id,
        _ => 0,
    }
}

/// RAM beyond this length is not below 4 GiB but above.
pub const LOW_RAM_LIMIT: u64 = 3 << 30;

/// ISA interrupt of the PIT.
pub const PIT_IRQ: u8 = 0;
/// ISA interrupt of COM1.
pub const COM1_IRQ: u8 = 4;
/// ISA interrupt of the RTC.
pub const RTC_IRQ: u8 = 8;
/// The SCI.
pub const SCI_IRQ: u8 = 9;
/// The I/O APIC input of [`PIT_IRQ`] (an interrupt source override in the MADT says so); all others have their own number.
pub const PIT_PIN: u8 = 2;

/// The port to which firmware writes its progress, and guests to wait a microsecond.
pub const POST_CODE: u16 = 0x80;
