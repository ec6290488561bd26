//! [`GuestStats`]: what a guest tells about its memory.

use super::spec::*;

/// The guest's own figures, each `None` if it did not tell it. They are its word: to be shown and weighed, not trusted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GuestStats {
    /// Bytes of memory that it has (without the balloon, with most drivers).
    pub total_bytes: Option<u64>,
    /// Bytes that it uses for nothing.
    pub free_bytes: Option<u64>,
    /// Bytes that it could give to a program without swapping.
    pub available_bytes: Option<u64>,
    /// Bytes in caches that it could drop.
    pub cache_bytes: Option<u64>,
    /// Bytes swapped in since it started.
    pub swapped_in_bytes: Option<u64>,
    /// Bytes swapped out since it started.
    pub swapped_out_bytes: Option<u64>,
    /// Page faults that waited for the disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
}

impl GuestStats {
    /// Takes one entry of a statistics buffer. "Unknown tags" are passed over; so is all-ones, which drivers send for
    /// what they do not know.
    pub(super) fn take(&mut self, entry: [u8; STAT_LEN]) {
        let [t0, t1, v0, v1, v2, v3, v4, v5, v6, v7] = entry;
        let value = u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
        let value = (value != u64::MAX).then_some(value);
        match u16::from_le_bytes([t0, t1]) {
            S_SWAP_IN => self.swapped_in_bytes = value,
            S_SWAP_OUT => self.swapped_out_bytes = value,
            S_MAJFLT => self.major_faults = value,
            S_MINFLT => self.minor_faults = value,
            S_MEMFREE => self.free_bytes = value,
            S_MEMTOT => self.total_bytes = value,
            S_AVAIL => self.available_bytes = value,
            S_CACHES => self.cache_bytes = value,
            _ => {}
        }
    }
}
