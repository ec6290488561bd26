//! [`for_each_record`]: the fixed-size records in a buffer, however the driver cut it into descriptors.

use super::super::{Queue, QueueError};
use crate::device::virtio::queue::Chain;
use crate::memory::GuestMemory;

/// How much is copied out of the guest's memory at once.
const PIECE_LEN: usize = 256;

/// Calls `take` for each whole record of `LEN` bytes in what the device may read of the buffer. "The device MUST NOT
/// make assumptions about the particular arrangement of descriptors": a record may lie across two of them. Bytes behind
/// the last whole record are ignored.
///
/// # Errors
/// [`QueueError::Broken`] for a chain that cannot be followed, that is not in RAM, or that holds more than `len_max`
/// bytes, before the part at fault; `take` may have been called for those before it.
pub(super) fn for_each_record<const LEN: usize>(
    queue: &Queue,
    mut chain: Chain,
    len_max: u32,
    memory: &mut dyn GuestMemory,
    mut take: impl FnMut([u8; LEN], &mut dyn GuestMemory),
) -> Result<(), QueueError> {
    let mut left_max = len_max;
    let (mut record, mut filled) = ([0; LEN], 0);
    while let Some(segment) = queue.segment(&mut chain, memory)? {
        if segment.writable {
            continue;
        }
        left_max = left_max
            .checked_sub(segment.len_bytes)
            .ok_or(QueueError::Broken("a buffer longer than this device takes"))?;
        let mut gpa = segment.gpa;
        let mut left = usize::try_from(segment.len_bytes).unwrap_or(0);
        while left > 0 {
            let mut piece = [0; PIECE_LEN];
            let len = left.min(PIECE_LEN);
            let bytes = piece.get_mut(..len).unwrap_or_default();
            memory.read(gpa, bytes)?;
            for byte in bytes {
                if let Some(place) = record.get_mut(filled) {
                    *place = *byte;
                }
                filled += 1;
                if filled == LEN {
                    take(record, memory);
                    filled = 0;
                }
            }
            left -= len;
            gpa =
                gpa.checked_add(len as u64).ok_or(QueueError::Broken("a buffer that ends beyond the address space"))?;
        }
    }
    Ok(())
}
