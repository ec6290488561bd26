//! What all virtio devices share ("Basic Facilities of a Virtio Device", "Split Virtqueues", "Reserved Feature Bits").

use bitflags::bitflags;

bitflags! {
    /// Device status field.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Status: u32 {
        /// ACKNOWLEDGE: "the guest OS has found the device and recognized it as a valid virtio device".
        const ACKNOWLEDGE = 1;
        /// DRIVER: "the guest OS knows how to drive the device".
        const DRIVER = 2;
        /// DRIVER_OK: "the driver is set up and ready to drive the device".
        const DRIVER_OK = 4;
        /// FEATURES_OK: "the driver has acknowledged all the features it understands, and feature negotiation is
        /// complete".
        const FEATURES_OK = 8;
        /// DEVICE_NEEDS_RESET: "the device has experienced an error from which it can't recover".
        const DEVICE_NEEDS_RESET = 64;
        /// FAILED: "something went wrong in the guest, and it has given up on the device".
        const FAILED = 128;
    }
}

impl Status {
    /// What the driver can set: all but the device's own bit.
    pub const DRIVERS: Self = Self::all().difference(Self::DEVICE_NEEDS_RESET);
}

/// VIRTIO_F_VERSION_1: "compliance with this specification, giving a simple way to detect legacy devices or drivers".
pub const F_VERSION_1: u64 = 1 << 32;

/// Device ID of the traditional memory balloon.
pub const DEVICE_BALLOON: u32 = 5;

/// Bytes of a descriptor: address (8), length (4), flags (2), next (2).
pub const DESCRIPTOR_LEN: u64 = 16;
/// VIRTQ_DESC_F_NEXT: the buffer continues in the descriptor `next`.
pub const DESC_F_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE: the device writes this part (else it reads it).
pub const DESC_F_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT: a table of descriptors; only with VIRTIO_F_INDIRECT_DESC.
pub const DESC_F_INDIRECT: u16 = 4;

/// Offset of `idx` in the available and in the used ring, behind the 16 bits of flags.
pub const RING_IDX: u64 = 2;
/// Offset of the entries in the available and in the used ring.
pub const RING_ENTRIES: u64 = 4;
/// Bytes of an entry in the available ring: the head of a descriptor chain.
pub const AVAIL_ENTRY_LEN: u64 = 2;
/// Bytes of an entry in the used ring: the head of the chain (4), how many bytes were written into it (4).
pub const USED_ENTRY_LEN: u64 = 8;
/// VIRTQ_AVAIL_F_NO_INTERRUPT: the driver wants no interrupt for used buffers.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Alignment of the descriptor table.
pub const DESC_ALIGN: u64 = 16;
/// Alignment of the available ring.
pub const AVAIL_ALIGN: u64 = 2;
/// Alignment of the used ring.
pub const USED_ALIGN: u64 = 4;
