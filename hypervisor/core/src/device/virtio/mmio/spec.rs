//! The registers of a virtio device in memory ("Virtio Over MMIO", "MMIO Device Register Layout"), version 2. All are
//! 32 bits wide; the device-specific configuration space follows them.

use bitflags::bitflags;

/// MagicValue (read).
pub const MAGIC_VALUE: u32 = 0x000;
/// Version (read).
pub const VERSION: u32 = 0x004;
/// DeviceID (read).
pub const DEVICE_ID: u32 = 0x008;
/// VendorID (read).
pub const VENDOR_ID: u32 = 0x00c;
/// DeviceFeatures (read): 32 of the bits that the device offers, by [`DEVICE_FEATURES_SEL`].
pub const DEVICE_FEATURES: u32 = 0x010;
/// DeviceFeaturesSel (write).
pub const DEVICE_FEATURES_SEL: u32 = 0x014;
/// DriverFeatures (write): 32 of the bits that the driver accepts, by [`DRIVER_FEATURES_SEL`].
pub const DRIVER_FEATURES: u32 = 0x020;
/// DriverFeaturesSel (write).
pub const DRIVER_FEATURES_SEL: u32 = 0x024;
/// QueueSel (write): the queue that the other queue registers are about.
pub const QUEUE_SEL: u32 = 0x030;
/// QueueNumMax (read): 0 if there is no such queue.
pub const QUEUE_NUM_MAX: u32 = 0x034;
/// QueueNum (write).
pub const QUEUE_NUM: u32 = 0x038;
/// QueueReady (read, write).
pub const QUEUE_READY: u32 = 0x044;
/// QueueNotify (write): the index of the queue in which buffers wait.
pub const QUEUE_NOTIFY: u32 = 0x050;
/// InterruptStatus (read).
pub const INTERRUPT_STATUS: u32 = 0x060;
/// InterruptACK (write): clears the bits that are set in the value.
pub const INTERRUPT_ACK: u32 = 0x064;
/// Status (read, write); a write of 0 resets the device.
pub const STATUS: u32 = 0x070;
/// QueueDescLow (write).
pub const QUEUE_DESC_LOW: u32 = 0x080;
/// QueueDescHigh (write).
pub const QUEUE_DESC_HIGH: u32 = 0x084;
/// QueueDriverLow (write): the available ring.
pub const QUEUE_DRIVER_LOW: u32 = 0x090;
/// QueueDriverHigh (write).
pub const QUEUE_DRIVER_HIGH: u32 = 0x094;
/// QueueDeviceLow (write): the used ring.
pub const QUEUE_DEVICE_LOW: u32 = 0x0a0;
/// QueueDeviceHigh (write).
pub const QUEUE_DEVICE_HIGH: u32 = 0x0a4;
/// SHMLenLow (read).
pub const SHM_LEN_LOW: u32 = 0x0b0;
/// SHMBaseHigh (read), the last of four shared memory registers.
pub const SHM_BASE_HIGH: u32 = 0x0bc;
/// ConfigGeneration (read): changes whenever the device changes its configuration space.
pub const CONFIG_GENERATION: u32 = 0x0fc;
/// The configuration space, up to the end of the device's page.
pub const CONFIG: u32 = 0x100;

/// MagicValue: "virt".
pub const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// Version of the register layout.
pub const VERSION_2: u32 = 2;
/// VendorID: whoever made the device; drivers show it.
pub const VENDOR: u32 = u32::from_le_bytes(*b"LMNA");
/// "Reading from a non-existent region [...] results in a length of -1", and a base of all-ones.
pub const NO_SHARED_MEMORY: u32 = u32::MAX;

bitflags! {
    /// InterruptStatus.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Interrupts: u32 {
        /// Used buffer notification.
        const USED_BUFFER = 1 << 0;
        /// Configuration change notification.
        const CONFIG_CHANGE = 1 << 1;
    }
}
