//! Where a PC's board puts its devices and their interrupts.

/// First byte of the I/O APIC's page.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// First byte behind it.
pub const IOAPIC_END: u64 = IOAPIC_BASE + 0x1000;

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
