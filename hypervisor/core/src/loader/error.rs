//! [`LoadError`]: why an image was not loaded, one line each for the person who configured the VM.

use super::layout::HIGH_MEMORY;
use crate::memory::{GuestPhysAddr, MemoryError};
use thiserror::Error;

/// Why a guest image was not loaded. The guest's memory is then half written: the VM is to be thrown away.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Less memory than a PC's first MiB.
    #[error(
        "memory of {memory_len_bytes} bytes is too little for any guest: give it at least {HIGH_MEMORY} bytes (1 MiB)"
    )]
    MemoryTooSmall {
        /// What was configured.
        memory_len_bytes: u64,
    },
    /// A number of vCPUs that the tables for the guest cannot express.
    #[error("{vcpus} vCPUs cannot be described to a guest: 1 to {} are allowed", super::MAX_VCPUS)]
    VcpuCount {
        /// What was configured.
        vcpus: u32,
    },
    /// A command line with a NUL byte.
    #[error("the {what} has a NUL byte, which would end it early: take it out")]
    NulInText {
        /// Which text.
        what: &'static str,
    },
    /// An option that this image format has no use for.
    #[error("{format} images take no {option}: remove it, or choose another format")]
    NotTaken {
        /// The image's format.
        format: &'static str,
        /// The option.
        option: &'static str,
    },
    /// Nothing that a detector knows.
    #[error(
        "not a kernel image that can be detected: looked for `HdrS` at 0x202 (Linux bzImage), an ELF file with a PVH note \
         (XEN_ELFNOTE_PHYS32_ENTRY) and a multiboot 1 header in the first 8192 bytes; for a raw binary set the format to \
         flat16, flat32 or flat64"
    )]
    Undetected,
    /// The image ends too early.
    #[error("the image is cut short: {what} needs {needed} bytes, the image has {len} bytes; get a complete file")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// The length at which it would be complete.
        needed: u64,
        /// The length of the image.
        len: u64,
    },
    /// Something has to be where no RAM is.
    #[error(
        "the {what} must be at guest-physical {gpa} to {}, which is not all RAM of this guest (its RAM below 4 GiB ends at \
         {ram_end}): give it more memory or link it elsewhere", GuestPhysAddr(gpa.0.saturating_add(*len_bytes))
    )]
    OutsideRam {
        /// What was to be placed.
        what: &'static str,
        /// Where.
        gpa: GuestPhysAddr,
        /// How many bytes.
        len_bytes: u64,
        /// Where RAM below 4 GiB ends.
        ram_end: GuestPhysAddr,
    },
    /// Two things have to be at the same place.
    #[error(
        "the {what} at guest-physical {gpa} ({len_bytes:#x} bytes) overlaps the {other} at {other_gpa}: link it elsewhere"
    )]
    Overlap {
        /// What was to be placed.
        what: &'static str,
        /// Where.
        gpa: GuestPhysAddr,
        /// How many bytes.
        len_bytes: u64,
        /// What is there.
        other: &'static str,
        /// Where it begins.
        other_gpa: GuestPhysAddr,
    },
    /// No free RAM for something that could be anywhere.
    #[error(
        "no room for the {what} ({len_bytes} bytes) in the guest's free RAM below {below}: give the guest more memory"
    )]
    NoRoom {
        /// What was to be placed.
        what: &'static str,
        /// How many bytes.
        len_bytes: u64,
        /// Where it must end at the latest.
        below: GuestPhysAddr,
    },
    /// A Linux kernel without a usable boot protocol.
    #[error("{0}")]
    Linux(#[from] super::linux::LinuxError),
    /// An ELF file that cannot be loaded.
    #[error("{0}")]
    Elf(#[from] super::elf::ElfError),
    /// A multiboot header that cannot be honoured.
    #[error("{0}")]
    Multiboot(#[from] super::multiboot::MultibootError),
    /// A flat image whose addresses do not fit its mode.
    #[error("{what} {gpa} is out of reach for a {format} image: it must be below {limit}")]
    OutOfReach {
        /// Which address.
        what: &'static str,
        /// Its value.
        gpa: GuestPhysAddr,
        /// The image's format.
        format: &'static str,
        /// The end of what that mode reaches.
        limit: GuestPhysAddr,
    },
    /// The guest's memory could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
