//! The one way to a guest's memory: copies, never references.
//!
//! Guest RAM changes under our feet (other vCPUs, and the guest after every entry), so it is never a
//! Rust reference. Whoever needs it copies bytes out, decides, and copies bytes in.

use super::GuestPhysAddr;
use alloc::vec::Vec;
use thiserror::Error;

/// Why a copy from or to guest memory did not happen. Nothing was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MemoryError {
    /// Some byte of the range is not RAM of this guest.
    #[error("guest-physical {gpa} + {len_bytes:#x} bytes is not in the guest's RAM")]
    OutsideRam {
        /// Start of the range.
        gpa: GuestPhysAddr,
        /// Length of the range in bytes.
        len_bytes: u64,
    },
    /// The host has no free frame to back the page with.
    #[error("no free host memory to back guest-physical {gpa}")]
    OutOfFrames {
        /// The page that could not be backed.
        gpa: GuestPhysAddr,
    },
}

/// A guest's physical memory as a device, a loader or the instruction decoder sees it.
pub trait GuestMemory {
    /// Copies `bytes.len()` bytes out of guest memory from `gpa` on. RAM never touched before reads as zero.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`] if any byte is not RAM.
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies `bytes` into guest memory from `gpa` on, backing pages as needed.
    ///
    /// # Errors
    /// [`MemoryError::OutsideRam`], or [`MemoryError::OutOfFrames`] when the host's memory is used up.
    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError>;

    /// The guest gives the 4 KiB page that holds `gpa` away, with what is in it: from now on it may read as zero, and
    /// from [`GuestMemory::flush_discards`] on it does. It is RAM as before: the next touch backs it again. What is no
    /// RAM is ignored.
    ///
    /// By default nothing happens: for memory that cannot give frames back, the page keeps what is in it.
    fn discard(&mut self, gpa: GuestPhysAddr) {
        let _ = gpa;
    }

    /// Ends a row of [`GuestMemory::discard`]s, before the guest is told that they are done: where dropping a
    /// translation takes other CPUs, it can be done here for all of them at once.
    fn flush_discards(&mut self) {}

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u64(&self, gpa: GuestPhysAddr) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    fn read_u32(&self, gpa: GuestPhysAddr) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// Guest memory in a plain vector, from guest-physical 0 on: for tests of whatever takes a [`GuestMemory`].
#[derive(Clone, Debug)]
pub struct FlatMemory {
    bytes: Vec<u8>,
}

impl FlatMemory {
    /// `len_bytes` bytes of zeroed memory.
    #[must_use]
    pub fn new(len_bytes: usize) -> Self {
        Self { bytes: alloc::vec![0; len_bytes] }
    }

    fn range(&self, gpa: GuestPhysAddr, len: usize) -> Result<core::ops::Range<usize>, MemoryError> {
        let outside = MemoryError::OutsideRam { gpa, len_bytes: len as u64 };
        let start = usize::try_from(gpa.0).map_err(|_| outside)?;
        let end = start.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or(outside)?;
        Ok(start..end)
    }
}

impl GuestMemory for FlatMemory {
    fn read(&self, gpa: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, bytes.len())?;
        bytes.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, gpa: GuestPhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, bytes.len())?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}
