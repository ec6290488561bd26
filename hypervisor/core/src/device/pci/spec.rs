//! PCI configuration space: mechanism #1 (PCI Local Bus Specification, "Configuration Mechanism #1") and the registers of the
//! host bridge (82441FX PMC datasheet, "PCI Configuration Space Mapped Registers").

/// CONFIG_ADDRESS. "Anything other than a Dword access is treated as a normal I/O access."
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// First byte of CONFIG_DATA.
pub const CONFIG_DATA: u16 = 0xcfc;
/// Last byte of CONFIG_DATA.
pub const CONFIG_DATA_END: u16 = 0xcff;

/// CONFIG_ADDRESS: accesses to CONFIG_DATA become configuration cycles.
pub const ADDRESS_ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the bits that keep what is written (bits 30:24 are reserved, 1:0 are 0).
pub const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;
/// CONFIG_ADDRESS: bus, device and function.
pub const ADDRESS_FUNCTION: u32 = 0x00ff_ff00;

/// Intel.
pub const HOST_BRIDGE_VENDOR: u16 = 0x8086;
/// 82441FX PCI and Memory Controller (PMC): a host bridge that every guest knows and that needs no driver.
pub const HOST_BRIDGE_DEVICE: u16 = 0x1237;

/// The stepping that most emulators show.
pub const HOST_BRIDGE_REVISION: u8 = 0x02;
/// Offset of PCICMD's low byte.
pub const COMMAND_LOW: usize = 0x04;
/// Offset of PCICMD's high byte.
pub const COMMAND_HIGH: usize = 0x05;
/// PCICMD: memory access and bus mastering, which "cannot be disabled".
pub const COMMAND_FIXED: u8 = 0x06;
/// PCICMD, low byte: parity error enable.
pub const COMMAND_LOW_WRITABLE: u8 = 1 << 6;
/// PCICMD, high byte: SERR# enable.
pub const COMMAND_HIGH_WRITABLE: u8 = 1 << 0;
/// PCISTS: fast back-to-back (bit 7), medium DEVSEL# timing (bits 10:9).
pub const STATUS_FIXED: u16 = 0x0280;
/// Class code of a host bridge: programming interface, sub-class, base class.
pub const CLASS_HOST_BRIDGE: [u8; 3] = [0x00, 0x00, 0x06];
/// Offset of the master latency timer.
pub const LATENCY_TIMER: usize = 0x0d;
/// The latency timer's bits that keep what is written ("bits 2:0 are reserved and read as 0").
pub const LATENCY_TIMER_WRITABLE: u8 = 0xf8;
