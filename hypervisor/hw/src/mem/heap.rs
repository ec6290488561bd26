//! The hypervisor's heap: one contiguous range, fixed at boot.

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory.
///
/// # Safety
/// `start..start + len_bytes` must be mapped writable, unused, and the heap's for good. To be called once.
pub(crate) unsafe fn init(start: *mut u8, len_bytes: usize) {
    // SAFETY: forwarded to the caller.
    unsafe { HEAP.lock().init(start, len_bytes) };
}

/// (bytes in use, bytes in all).
#[must_use]
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.used(), heap.size())
}
